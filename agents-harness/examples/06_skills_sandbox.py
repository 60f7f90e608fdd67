"""An agent with a skill: instructions and a script, which it finds in its workspace and uses from the shell."""

import asyncio

import _path  # noqa: F401
import docker
from agents import RunConfig, Runner
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.capabilities import Skill
from agents.sandbox.entries import File
from agents.sandbox.sandboxes.docker import DockerSandboxClient, DockerSandboxClientOptions

from harness import gemini_flash
from harness.chat_completions_sandbox import chat_completions_capabilities

POEM = b"""\
The lighthouse blinks, the harbour sleeps,
a gull keeps watch on the wall.
"""

COUNT = b"""\
import sys

for name in sys.argv[1:]:
    with open(name) as file:
        print(f"{name} has {len(file.read().split())} words")
"""

WORD_COUNT = Skill(
    name="word-count",
    description="Counts the words of text files.",
    content="Run `python3 scripts/count.py FILE...`, by the script's full path, and pass on what it prints.",
    scripts={"count.py": File(content=COUNT)},
)


async def main() -> None:
    agent = SandboxAgent(
        name="Counter",
        instructions="Use the skills that you have, by the shell.",
        model=gemini_flash(),
        default_manifest=Manifest(entries={"poem.txt": File(content=POEM)}),
        capabilities=chat_completions_capabilities(skills=[WORD_COUNT]),
    )
    sandbox = SandboxRunConfig(
        client=DockerSandboxClient(docker.from_env()),
        options=DockerSandboxClientOptions(image="python:3.14-slim", network_mode="none"),
    )
    question = "How long is poem.txt? Use the word-count skill."
    result = await Runner.run(agent, question, run_config=RunConfig(sandbox=sandbox))
    print(result.final_output)


asyncio.run(main())

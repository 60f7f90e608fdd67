"""An agent that edits a file with shell commands. Whatever it says, the file itself is looked at afterwards."""

import asyncio
from pathlib import Path

import _path  # noqa: F401
import docker
from agents import RunConfig, Runner
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.entries import File
from agents.sandbox.sandboxes.docker import DockerSandboxClient, DockerSandboxClientOptions

from harness import gemini_flash
from harness.chat_completions_sandbox import chat_completions_capabilities

WORKSPACE = Manifest(entries={"hello.py": File(content=b'print("Hello, wrold!")\n')})


async def main() -> None:
    agent = SandboxAgent(
        name="Editor",
        instructions="Work in the workspace with the shell. Edit files with commands such as sed, and run them.",
        model=gemini_flash(),
        capabilities=chat_completions_capabilities(),
    )
    client = DockerSandboxClient(docker.from_env())
    # A session of our own outlives the run, so that we can see what the agent has left behind.
    session = await client.create(
        manifest=WORKSPACE,
        options=DockerSandboxClientOptions(image="python:3.14-slim", network_mode="none"),
    )
    try:
        async with session:
            result = await Runner.run(
                agent,
                "Correct the spelling mistake in hello.py, then run it.",
                run_config=RunConfig(sandbox=SandboxRunConfig(session=session)),
            )
            print(result.final_output)
            with await session.read(Path("hello.py")) as file:
                print("hello.py is now:", file.read().decode().strip())
    finally:
        await client.delete(session)


asyncio.run(main())

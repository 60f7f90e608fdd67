"""An agent with a shell in a container of its own, which reads a file of its workspace."""

import asyncio

import _path  # noqa: F401
import docker
from agents import RunConfig, Runner
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.entries import File
from agents.sandbox.sandboxes.docker import DockerSandboxClient, DockerSandboxClientOptions

from harness import gemini_flash
from harness.chat_completions_sandbox import chat_completions_capabilities

WORKSPACE = Manifest(entries={"launch.md": File(content=b"The boat is launched on 3 May. Grace has the keys.\n")})


async def main() -> None:
    agent = SandboxAgent(
        name="Reader",
        instructions="Look into the workspace with the shell before you answer. Quote what you have found.",
        model=gemini_flash(),
        default_manifest=WORKSPACE,
        capabilities=chat_completions_capabilities(),
    )
    sandbox = SandboxRunConfig(
        client=DockerSandboxClient(docker.from_env()),
        options=DockerSandboxClientOptions(image="python:3.14-slim", network_mode="none"),
    )
    result = await Runner.run(agent, "Who has the keys? See launch.md.", run_config=RunConfig(sandbox=sandbox))
    print(result.final_output)


asyncio.run(main())

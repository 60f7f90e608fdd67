"""The smallest agent: one question, one answer."""

import asyncio

import _path  # noqa: F401
from agents import Agent, Runner

from harness import gemini_flash


async def main() -> None:
    agent = Agent(name="Greeter", instructions="Answer in one short sentence.", model=gemini_flash())
    result = await Runner.run(agent, "Say hello and name the model you are.")
    print(result.final_output)


asyncio.run(main())

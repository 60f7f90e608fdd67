"""An agent that calls a Python function. With `--pro` on the thinking model."""

import asyncio
import sys

import _path  # noqa: F401
from agents import Agent, Runner, function_tool

from harness import gemini_flash, gemini_pro


@function_tool
def add(a: int, b: int) -> int:
    """Add two integers and return the sum."""
    return a + b


async def main() -> None:
    agent = Agent(
        name="Calculator",
        instructions="Use the `add` tool for every sum. Then answer with one sentence: The sum is N.",
        model=gemini_pro() if "--pro" in sys.argv else gemini_flash(),
        tools=[add],
    )
    result = await Runner.run(agent, "What is 2024 plus 1776?")
    print(result.final_output)


asyncio.run(main())

"""Words as they come."""

import asyncio

import _path  # noqa: F401
from agents import Agent, Runner
from openai.types.responses import ResponseTextDeltaEvent

from harness import gemini_flash


async def main() -> None:
    agent = Agent(name="Storyteller", instructions="Be vivid.", model=gemini_flash())
    result = Runner.run_streamed(agent, "Describe a rainy evening in three paragraphs.")
    async for event in result.stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            print(event.data.delta, end="", flush=True)
    print()


asyncio.run(main())

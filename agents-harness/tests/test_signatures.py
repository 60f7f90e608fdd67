"""Tools on Gemini 3, which wants back the signature that it has put beside a call.

The SDK gives signatures back only to models whose name contains "gemini"; for `pro-preview` the gateway has to.
"""

import asyncio

import pytest
from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool
from conftest import gateway
from openai import AsyncOpenAI, BadRequestError

PRINTED = {
    "cat hello.py": 'print("Hello, wrold!")',
    "sed -i 's/wrold/world/' hello.py": "",
    "python3 hello.py": "Hello, world!",
}


@function_tool
def add(a: int, b: int) -> int:
    """Add two integers and return the sum."""
    return a + b


@function_tool
def exec_command(cmd: str) -> str:
    """Run a shell command."""
    return PRINTED[cmd]


# A name, what is asked, and what comes of it when every step has worked.
TURNS = {
    "one call": ("What is 2024 plus 1776?", "The sum is 3800."),
    "two calls at once": ("[emulator:parallel-calls] Add 1 plus 2, and 3 plus 4.", "The sum is 3. The sum is 7."),
    "three steps": (
        "Correct the spelling mistake in hello.py, then run it.",
        "I corrected the spelling in hello.py. It now prints: Hello, world!",
    ),
}
of_every_turn = pytest.mark.parametrize("question, answer", TURNS.values(), ids=TURNS)
whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def ask(variables, model, question, stream):
    async def run():
        where = {"base_url": variables["AI_API_BASE"], "api_key": variables["API_KEY"]}
        async with AsyncOpenAI(**where, max_retries=0) as client:
            agent = Agent(
                name="Tester",
                model=OpenAIChatCompletionsModel(model=model, openai_client=client),
                tools=[add, exec_command],
            )
            if not stream:
                return (await Runner.run(agent, question)).final_output
            result = Runner.run_streamed(agent, question)
            async for _ in result.stream_events():
                pass
            return result.final_output

    return asyncio.run(run())


@pytest.fixture(scope="module")
def without_keeper():
    with gateway(THOUGHT_SIGNATURES="off", MODEL_GEMINI_PRO_ID="google/gemini-3.1-pro-preview") as variables:
        yield variables


@of_every_turn
@whole_and_streamed
@pytest.mark.parametrize("model", ["flash", "pro-preview"])
def test_turns_with_tools_work(dev, model, question, answer, stream):
    assert ask(dev, model, question, stream) == answer


@of_every_turn
@whole_and_streamed
def test_pro_fails_without_the_keeper(without_keeper, question, answer, stream):
    with pytest.raises(BadRequestError, match="is missing a `thought_signature`"):
        ask(without_keeper, "pro-preview", question, stream)


@of_every_turn
@whole_and_streamed
def test_a_name_with_gemini_in_it_needs_no_keeper(without_keeper, question, answer, stream):
    assert ask(without_keeper, "gemini-pro", question, stream) == answer

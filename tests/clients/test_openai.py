"""The stock `openai` package against the gateway."""

import asyncio
import json
import time

import openai
import pytest

from gateway import GREETING, Gateway, assert_one_by_one

HI = [{"role": "user", "content": "Say hi."}]
STORY = [{"role": "user", "content": "Tell me a story about a rainy evening."}]
SUM = {"role": "user", "content": "What is 2024 plus 1776?"}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}
MODELS = ["flash", "pro-preview"]


def user(text):
    return [{"role": "user", "content": text}]


def text_of(chunk):
    return chunk.choices[0].delta.content or ""


def test_lists_models(client):
    models = client.models.list().data
    assert [(model.id, model.vertex_id, model.object, model.owned_by) for model in models] == [
        ("flash", "google/gemini-2.5-flash", "model", "google"),
        ("pro-preview", "google/gemini-3.1-pro-preview", "model", "google"),
    ]


@pytest.mark.parametrize("alias", MODELS)
def test_retrieves_a_model(client, alias):
    model = client.models.retrieve(alias)
    assert model.id == alias
    assert model in client.models.list().data


def test_retrieves_no_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("alias", MODELS)
def test_chats(client, alias):
    answer = client.chat.completions.create(model=alias, messages=HI)
    assert answer.choices[0].message.content == GREETING
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0


def test_is_configured_by_what_the_banner_exports(gateway, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", gateway.base)
    monkeypatch.setenv("OPENAI_API_KEY", gateway.key)
    with openai.OpenAI(max_retries=0) as client:
        assert client.chat.completions.create(model="flash", messages=HI).choices[0].message.content == GREETING


def test_streams(client):
    whole = client.chat.completions.create(model="flash", messages=STORY)
    chunks, arrivals = [], []
    for chunk in client.chat.completions.create(model="flash", messages=STORY, stream=True):
        arrivals.append(time.monotonic())
        chunks.append(chunk)
    assert "".join(map(text_of, chunks)) == whole.choices[0].message.content
    assert_one_by_one(arrivals)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert [chunk for chunk in chunks if chunk.usage] == chunks[-1:]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def plain_call(client, alias, messages):
    """The message with a function call, as the next request has to bring it back."""
    answer = client.chat.completions.create(model=alias, messages=messages, tools=[ADD])
    assert answer.choices[0].finish_reason == "tool_calls"
    return answer.choices[0].message.model_dump(exclude_none=True)


def streamed_call(client, alias, messages):
    """The same from a stream."""
    calls = {}
    for chunk in client.chat.completions.create(model=alias, messages=messages, tools=[ADD], stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            call = calls.setdefault(piece.index, {"type": "function", "function": {"name": "", "arguments": ""}})
            call["id"] = piece.id or call["id"]
            call["function"]["name"] += piece.function.name or ""
            call["function"]["arguments"] += piece.function.arguments or ""
            call.update(piece.model_extra)
        finish_reason = chunk.choices[0].finish_reason
    assert finish_reason == "tool_calls"
    return {"role": "assistant", "tool_calls": [calls[index] for index in sorted(calls)]}


def answer_calls(message):
    """Does what the model asked for."""
    results = []
    for call in message["tool_calls"]:
        assert call["function"]["name"] == "add"
        arguments = json.loads(call["function"]["arguments"])
        assert set(arguments) == {"a", "b"}
        results.append({"role": "tool", "tool_call_id": call["id"], "content": str(sum(arguments.values()))})
    return results


@pytest.mark.parametrize("asked", [plain_call, streamed_call])
@pytest.mark.parametrize("alias", MODELS)
def test_calls_a_tool(strict_client, alias, asked):
    message = asked(strict_client, alias, [SUM])
    (call,) = message["tool_calls"]
    if alias == "pro-preview":
        assert call["extra_content"]["google"]["thought_signature"]
    messages = [SUM, message, *answer_calls(message)]
    answer = strict_client.chat.completions.create(model=alias, messages=messages, tools=[ADD])
    assert answer.choices[0].message.content == "The sum is 3800."


def test_calls_two_tools_at_once(strict_client):
    question = user(SUM["content"] + " [emulator:parallel-calls]")
    message = plain_call(strict_client, "pro-preview", question)
    assert len(message["tool_calls"]) == 2
    messages = [*question, message, *answer_calls(message)]
    answer = strict_client.chat.completions.create(model="pro-preview", messages=messages, tools=[ADD])
    # One sentence for each result.
    assert answer.choices[0].message.content.count("The sum is ") == 2


def without_signature(client, asked):
    """A conversation with a call whose signature the client has lost."""
    message = asked(client, "pro-preview", [SUM])
    del message["tool_calls"][0]["extra_content"]
    return {"model": "pro-preview", "messages": [SUM, message, *answer_calls(message)], "tools": [ADD]}


@pytest.mark.parametrize("asked", [plain_call, streamed_call])
def test_may_lose_a_thought_signature(client, asked):
    answer = client.chat.completions.with_raw_response.create(**without_signature(client, asked))
    assert answer.parse().choices[0].message.content == "The sum is 3800."
    assert answer.headers["x-ai-proxy-thought-signatures"] == "kept=1, skipped=0"


def test_is_told_that_a_thought_signature_is_missing(strict_client):
    with pytest.raises(openai.BadRequestError, match="is missing a `thought_signature`"):
        strict_client.chat.completions.create(**without_signature(strict_client, plain_call))


def test_is_told_that_the_key_is_wrong(connection):
    connection["api_key"] = "sk_live_not_one_of_the_issued_keys"
    with openai.OpenAI(**connection) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="flash", messages=HI)
    assert caught.value.status_code == 401
    assert caught.value.code == "invalid_api_key"
    assert "missing or invalid API key" in caught.value.message
    assert connection["api_key"] not in str(caught.value)
    assert connection["api_key"] not in caught.value.response.text


@pytest.mark.parametrize("model", ["no-such-model", "google/gemini-2.5-flash"])
def test_is_told_that_the_model_is_unknown(client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=HI)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    for alias in MODELS:
        assert alias in caught.value.message


def test_is_told_what_upstream_refuses(client):
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="flash", messages=user("[emulator:rate-limited]"))
    assert "Resource exhausted" in caught.value.message


def test_is_told_that_a_stream_broke(gateway, client):
    stream = client.chat.completions.create(model="flash", messages=user("[emulator:cut]"), stream=True)
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "upstream_broke"
    assert gateway.outcome_of(stream.response.headers["x-request-id"]) == "upstream_broke"


def test_is_not_disturbed_by_comments():
    """A stream that is silent for some seconds, twice, with a comment for each second of it."""
    gateway = Gateway(SSE_KEEPALIVE_SECONDS="1")
    try:
        quiet = openai.OpenAI(base_url=gateway.base, api_key=gateway.key, max_retries=0)
        messages = user("[emulator:pauses]")
        with quiet.chat.completions.with_streaming_response.create(model="flash", messages=messages, stream=True) as answer:
            raw = b"".join(answer.iter_bytes())
        assert raw.count(b": keep-alive\n\n") >= 4, raw
        stream = quiet.chat.completions.create(model="flash", messages=messages, stream=True)
        assert "".join(map(text_of, stream)) == GREETING
        assert gateway.outcome_of(stream.response.headers["x-request-id"]) == "completed"
    finally:
        gateway.stop()


def test_cancels_a_stream(gateway, client):
    with client.chat.completions.create(model="flash", messages=STORY, stream=True) as stream:
        assert text_of(next(stream)) and text_of(next(stream))
    assert gateway.outcome_of(stream.response.headers["x-request-id"]) == "client_hung_up"


def test_gives_up_waiting(gateway, client):
    before = gateway.log_length()
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="flash", messages=user("[emulator:slow]"), timeout=0.5)
    line = gateway.wait_for_log(lambda line: line.get("outcome") == "client_hung_up", after=before)
    assert line["status"] is None


def test_works_asynchronously(gateway, connection):
    async def work():
        async with openai.AsyncOpenAI(**connection) as client:
            assert [model.id async for model in client.models.list()] == MODELS
            answer = await client.chat.completions.create(model="flash", messages=HI)
            assert answer.choices[0].message.content == GREETING
            stream = await client.chat.completions.create(model="flash", messages=HI, stream=True)
            assert "".join([text_of(chunk) async for chunk in stream]) == GREETING
            with pytest.raises(openai.RateLimitError, match="Resource exhausted"):
                await client.chat.completions.create(model="flash", messages=user("[emulator:rate-limited]"))
            stream = await client.chat.completions.create(model="flash", messages=STORY, stream=True)
            async for chunk in stream:
                break
            await stream.close()
            return stream.response.headers["x-request-id"]

    assert gateway.outcome_of(asyncio.run(work())) == "client_hung_up"


def test_streams_fifty_at_a_time(connection):
    count = 50

    async def work():
        begun, all_begun = 0, asyncio.Event()

        async def one(client):
            nonlocal begun
            stream = await client.chat.completions.create(model="flash", messages=STORY, stream=True)
            text = text_of(await anext(stream))
            begun += 1
            if begun == count:
                all_begun.set()
            # Nobody reads on before everybody has begun: one after the other they would never get there.
            await asyncio.wait_for(all_begun.wait(), connection["timeout"])
            return text + "".join([text_of(chunk) async for chunk in stream])

        async with openai.AsyncOpenAI(**connection) as client:
            whole = await client.chat.completions.create(model="flash", messages=STORY)
            texts = await asyncio.gather(*(one(client) for _ in range(count)))
            assert texts == [whole.choices[0].message.content] * count

    asyncio.run(work())

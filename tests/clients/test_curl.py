"""curl against the gateway: what `dev` tells people to paste, and what the SDKs do not show."""

import json
import os
import shutil
import subprocess
import time

import pytest

from gateway import GREETING, PATIENCE, assert_one_by_one

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def paste(commands, **environment):
    """What a person sees who pastes this into a fresh shell."""
    return subprocess.run(
        ["bash", "-eu"],
        input=commands,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=PATIENCE,
        check=True,
    ).stdout


def events(text):
    """The data of each event of a stream."""
    frames = text.split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith("data: ") for frame in frames)
    return [frame.removeprefix("data: ") for frame in frames]


def test_commands_of_the_banner(gateway):
    told, separator, commands = gateway.banner.partition("Paste into another terminal:\n")
    assert separator, gateway.banner
    assert gateway.base in told and gateway.key in told
    output = paste(commands)
    answer, end = json.JSONDecoder().raw_decode(output)
    assert answer["choices"][0]["message"]["content"] == GREETING
    *chunks, done = events(output[end:].lstrip())
    assert done == "[DONE]"
    assert "".join(json.loads(chunk)["choices"][0]["delta"]["content"] for chunk in chunks) == GREETING


@pytest.mark.parametrize("header", ["x-api-key: $API_KEY", "Authorization: Bearer $API_KEY"])
def test_both_ways_to_present_a_key(gateway, header):
    commands = f'curl -sS -i "$AI_API_BASE/models" -H "{header}"'
    head, _, body = paste(commands, AI_API_BASE=gateway.base, API_KEY=gateway.key).partition("\n\n")
    assert head.startswith("HTTP/1.1 200 ")
    assert "x-request-id: " in head
    assert [model["id"] for model in json.loads(body)["data"]] == ["flash", "pro-preview"]


def test_is_refused_without_a_key(gateway):
    head, _, body = paste(f"curl -sS -i {gateway.base}/models").partition("\n\n")
    assert head.startswith("HTTP/1.1 401 ")
    assert "www-authenticate: Bearer" in head
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


def test_health_needs_no_key(gateway):
    root = gateway.base.removesuffix("/v1")
    commands = f"for path in health healthz readyz; do curl -sS -f {root}/$path; echo; done"
    health, healthz, ready = map(json.loads, paste(commands).splitlines())
    assert health == healthz == {"ok": True, "models": ["flash", "pro-preview"]}
    assert ready == {"ready": True}


def test_large_body_with_expect(gateway, tmp_path):
    # curl asks for `100 Continue` before it sends this much.
    body = tmp_path / "body.json"
    message = {"role": "user", "content": "Say hi."}
    body.write_text(json.dumps({"model": "flash", "padding": "x" * 3_000_000, "messages": [message]}))
    commands = 'curl -sS "$AI_API_BASE/chat/completions" -H "x-api-key: $API_KEY" -H expect:100-continue --data-binary @"$BODY"'
    output = paste(commands, AI_API_BASE=gateway.base, API_KEY=gateway.key, BODY=str(body))
    assert json.loads(output)["choices"][0]["message"]["content"] == GREETING


def test_shows_a_stream_as_it_comes(gateway):
    body = {"model": "flash", "stream": True, "messages": [{"role": "user", "content": "Tell me a story."}]}
    command = ["curl", "-sSN", f"{gateway.base}/chat/completions", "-H", f"x-api-key: {gateway.key}", "-d", json.dumps(body)]
    arrivals = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        for line in curl.stdout:
            if line != b"\n":
                arrivals.append(time.monotonic())
    assert curl.returncode == 0
    assert_one_by_one(arrivals)

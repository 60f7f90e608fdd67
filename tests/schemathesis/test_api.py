"""The API is what /openapi.json says: Schemathesis asks what nobody would write, and judges each answer by the document."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gateway import PATIENCE, Gateway

HERE = Path(__file__).resolve().parent
KEY = "sk_live_schemathesis-0123456789"
# The limits are there for their headers, and larger than what a run can use up.
KEYS = [{"id": "schemathesis", "key": KEY, "metrics": True, "rpm": 100_000, "tokens_per_day": 10**15}]
# A run takes a quarter of a minute; this is for a machine that is busy otherwise.
RUN_SECONDS = 240


@pytest.fixture(scope="module")
def gateway():
    gateway = Gateway(API_KEYS_JSON=json.dumps(KEYS), PLAYGROUND="on")
    yield gateway
    assert gateway.stop() == 0, "the gateway did not stop cleanly"
    assert not gateway.stray


@pytest.fixture(scope="module")
def origin(gateway):
    return gateway.base.removesuffix("/v1")


@pytest.fixture(scope="module")
def document(origin):
    with urllib.request.urlopen(f"{origin}/openapi.json", timeout=PATIENCE) as answer:
        return json.load(answer)


def test_answers_are_as_described(gateway, origin, document, tmp_path):
    # With the key only where the document asks for one: the rest has to do without.
    config = tmp_path / "schemathesis.toml"
    auth = '[auth.openapi]\nxApiKey = { api_key = "${KEY}" }\nbearer = { bearer = "${KEY}" }\n'
    config.write_text((HERE / "schemathesis.toml").read_text(encoding="utf-8") + "\n" + auth, encoding="utf-8")
    # From a file: a document's own address would not be tried.
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(document), encoding="utf-8")
    program = Path(sys.executable).parent / "schemathesis"
    command = [program, f"--config-file={config}", "run", str(described), f"--url={origin}"]
    # Its parts are found by name; it calls nobody but the gateway.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KEY": KEY, "NO_PROXY": "127.0.0.1", "NO_COLOR": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    print(run.stdout, run.stderr)
    assert KEY not in run.stdout
    assert run.returncode == 0
    # All of it was tried, and much.
    operations = sum(len(methods.keys() & {"get", "head", "post"}) for methods in document["paths"].values())
    assert re.search(rf"Tested: {operations}$", run.stdout, re.MULTILINE)
    assert int(re.search(r"(\d+) generated", run.stdout)[1]) > 1000
    lines = [line for line in gateway.log_lines() if "httpRequest" in line]
    assert len(lines) > 1000
    assert {line["outcome"] for line in lines} <= {"completed", "rejected", "client_hung_up", "ended_without_done"}
    chats = [line["status"] for line in lines if line["httpRequest"]["requestUrl"] == "/v1/chat/completions"]
    assert chats.count(200) > 20, "chats that came as far as the model"


def test_every_status_and_code_of_a_chat_is_one_that_is_described(document):
    """What Schemathesis cannot make happen: the table of codes in src/error.rs."""
    source = (HERE.parent.parent / "src/error.rs").read_text(encoding="utf-8")
    codes = re.findall(r'=> \((\d+), "(\w+)"\)', source)
    text = json.dumps(document)
    # These two never come to a path of the API: another port, another protocol.
    missing = [code for status, code in codes if f"`{code}`" not in text and code not in ("https_required", "http_version_not_supported")]
    assert codes and missing == []
    described = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    for status, code in codes:
        if status not in ("405", "505") and code not in ("https_required", "not_found"):
            assert status in described, f"{status} {code}"

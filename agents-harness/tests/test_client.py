"""Where the client finds its settings, and what it says when it does not."""

import shutil
import subprocess
import sys

import pytest
from conftest import HARNESS

TELL = "import harness; client = harness.gemini_flash()._client; print(client.base_url, client.api_key)"


@pytest.fixture
def tell(tmp_path):
    """Runs Python beside a copy of the harness, so that no `.env` but the test's own is read."""
    shutil.copytree(HARNESS / "harness", tmp_path / "harness")

    def run(code=TELL, file="", **variables):
        (tmp_path / ".env").write_text(file)
        return subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, encoding="utf-8"
        )

    return run


def test_settings_are_found(tell):
    own = {"AIAGGIES_BASE_URL": "http://own/v1", "AIAGGIES_API_KEY": "own"}
    common = {"AI_API_BASE": "http://common/v1", "API_KEY": "common"}
    as_file = "".join(f"{name}={value}\n" for name, value in own.items())
    assert tell(**own).stdout == "http://own/v1/ own\n"
    assert tell(**common).stdout == "http://common/v1/ common\n"
    assert tell(**common, **own).stdout == "http://own/v1/ own\n"
    assert tell(**common, AIAGGIES_BASE_URL="", AIAGGIES_API_KEY="").stdout == "http://common/v1/ common\n"
    assert tell(file=as_file).stdout == "http://own/v1/ own\n"
    # The environment wins over the file, by whichever name.
    assert tell(file=as_file, **common).stdout == "http://common/v1/ common\n"


@pytest.mark.parametrize(
    "variables, named, unnamed",
    [
        ({}, ["AIAGGIES_BASE_URL", "AI_API_BASE", "AIAGGIES_API_KEY", "API_KEY"], []),
        ({"AI_API_BASE": "http://x/v1"}, ["AIAGGIES_API_KEY", "API_KEY"], ["BASE"]),
        ({"AIAGGIES_API_KEY": "secret"}, ["AIAGGIES_BASE_URL", "AI_API_BASE"], ["KEY", "secret"]),
    ],
)
def test_what_is_missing_is_named_in_one_line(tell, variables, named, unnamed):
    process = tell(**variables)
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1
    assert all(name in process.stderr for name in named)
    assert not any(name in process.stderr for name in unnamed)


def test_settings_are_not_needed_before_a_model_is(tell):
    process = tell("import harness")
    assert (process.returncode, process.stderr) == (0, "")


def test_models_share_a_client_and_nothing_is_traced(tell):
    code = """
import agents, harness
flash, pro = harness.gemini_flash(), harness.gemini_pro()
assert (flash.model, pro.model) == ("flash", "pro-preview")
assert flash._client is pro._client
assert type(agents.trace("x")).__name__ == "NoOpTrace"
"""
    process = tell(code, AI_API_BASE="http://x/v1", API_KEY="x")
    assert (process.returncode, process.stderr) == (0, "")

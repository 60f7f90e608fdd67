"""What the tests of recipes share: two gateways, and readers of pages."""

import os
import signal
import sys
from pathlib import Path

import pytest

from gateway import ROOT, Gateway
from pages import Session
from recorder import Recorder

HERE = Path(__file__).resolve().parent
DOCS = ROOT / "docs/clients"
# Newest packages for Node want 22, which stands here whatever the machine's is.
NODE_MODULES = HERE / "node_modules"
# Programs that stand elsewhere, and what to say where they do not.
PROGRAMS = {
    "aider": (HERE / "aider/.venv/bin/aider", "it needs Python 3.10 to 3.12"),
    "opencode": (NODE_MODULES / "opencode-linux-x64/bin/opencode", "its package here is for Linux on x64"),
}

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

# Agents start slowly on a busy machine, and the emulator writes at a model's pace.
PATIENCE = 120

# What keeps programs from asking the world on the side; no recipe needs it.
QUIET = {
    "AIDER_ANALYTICS_DISABLE": "true",
    "AIDER_CHECK_UPDATE": "false",
    "AIDER_SHOW_RELEASE_NOTES": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "true",
    "OPENCODE_DISABLE_AUTOUPDATE": "true",
    "OPENCODE_DISABLE_MODELS_FETCH": "true",
    "GIT_AUTHOR_NAME": "A Reader",
    "GIT_AUTHOR_EMAIL": "reader@example.com",
    "GIT_COMMITTER_NAME": "A Reader",
    "GIT_COMMITTER_EMAIL": "reader@example.com",
}


def pytest_configure():
    # So that a test run that is told to stop leaves as it does otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def running(**settings):
    gateway = Gateway(MODEL_GEMINI_PRO_ID="google/gemini-3.1-pro-preview", **settings)
    yield gateway
    assert gateway.stop() == 0, "the gateway did not stop cleanly"


@pytest.fixture(scope="session")
def gateway():
    yield from running()


@pytest.fixture(scope="session")
def gateway_without_keeper():
    yield from running(THOUGHT_SIGNATURES="off")


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """Makes one who reads a page at a gateway."""

    programs = tmp_path_factory.mktemp("programs")
    for name, (program, _) in PROGRAMS.items():
        (programs / name).symlink_to(program)

    def reader(page, gateway, node_modules=NODE_MODULES, replace=()):
        return Session(
            page,
            tmp_path_factory.mktemp(page.stem),
            gateway,
            path=[programs, NODE_MODULES / ".bin"],
            node_modules=node_modules,
            patience=PATIENCE,
            environment=QUIET,
            replace=replace,
        )

    return reader


@pytest.fixture(scope="session")
def recorded(reader, gateway):
    """For each page one reader, and the recorder that stands between them and the gateway."""
    sessions = {}

    def recorded(page):
        if page not in sessions:
            recorder = Recorder(gateway)
            sessions[page] = reader(page, recorder), recorder
        return sessions[page]

    yield recorded
    for _, recorder in sessions.values():
        recorder.stop()

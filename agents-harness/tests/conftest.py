"""`ai-proxy dev` for the tests to run against, and what they need of the machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parent.parent
PROGRAM = Path(os.environ.get("AI_PROXY") or HARNESS.parent / "target/debug/ai-proxy").resolve()
IMAGE = "python:3.14-slim"

# A gateway that works is there at once; this is for a busy machine.
START_SECONDS = 30

sys.path.insert(0, str(HARNESS))
# A request to the machine itself never goes through a proxy.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
# A test run that is told to stop takes its gateways along.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextmanager
def gateway(**settings: str) -> Iterator[dict[str, str]]:
    """A running gateway: the variables that its banner says to export."""
    process = subprocess.Popen(
        [PROGRAM, "dev"],
        # Nothing of the caller's environment changes what is tested.
        env={"PATH": os.environ["PATH"], "PORT": "0", "SHUTDOWN_GRACE_SECONDS": "1", **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        signal.signal(signal.SIGALRM, lambda *_: process.kill())
        signal.alarm(START_SECONDS)
        lines = iter(process.stdout.readline, "")
        found = next(filter(None, (re.search(r"AI_API_BASE='(.+?)' API_KEY='(.+?)'", line) for line in lines)), None)
        signal.alarm(0)
        assert found, f"{PROGRAM} dev has said no address"
        yield {"AI_API_BASE": found[1], "API_KEY": found[2]}
    finally:
        process.terminate()
        # What it has logged is read, so that it is never kept waiting.
        process.communicate(timeout=START_SECONDS)


@pytest.fixture(scope="session")
def dev() -> Iterator[dict[str, str]]:
    with gateway() as variables:
        yield variables


@pytest.fixture(scope="session")
def container_engine() -> None:
    """Skips, by name, where there is no engine or no image; with REQUIRE_ALL=1 that is a failure."""
    reason = missing_for_containers()
    if reason and os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def missing_for_containers() -> str | None:
    if not shutil.which("docker"):
        return "docker is not installed"
    for command, reason in (
        (["docker", "info"], "no Docker engine answers"),
        (["docker", "image", "inspect", IMAGE], f"no image {IMAGE}"),
    ):
        if subprocess.run(command, capture_output=True).returncode:
            return reason
    return None

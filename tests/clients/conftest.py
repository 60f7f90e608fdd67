"""What the tests share."""

import os
import signal
import sys

import openai
import pytest

from gateway import PATIENCE, Gateway

# A request to the machine itself never goes through a proxy.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

# These have packages of their own, and a run of their own.
collect_ignore = ["recipes"]

# The longest test streams for a few seconds.
TEST_SECONDS = 120


def pytest_configure():
    # So that a test run that is told to stop leaves as it does otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@pytest.fixture(autouse=True)
def in_time():
    """No test hangs."""

    def give_up(*_):
        raise TimeoutError(f"the test took longer than {TEST_SECONDS} seconds")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)


@pytest.fixture(scope="session")
def gateway():
    running = Gateway()
    yield running
    assert running.stop() == 0, "the gateway did not stop cleanly"
    assert not running.stray


@pytest.fixture(scope="session")
def gateway_without_keeper():
    running = Gateway(THOUGHT_SIGNATURES="off")
    yield running
    assert running.stop() == 0, "the gateway did not stop cleanly"


def connection_to(gateway):
    """What a client is made with. Without retries: a test that passes at the second try has failed."""
    return {"base_url": gateway.base, "api_key": gateway.key, "max_retries": 0, "timeout": PATIENCE}


@pytest.fixture
def connection(gateway):
    return connection_to(gateway)


@pytest.fixture
def client(connection):
    with openai.OpenAI(**connection) as client:
        yield client


@pytest.fixture
def client_without_keeper(gateway_without_keeper):
    with openai.OpenAI(**connection_to(gateway_without_keeper)) as client:
        yield client

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


def running(**settings):
    gateway = Gateway(**settings)
    yield gateway
    assert gateway.stop() == 0, "the gateway did not stop cleanly"
    assert not gateway.stray


def connected_to(gateway):
    """What a client is made with. Without retries: a test that passes at the second try has failed."""
    return {"base_url": gateway.base, "api_key": gateway.key, "max_retries": 0, "timeout": PATIENCE}


@pytest.fixture(scope="session")
def gateway():
    yield from running()


@pytest.fixture(scope="session")
def strict_gateway():
    """One that puts no thought signatures in: a client has to bring them back."""
    yield from running(THOUGHT_SIGNATURES="off")


@pytest.fixture
def connection(gateway):
    return connected_to(gateway)


@pytest.fixture
def client(connection):
    with openai.OpenAI(**connection) as client:
        yield client


@pytest.fixture
def strict_client(strict_gateway):
    with openai.OpenAI(**connected_to(strict_gateway)) as client:
        yield client

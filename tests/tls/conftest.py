"""What the tests of TLS share."""

import os
import signal
import sys

import pytest

from authority import Door, Names

# A request to the machine itself never goes through a proxy.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

# The longest test waits for a certificate to be renewed.
TEST_SECONDS = 180


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


@pytest.fixture
def names():
    names = Names()
    yield names
    names.close()


@pytest.fixture
def door():
    door = Door()
    yield door
    door.close()

"""The examples, each as a person runs it."""

import os
import subprocess
import sys

import pytest
from conftest import HARNESS

# Starting a container, its commands, and the ten seconds that Docker gives it to stop.
EXAMPLE_SECONDS = 180


def run(variables, script, *arguments):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "NO_PROXY", "DOCKER_HOST") if name in os.environ}
    process = subprocess.run(
        [sys.executable, f"examples/{script}", *arguments],
        cwd=HARNESS,
        env={**kept, **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=EXAMPLE_SECONDS,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def test_01_hello_agent(dev):
    assert run(dev, "01_hello_agent.py") == "Hello, I am the emulator in place of google/gemini-2.5-flash.\n"


def test_02_agent_with_tool(dev):
    assert run(dev, "02_agent_with_tool.py") == "The sum is 3800.\n"


def test_02_agent_with_tool_on_pro(dev):
    assert run(dev, "02_agent_with_tool.py", "--pro") == "The sum is 3800.\n"


def test_03_streaming(dev):
    story = run(dev, "03_streaming.py")
    assert story.startswith("The first drops came with the dusk")
    assert story.endswith("put the town to sleep.\n")
    assert len(story.split("\n\n")) == 3


@pytest.mark.usefixtures("container_engine")
def test_04_sandbox_docker(dev):
    said = run(dev, "04_sandbox_docker.py")
    assert said == "launch.md says: The boat is launched on 3 May. Grace has the keys.\n"


@pytest.mark.usefixtures("container_engine")
def test_05_shell_edit(dev):
    said, file = run(dev, "05_shell_edit.py").splitlines()
    assert said.endswith("It now prints: Hello, world!")
    assert file == 'hello.py is now: print("Hello, world!")'


@pytest.mark.usefixtures("container_engine")
def test_06_skills_sandbox(dev):
    assert run(dev, "06_skills_sandbox.py") == "By the word-count skill: poem.txt has 13 words.\n"


def test_every_example_is_tested():
    scripts = {path.name[:2] for path in (HARNESS / "examples").glob("[0-9]*.py")}
    assert scripts == {name.split("_")[1] for name in globals() if name.startswith("test_0")}

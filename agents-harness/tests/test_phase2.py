"""PHASE2.md, sentence against sentence. No container is needed: what fails, fails before any command."""

import asyncio
import re

import pytest
from agents import OpenAIChatCompletionsModel, RunConfig, Runner, UserError
from agents.sandbox import SandboxAgent, SandboxRunConfig
from agents.sandbox.capabilities import Capabilities, Compaction, Filesystem, Shell, Skill
from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient
from conftest import HARNESS
from openai import AsyncOpenAI

from harness.chat_completions_sandbox import chat_completions_capabilities

SKILL = Skill(name="greeting", description="Greets.", content="Say hi.")


@pytest.fixture
def ask(dev):
    """What an agent with these capabilities answers."""

    async def run(capabilities):
        async with AsyncOpenAI(base_url=dev["AI_API_BASE"], api_key=dev["API_KEY"], max_retries=0) as client:
            model = OpenAIChatCompletionsModel(model="flash", openai_client=client)
            agent = SandboxAgent(name="Tester", model=model, capabilities=capabilities)
            sandbox = SandboxRunConfig(client=UnixLocalSandboxClient())
            return (await Runner.run(agent, "Say hi.", run_config=RunConfig(sandbox=sandbox))).final_output

    return lambda capabilities: asyncio.run(run(capabilities))


def documented(name):
    """The message that the document gives under this name."""
    text = (HARNESS / "PHASE2.md").read_text()
    found = re.search(rf"<!-- test: {name} -->\n```text\n(.+?)\n```", text, re.DOTALL)
    assert found, f"PHASE2.md has no block {name}"
    kind, message = found[1].replace("\n", " ").removesuffix("…").split(": ", 1)
    return kind, message


@pytest.mark.parametrize("capabilities", [Capabilities.default, lambda: [Filesystem()]])
def test_filesystem_fails(ask, capabilities):
    with pytest.raises(UserError) as raised:
        ask(capabilities())
    kind, message = documented("filesystem")
    assert type(raised.value).__name__ == kind
    assert str(raised.value).startswith(message)


def test_compaction_fails(ask):
    with pytest.raises(TypeError) as raised:
        ask([Shell(), Compaction()])
    assert ("TypeError", str(raised.value)) == documented("compaction")


@pytest.mark.parametrize("skills", [[], [SKILL]])
def test_shell_and_skills_work(ask, skills):
    capabilities = chat_completions_capabilities(skills)
    assert [capability.type for capability in capabilities] == ["shell", "skills"][: 1 + len(skills)]
    assert ask(capabilities) == "Hi there! How can I help you today?"

"""What a `SandboxAgent` can do over Chat Completions. Why not more: PHASE2.md."""

from collections.abc import Sequence

from agents.sandbox.capabilities import Capability, Shell, Skill, Skills


def chat_completions_capabilities(skills: Sequence[Skill] = ()) -> list[Capability]:
    """A shell, and skills where there are any: in place of the SDK's defaults, which Chat Completions cannot carry."""
    capabilities: list[Capability] = [Shell()]
    if skills:
        capabilities.append(Skills(skills=list(skills)))
    return capabilities

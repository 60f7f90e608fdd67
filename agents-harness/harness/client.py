"""The models of the gateway, for the OpenAI Agents SDK.

Settings are looked for in the environment, then in `.env` beside this package's folder.
"""

import os
from functools import cache
from pathlib import Path

from agents import OpenAIChatCompletionsModel, set_tracing_disabled
from dotenv import dotenv_values
from openai import AsyncOpenAI

ENV_FILE = Path(__file__).resolve().parent.parent / ".env"

# Each setting by its own name, then by the one that curl and the other clients use.
BASE_URL = ("AIAGGIES_BASE_URL", "AI_API_BASE")
API_KEY = ("AIAGGIES_API_KEY", "API_KEY")

# The SDK would send traces to OpenAI, where the gateway's key means nothing.
set_tracing_disabled(True)


class MissingSettings(SystemExit):
    """Where the gateway is, or the key, is not set. A script that does not catch it ends with the message alone."""


def gemini_flash() -> OpenAIChatCompletionsModel:
    """The fast one."""
    return OpenAIChatCompletionsModel(model="flash", openai_client=_client())


def gemini_pro() -> OpenAIChatCompletionsModel:
    """The one that thinks."""
    return OpenAIChatCompletionsModel(model="pro-preview", openai_client=_client())


@cache
def _client() -> AsyncOpenAI:
    base_url, api_key = _setting(BASE_URL), _setting(API_KEY)
    missing = [" or ".join(names) for names, value in ((BASE_URL, base_url), (API_KEY, api_key)) if not value]
    if missing:
        raise MissingSettings(f"not set, in the environment or in {ENV_FILE}: {'; '.join(missing)}")
    return AsyncOpenAI(base_url=base_url, api_key=api_key)


def _setting(names: tuple[str, ...]) -> str | None:
    """The first that is not empty; the environment goes before the file, whatever the names."""
    values = (source.get(name) for source in (os.environ, dotenv_values(ENV_FILE)) for name in names)
    return next((value for value in values if value), None)

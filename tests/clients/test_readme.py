"""The examples of README.md and docs/emulator.md, and of those recipes that need nothing but curl and OpenAI's packages."""

import re
import shutil

import pytest

from gateway import HERE, PATIENCE, ROOT
from pages import Session, examples

README = ROOT / "README.md"
PAGES = [README, ROOT / "docs/emulator.md", *(ROOT / f"docs/clients/{name}.md" for name in ("curl", "openai-python", "openai-node"))]
EXAMPLES = [pytest.param(example, id=example.id) for page in PAGES for example in examples(page)]


def test_there_are_examples_of_every_kind():
    assert {example.kind for example in examples(README)} == {"curl", "python", "node"}


@pytest.fixture(scope="module")
def session(gateway, tmp_path_factory):
    sessions = {}

    def session(page):
        if page not in sessions:
            folder = tmp_path_factory.mktemp(page.stem)
            sessions[page] = Session(page, folder, gateway, node_modules=HERE / "node_modules", patience=PATIENCE)
        return sessions[page]

    return session


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(session, example):
    for program in ("curl", "jq"):
        if re.search(rf"\b{program} ", example.source) and not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    code, output = session(example.page).result(example)
    assert code == 0
    assert (example.expected or "") in output

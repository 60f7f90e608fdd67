"""The examples of README.md, run exactly as they are written.

A comment before a fenced block makes it a test: `<!-- test: curl -->` (or `python`, or `node`). It must print the
emulator's greeting, or what the comment says: `<!-- test: curl prints "flash" -->`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import GREETING, HERE, PATIENCE, ROOT

# Kind: the block's language, the file that it becomes, and what runs that.
KINDS = {
    "curl": ("bash", "example.sh", ["bash", "-eu"]),
    "python": ("python", "example.py", ["python"]),
    "node": ("js", "example.mjs", ["node"]),
}

MARKER = re.compile(r'<!--\s*test:\s*(\w+)(?:\s+prints\s+"(.+)")?\s*-->')
BLOCK = re.compile(r"\s*^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(text):
    """Kind, heading, block's language, block's text, and what it is to print."""
    for number, marker in enumerate(MARKER.finditer(text), 1):
        kind, expected = marker.groups()
        headings = re.findall(r"^#+ (.+)$", text[: marker.start()], re.MULTILINE)
        block = BLOCK.match(text, marker.end())
        language, source = block.groups() if block else (None, None)
        yield pytest.param(kind, language, source, expected or GREETING, id=f"{number}-{kind}-{headings[-1]}")


README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
EXAMPLES = list(examples(TEXT))


def test_there_are_examples_of_every_kind():
    assert {example.values[0] for example in EXAMPLES} == set(KINDS)
    assert TEXT.count("<!-- test") == len(EXAMPLES), "a marker that is spelled wrongly"


def said(output):
    """The output, and put together what a stream said in pieces."""
    pieces = re.findall(r"^data: (\{.*\})$", output, re.MULTILINE)
    deltas = [choice["delta"] for piece in pieces for choice in json.loads(piece)["choices"]]
    return output + "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize(("kind", "language", "source", "expected"), EXAMPLES)
def test_example(gateway, tmp_path, kind, language, source, expected):
    block_language, file, command = KINDS[kind]
    assert language == block_language, f"the marker stands before a block of {language}"
    if kind == "curl" and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    (tmp_path / file).write_text(source, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    output = subprocess.run(
        [*command, file],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NO_PROXY": "127.0.0.1",
            "AI_API_BASE": gateway.base,
            "API_KEY": gateway.key,
        },
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=PATIENCE,
        check=True,
    ).stdout
    assert expected in said(output)

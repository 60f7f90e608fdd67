"""The examples of Markdown pages, run exactly as they are written.

A comment before a fenced block makes it a test:

    <!-- test: KIND [prints "TEXT"] [keeps signatures | drops signatures] -->

KIND is `curl`, `shell`, `python` or `node`: the block is run so, and must print the emulator's greeting or the TEXT. What
it says of thought signatures is shown by a gateway that does not keep them: there a block that drops them must fail.
`setup` is a shell block that must succeed, whatever it prints. `file NAME` is a block that becomes that file.

The blocks of one page run in order in one folder, which is the home folder too.
"""

import functools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway import GREETING

# Kind: the block's language, the file that it becomes, and what runs that.
KINDS = {
    "curl": ("bash", "example.sh", ["bash", "-eu"]),
    "shell": ("bash", "example.sh", ["bash", "-eu"]),
    "setup": ("bash", "example.sh", ["bash", "-eu"]),
    "python": ("python", "example.py", ["python"]),
    "node": ("js", "example.mjs", ["node"]),
}

MARKER = re.compile(
    r'<!--\s*test:\s*(?P<kind>\w+)(?:\s+(?P<file>[\w./-]+\.\w+))?(?:\s+prints\s+"(?P<expected>.+?)")?'
    r"(?:\s+(?P<signatures>keeps|drops) signatures)?\s*-->"
)
BLOCK = re.compile(r"\s*^(?P<fence>`{3,})(?P<language>\w+)\n(?P<source>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A marked block."""

    page: Path
    number: int
    heading: str
    kind: str
    file: str | None
    language: str | None
    source: str | None
    expected: str | None
    # "keeps", "drops" or nothing.
    signatures: str | None

    @property
    def id(self):
        return f"{self.page.stem}-{self.number}-{self.kind}-{self.heading}"


@functools.cache
def examples(page):
    """The marked blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for number, marker in enumerate(MARKER.finditer(text), 1):
        headings = re.findall(r"^#+ (.+)$", text[: marker.start()], re.MULTILINE)
        block = BLOCK.match(text, marker.end())
        language, source = (block["language"], block["source"]) if block else (None, None)
        kind = marker["kind"]
        expected = marker["expected"] or (None if kind in ("file", "setup") else GREETING)
        found.append(
            Example(page, number, headings[-1], kind, marker["file"], language, source, expected, marker["signatures"])
        )
    assert len(found) == text.count("<!-- test"), f"{page.name}: a marker that is spelled wrongly"
    for example in found:
        assert (example.kind == "file") == (example.file is not None), f"{example.id}: only `file` has a name, and must"
        if example.kind != "file":
            assert example.language == KINDS[example.kind][0], f"{example.id} stands before {example.language}"
    return found


class Session:
    """A reader who does what a page says from top to bottom."""

    def __init__(self, page, folder, gateway, path=(), node_modules=None, patience=30, environment=(), replace=()):
        self._examples = examples(page)
        self._folder = folder
        self._patience = patience
        # Nothing as a rule; else what this reader writes in place of what the page says.
        self._replace = dict(replace)
        self._environment = {
            "PATH": os.pathsep.join([*map(str, path), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(folder),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "AI_API_BASE": gateway.base,
            "API_KEY": gateway.key,
            **dict(environment),
        }
        self._done = []
        if node_modules:
            (folder / "node_modules").symlink_to(node_modules)

    def result(self, example):
        """What came of a block, with all before it done once: exit code and output."""
        while len(self._done) < example.number:
            self._done.append(self._run(self._examples[len(self._done)]))
        return self._done[example.number - 1]

    def only(self, example):
        """What came of a block, with nothing done before it but what it needs."""
        for earlier in self._examples[: example.number - 1]:
            if earlier.kind in ("file", "setup"):
                self._run(earlier)
        return self._run(example)

    def _run(self, example):
        source = example.source
        for old, new in self._replace.items():
            source = source.replace(old, new)
        if example.kind == "file":
            (self._folder / example.file).write_text(source, encoding="utf-8")
            return 0, ""
        _, file, command = KINDS[example.kind]
        (self._folder / file).write_text(source, encoding="utf-8")
        process = subprocess.run(
            [*command, file],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=self._patience,
            check=False,
        )
        print(f"$ {' '.join(command)} {file}  # {example.id}\n{process.stdout}")
        return process.returncode, said(process.stdout)


def said(output):
    """The output, and put together what a stream said in pieces."""
    pieces = re.findall(r"^data: (\{.*\})$", output, re.MULTILINE)
    deltas = [choice["delta"] for piece in pieces for choice in json.loads(piece)["choices"]]
    return output + "".join(delta.get("content") or "" for delta in deltas)

"""The runbook does what it says: each of its examples runs. Its commands are in test_commands.py."""

import json
import re

import pytest

from gateway import HERE, PATIENCE, ROOT
from pages import Session, examples

RUNBOOK = ROOT / "docs/runbook"
SECTIONS = sorted(RUNBOOK.glob("[0-9]*.md"))
EXAMPLES = [pytest.param(example, id=example.id) for page in SECTIONS for example in examples(page)]
BLOCK = re.compile(r"(?:^<!-- (?P<mark>.+?) -->\n)?^```(?P<language>\w+)\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)


def read(path):
    return path.read_text(encoding="utf-8")


def blocks(page):
    """Every fenced block: its mark, its language, its text."""
    found = [block.groups() for block in BLOCK.finditer(read(page))]
    assert len(found) * 2 == len(re.findall("^```", read(page), re.MULTILINE)), f"{page.name}: a block that is not seen"
    return found


def all_blocks():
    return [(page, *block) for page in [RUNBOOK / "README.md", *SECTIONS] for block in blocks(page)]


def test_sections_are_numbered_in_their_order():
    for number, page in enumerate(SECTIONS, 1):
        assert page.name.startswith(f"{number:02}-")
        assert read(page).startswith(f"# {number}. ")
    assert len(SECTIONS) >= 18


# Examples.


@pytest.fixture(scope="module")
def session(gateway, tmp_path_factory):
    sessions = {}

    def session(page):
        if page not in sessions:
            folder = tmp_path_factory.mktemp(page.stem)
            replace = {"{{base_url}}": gateway.base.removesuffix("/v1")}
            modules = HERE / "node_modules"
            sessions[page] = Session(page, folder, gateway, node_modules=modules, patience=PATIENCE, replace=replace)
        return sessions[page]

    return session


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(session, example):
    code, output = session(example.page).result(example)
    assert code == 0
    assert (example.expected or "") in output


def test_quick_start_is_that_of_the_readme():
    """What a reader of the README tries first stands in the runbook, letter for letter; and so on the start page."""
    ours = {source for _, _, source in blocks(RUNBOOK / "06-quick-start.md")}
    theirs = {language: source for mark, language, source in blocks(ROOT / "README.md") if (mark or "").startswith("test: ")}
    assert set(theirs) == {"bash", "python", "js"}
    assert set(theirs.values()) <= ours
    assert theirs["bash"].strip() in read(ROOT / "src/pages/web/splash.html").replace("{{first_alias}}", "flash")


# What is shown of files.


def test_every_block_that_is_no_command_is_looked_at():
    for page, mark, language, source in all_blocks():
        if language in ("python", "js"):
            assert mark and re.match("test: |from ", mark), f"{page.name}: {source}"
        elif language == "json":
            json.loads(source)
        elif language == "http":
            assert re.fullmatch(r"(?:[\w-]+: .+\n)+", source)
        else:
            assert language == "bash", f"{page.name}: {language}"


EXCERPTS = [(page.name, mark, source) for page, mark, _, source in all_blocks() if mark and mark.startswith("from ")]


@pytest.mark.parametrize(("page", "mark", "source"), EXCERPTS, ids=lambda value: value[:40])
def test_excerpt_stands_in_its_file(page, mark, source):
    """All lines of it, in that order."""
    lines = iter(read(ROOT / mark.removeprefix("from ")).splitlines())
    for line in source.splitlines():
        assert not line or line in lines, f"{page}: not there, or not in this order: {line}"


def test_models_of_pi():
    (shown,) = [source for _, mark, _, source in all_blocks() if mark and mark.startswith("same as pi-sandbox/models.json")]
    assert shown.replace("{{base_url}}/v1", "AI_API_BASE") == read(ROOT / "pi-sandbox/models.json")


# What it tells.


def test_it_explains_every_code():
    page = read(RUNBOOK / "15-troubleshooting.md").partition("## Codes of the gateway")[2].partition("\n## ")[0]
    codes = re.findall(r'=> \((\w+|\*status), "(\w+)"\)', read(ROOT / "src/error.rs"))
    assert len(codes) > 20
    rows = [row.split(" | ") for row in re.findall(r"^\| (.+) \|$", page, re.MULTILINE)]
    for status, code in codes:
        (row,) = [row for row in rows if f"`{code}`" in row[0]] or [None]
        assert row, f"{code} is not explained"
        assert status == "*status" or status in row[0], f"{code} is {status}"
        assert len(row) == 3 and all(row), f"{code}: what it means, and what to do"


def words_of_the_emulator():
    """The error messages of the emulator, with `{…}` for what depends on the request."""
    for source in sorted((ROOT / "emulator/src").glob("*.rs")):
        # A line that ends in a backslash goes on after the blanks of the next one.
        text = re.sub(r"\\\n\s*", "", read(source).partition("#[cfg(test)]")[0])
        for message in re.findall(r'Refusal::(?:invalid|new)\((?:[^;"]|"[A-Z_]+")*?"((?:[^"\\]|\\.)+)"', text):
            yield message
    for scenario in sorted((ROOT / "emulator/src/scenarios").rglob("*.json")):
        for message in re.findall(r'"message": "((?:[^"\\]|\\.)+)"', read(scenario)):
            yield message


def test_it_explains_every_message_of_the_emulator():
    page = read(RUNBOOK / "15-troubleshooting.md").partition("## Messages of Vertex AI")[2].partition("\n## ")[0].replace("`", "")
    messages = {message for message in words_of_the_emulator() if " " in message}
    assert len(messages) > 12, messages
    # The beginning of a message, as far as it is always the same; the page may leave its end away.
    beginnings = {re.split(r"\{|\\n|\. |[:;(] ?", message.replace("`", ""))[0].strip(" .'")[:40] for message in messages}
    assert [beginning for beginning in sorted(beginnings) if beginning not in page] == []
    # What the emulator never says, but Vertex AI does.
    for words in ("FAILED_PRECONDITION", "SERVICE_DISABLED", "BILLING_DISABLED", "CANCELLED", "INTERNAL", "DEADLINE_EXCEEDED",
                  "UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED", "The input token count"):  # fmt: skip
        assert words in page, words


def test_it_knows_every_outcome_of_the_log():
    source = re.search(r"pub enum Outcome \{(.*?)\n\}", read(ROOT / "src/access_log/mod.rs"), re.DOTALL).group(1)
    names = re.findall(r"^    (\w+),", source, re.MULTILINE)
    outcomes = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names}
    table = read(RUNBOOK / "11-operations.md").partition("| `outcome` |")[2]
    assert outcomes and outcomes <= set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_files_that_it_names_are_there():
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", read(RUNBOOK / "13-files.md"), re.MULTILINE)
    for named, told in rows:
        folders = [ROOT, *(ROOT / name for name in re.findall("`([^`]+)/`", named))]
        for name in re.findall("`([^`]+)`", named):
            assert (ROOT / name).exists(), name
        # Also those that are told of in passing, from there or from the top; a setting's `.env` is the reader's own.
        for name in re.findall(r"`([\w./-]+\.\w+|[\w-]+/)`", told):
            assert any((folder / name).exists() for folder in folders), name


def test_performance_is_what_was_counted():
    """To two digits; who makes it cheaper by more than a quarter may say so there."""
    told = [int(number.replace(",", "")) for number in re.findall(r"\d+,\d{3}", read(RUNBOOK / "18-performance.md"))]
    each = json.loads(read(ROOT / "bench/instructions.json"))["each"]
    counted = [each[name] for name in ("json_1k.plain", "json_1k.tls", "sse_event.plain", "sse_event.tls", "body_100k.plain")]
    for number, count in zip(told, counted, strict=True):
        assert count <= number * 1.05 and count >= number * 0.75, f"{number} is {count} now"


def test_diagrams_are_drawn_from_their_sources():
    import hashlib

    sources = sorted(RUNBOOK.glob("*.mmd"))
    assert len(sources) == 3
    for source in sources:
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        svg = read(source.with_suffix(".svg"))
        assert digest in svg.splitlines()[0], f"{source.name} has changed: run `make diagrams`"
        style = read(ROOT / "src/pages/web/diagram.css").strip()
        assert style in svg, "diagram.css has changed: run `make diagrams`"
        assert not re.search(r"<script|\son\w+=|style=|href=", svg)

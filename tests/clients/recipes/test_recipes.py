"""The recipes in docs/clients, done as they are written, with the packages that they tell of."""

import json
import re
import subprocess

import pytest

from conftest import DOCS, HERE, NODE_MODULES, PROGRAMS
from pages import examples
from recorder import Recorder

# pi lives in a container, and its page is tested there.
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.stem not in ("README", "pi")]
EXAMPLES = [example for page in PAGES for example in examples(page)]
TOOL_TURNS = [example for example in EXAMPLES if example.signatures]
REFUSAL = "is missing a `thought_signature`"


def by_id(items):
    return [pytest.param(item, id=item.id if hasattr(item, "id") else item.stem) for item in items]


def need(path):
    program, reason = PROGRAMS.get(path.stem, (None, None))
    if program and not program.exists():
        pytest.skip(f"{path.stem} is not installed: {reason}")


def page(name):
    return DOCS / f"{name}.md"


def tool_turns(name):
    return [example for example in TOOL_TURNS if example.page == page(name)]


@pytest.mark.parametrize("example", by_id(EXAMPLES))
def test_recipe(recorded, example):
    need(example.page)
    code, output = recorded(example.page)[0].result(example)
    assert code == 0
    assert (example.expected or "") in output


@pytest.mark.parametrize("path", by_id(PAGES))
def test_page_shows_a_chat_and_what_does_not_work(path):
    assert any(example.expected for example in examples(path))
    assert "\n## What does not work\n" in path.read_text(encoding="utf-8")


# Signatures: what a page says of them, at a gateway that does not keep them.


@pytest.mark.parametrize("example", by_id(TOOL_TURNS))
def test_signatures_are_kept_or_dropped_as_the_page_says(reader, gateway_without_keeper, example):
    need(example.page)
    code, output = reader(example.page, gateway_without_keeper).only(example)
    if example.signatures == "keeps":
        assert code == 0
        assert example.expected in output
    else:
        assert example.expected not in output
        assert REFUSAL in output


@pytest.mark.parametrize("example", by_id(TOOL_TURNS))
def test_alias_with_gemini_in_its_name(reader, gateway_without_keeper, example):
    need(example.page)
    code, output = reader(example.page, gateway_without_keeper, replace={"pro-preview": "gemini-pro"}).only(example)
    # One client looks at the name.
    helped = example.signatures == "keeps" or example.page.stem == "openai-agents-python"
    assert (REFUSAL in output) != helped
    assert (code == 0 and example.expected in output) == helped


STREAMED = '''
import asyncio


async def main():
    run = Runner.run_streamed(agent, "What is 2024 plus 1776?")
    async for event in run.stream_events():
        pass
    print(run.final_output)


asyncio.run(main())
'''


@pytest.mark.parametrize(("alias", "kept"), [("pro-preview", False), ("gemini-pro", True)])
def test_alias_with_gemini_helps_agents_when_streaming(reader, gateway_without_keeper, alias, kept):
    (example,) = tool_turns("openai-agents-python")
    plain = 'print(Runner.run_sync(agent, "What is 2024 plus 1776?").final_output)\n'
    assert plain in example.source
    session = reader(example.page, gateway_without_keeper, replace={"pro-preview": alias, plain: STREAMED})
    _, output = session.only(example)
    assert (example.expected in output) == kept
    assert (REFUSAL in output) != kept


def test_opencode_keeps_signatures_of_a_provider_called_google(reader, gateway_without_keeper):
    (example,) = tool_turns("opencode")
    need(example.page)
    replace = {'"ai-proxy": {': '"google": {', "ai-proxy/": "google/"}
    code, output = reader(example.page, gateway_without_keeper, replace=replace).only(example)
    assert code == 0
    assert example.expected in output


@pytest.fixture
def packages_of_node_20(tmp_path):
    """What `npm install` chooses on Node 20."""
    for name, version in {"ai": "ai-6", "@ai-sdk/openai-compatible": "openai-compatible-2", "zod": "zod"}.items():
        link = tmp_path / "node_modules" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(NODE_MODULES / version)
    return tmp_path / "node_modules"


def test_ai_sdk_of_node_20(reader, gateway, packages_of_node_20):
    session = reader(page("vercel-ai-sdk"), gateway, node_modules=packages_of_node_20)
    for example in examples(page("vercel-ai-sdk")):
        code, output = session.result(example)
        assert code == 0
        assert example.expected in output


@pytest.mark.parametrize(("version", "name", "kept"), [(6, "google", True), (6, "other", False), (7, "other", True)])
def test_ai_sdk_and_the_name_of_the_provider(reader, gateway_without_keeper, packages_of_node_20, version, name, kept):
    (example,) = tool_turns("vercel-ai-sdk")
    node_modules = packages_of_node_20 if version == 6 else NODE_MODULES
    replace = {'name: "google"': f'name: "{name}"'}
    session = reader(example.page, gateway_without_keeper, node_modules=node_modules, replace=replace)
    _, output = session.only(example)
    assert (example.expected in output) == kept
    assert (REFUSAL in output) != kept


# What the table of docs/clients/README.md says.

TABLE = (DOCS / "README.md").read_text(encoding="utf-8")


def cell(path, column):
    lines = [line[1:-1].split("|") for line in TABLE.splitlines() if line.startswith("|")]
    (row,) = [line for line in lines if f"]({path.name})" in line[0]]
    return row[column].strip()


@pytest.mark.parametrize("path", by_id(PAGES))
def test_every_page_has_its_row_and_sends_what_that_says(recorded, path):
    need(path)
    session, recorder = recorded(path)
    session.result(examples(path)[-1])
    sent = {name for head in recorder.heads() for name in ("authorization", "x-api-key") if name in head}
    assert recorder.heads()
    assert sent == ({"authorization", "x-api-key"} if cell(path, 2) == "either" else {cell(path, 2).strip("`").lower()})
    assert all(head.get("authorization", "Bearer ").startswith("Bearer ") for head in recorder.heads())
    # Each page has a chat that streams.
    assert re.search(r'"stream": ?true', recorder.sent())


@pytest.mark.parametrize("path", by_id(PAGES))
def test_signatures_in_the_table(path):
    said = {example.signatures for example in examples(path)}
    assert ("kept" in cell(path, 5), "dropped" in cell(path, 5)) == (
        "keeps" in said or "kept if" in cell(path, 5),
        "drops" in said,
    )


def pinned(*folders):
    """Names and versions of what is installed for the tests."""
    for folder in folders:
        for line in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines():
            if "==" in line:
                yield tuple(line.split("=="))
        if (folder / "package.json").exists():
            package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
            for name, version in {**package["dependencies"], **package.get("optionalDependencies", {})}.items():
                alias = re.fullmatch(r"npm:(.+)@(.+)", version)
                # What opencode-ai is on Linux.
                name = name.replace("opencode-linux-x64", "opencode-ai")
                yield alias.groups() if alias else (name, version)


def test_versions_in_the_table_are_those_that_were_tried():
    tried = set(pinned(HERE, HERE / "aider", HERE.parent))
    for path in PAGES:
        if path.stem != "curl":
            name, versions = re.fullmatch(r"`(.+)` (.+)", cell(path, 1)).groups()
            assert {(name, version) for version in versions.split(", ")} <= tried


@pytest.mark.parametrize("path", by_id(PAGES))
def test_what_a_page_installs_is_what_is_tried(path):
    lines = re.findall(r"^(?:pip|npm) install (?:-g )?(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for line in lines for name in line.split()} <= {name for name, _ in pinned(HERE, HERE / "aider")}


def test_curl_asks_before_it_sends_a_megabyte(reader, gateway, tmp_path):
    recorder = Recorder(gateway)
    for size, asks in ((900_000, False), (1_100_000, True)):
        body = {"model": "flash", "padding": "x" * size, "messages": [{"role": "user", "content": "Say hi."}]}
        (tmp_path / "body.json").write_text(json.dumps(body), encoding="utf-8")
        command = ["curl", "-sS", f"{recorder.base}/chat/completions", "-H", f"x-api-key: {recorder.key}"]
        output = subprocess.check_output([*command, "--data-binary", f"@{tmp_path}/body.json"], encoding="utf-8")
        assert "Hi there!" in output
        assert ("expect" in recorder.heads()[-1]) == asks
    recorder.stop()

"""What is written down agrees with what is built: variables, error codes, version, links."""

import os
import re
import subprocess

import pytest

from gateway import PROGRAM, ROOT

# Variables of clients and of the deploy scripts, which the gateway itself does not read.
FOR_OTHERS = {"AI_API_BASE", "API_KEY", "CLOUD_RUN_REGION", "CLOUD_RUN_SERVICE", "CLOUD_RUN_DOMAIN"}

NAME = re.compile(r"[A-Z][A-Z0-9]*(?:_(?:<ALIAS>|[A-Z0-9]+))*")
MARKDOWN = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {"target", "node_modules", ".venv", ".git"} & set(path.relative_to(ROOT).parts)
]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def contract(title):
    """The section of SPEC.md with this title."""
    return re.search(rf"^## \d+\. {title}$(.*?)(?=^## |\Z)", read("SPEC.md"), re.MULTILINE | re.DOTALL).group(1)


def rows(text):
    """The cells of each row of the first table."""
    lines = re.search(r"^\|.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE).group(1).splitlines()
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def in_code(cell):
    return re.findall(r"`([^`]+)`", cell)


def variables_of_table(text):
    return {name for row in rows(text) for name in in_code(row[0])}


def variables_of_help():
    help_text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    environment = help_text.partition("Environment")[2].partition("\n\n")[0]
    # Names stand at the beginning of a line or after a comma or two blanks, explanations after them.
    pieces = re.split(r"\n|, |  +", environment)
    words = {piece.split(" ")[0] for piece in pieces if piece}
    return {word for word in words if NAME.fullmatch(word)}


def variables_of_example():
    return set(re.findall(r"^#? ?([A-Z][A-Z0-9_<>]*)=", read(".env.example"), re.MULTILINE)) - FOR_OTHERS


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(variables_of_help, id="help"),
        pytest.param(lambda: variables_of_table(read("README.md").partition("\n## Settings\n")[2]), id="README.md"),
        pytest.param(variables_of_example, id=".env.example"),
    ],
)
def test_variables(told):
    promised = variables_of_table(contract("Configuration"))
    assert all(map(NAME.fullmatch, promised)), promised
    assert told() == promised


def test_defaults_of_the_example():
    defaults = {}
    for variables, default, _ in rows(contract("Configuration")):
        for name in in_code(variables):
            defaults[name] = (in_code(default) or [""])[0]
    commented_out = dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.+)$", read(".env.example"), re.MULTILINE))
    # This one has no default; the line shows its form.
    del commented_out["MODEL_ALIASES_JSON"]
    commented_out = {name: value for name, value in commented_out.items() if name not in FOR_OTHERS}
    assert commented_out
    assert commented_out == {name: defaults[name] for name in commented_out}


def test_example_is_valid_but_for_its_keys(tmp_path):
    """Nobody shall run with a key that everybody can read: the first command makes one."""
    load = f'set -a; . "{ROOT / ".env.example"}"; set +a; '
    environment = {"PATH": os.environ["PATH"], "PROGRAM": str(PROGRAM)}

    def run(commands):
        words = ["bash", "-euc", load + commands]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    refused = run('"$PROGRAM" check')
    assert refused.returncode == 64
    assert re.fullmatch(r"API_KEYS_FILE: names a file that cannot be read.*\n", refused.stderr)
    made = run('"$PROGRAM" keys new me && "$PROGRAM" check')
    assert made.returncode == 0, made.stderr


def test_error_codes():
    source = read("src/error.rs")
    built = re.findall(r'=> \((\w+|\*status), "(\w+)"\)', source)
    assert len(built) == len(re.findall(r"#\[error\(", source)), "a variant that this test does not see"
    promised = {(status, code) for status, codes, _ in rows(contract("Errors")) for code in in_code(codes)}
    assert {code for _, code in built} == {code for _, code in promised}
    fixed = {(status, code) for status, code in built if status != "*status"}
    assert fixed <= promised, fixed - promised


def test_version_has_an_entry_in_the_changelog():
    version = re.search(r'^version = "(.+)"$', read("Cargo.toml"), re.MULTILINE).group(1)
    assert re.search(rf"^## \[{re.escape(version)}\]", read("CHANGELOG.md"), re.MULTILINE)


def named_tests(text):
    """Each test that is named as `path::name`."""
    return re.findall(r"`([\w./-]+)::(\w+)`", text)


def test_promises_of_security_name_their_tests():
    promises = rows(read("SECURITY.md").partition("\n## What is promised\n")[2])
    assert promises
    for promise, tests in promises:
        assert named_tests(tests), f"no test: {promise}"
        assert len(named_tests(tests)) == len(tests.split(", ")), f"not all of these are tests: {tests}"


@pytest.mark.parametrize("path, name", sorted(set(named_tests(read("SECURITY.md")))))
def test_tests_that_security_names_exist(path, name):
    pattern = rf"^ *(async )?def {name}\(" if path.endswith(".py") else rf"#\[test\]\n( *#\[.*\]\n)* *fn {name}\("
    assert re.search(pattern, read(path), re.MULTILINE), f"{path} has no test {name}"


def anchors(text):
    """The names that headings get."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path):
    text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"

"""Every command that a page, a script or a manifest tells a reader to type is one: its program knows its words and flags.

What talks to Google Cloud is judged by the grammar of the fake gcloud of tests/deploy, where most of it is also run, in its
order (test_walk.py). A command that nothing here knows is a failure.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from gateway import PATIENCE, PROGRAM, ROOT

RUNBOOK = sorted((ROOT / "docs/runbook").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "docs/deploy.md", ROOT / "docs/tls.md", ROOT / "docs/usage.md", ROOT / "docs/emulator.md", *RUNBOOK]
SCRIPTS = [ROOT / "deploy.sh", ROOT / "teardown.sh", ROOT / "ops.sh", *sorted((ROOT / "deploy").glob("*.sh"))]
MANIFESTS = sorted((ROOT / "deploy").glob("*.yaml"))
BLOCK = re.compile(r"(?:^<!-- (?P<mark>.+?) -->\n)?^```bash\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
# What the gateway fills in, and what readers and scripts put in the place of variables.
FILLED = {
    "{{base_url}}": "https://ai.example.com", "{{location}}": "global", "$PROJECT": "my-project", "$REGION": "us-central1",
    "$DOMAIN": "ai.example.com",
}  # fmt: skip
OF_SCRIPTS = {
    "project": "my-project", "region": "us-central1", "service": "ai-proxy", "domain": "ai.example.com", "number": "123456789012",
    "secret": "ai-proxy-api-keys",
}  # fmt: skip
# Command: how many words after it, flags; those that take a value in the next word end in a blank.
KUBECTL = {
    "create namespace": (1, set()),
    "create secret generic": (1, {"--namespace=", "--from-file="}),
    "apply": (0, {"-f "}),
    "logs": (1, set()),
}
DOCKER = {
    "build": (1, {"--tag "}),
    "run": (
        None,
        {"--rm", "--publish ", "--env ", "--volume ", "--read-only", "--cap-drop ", "--security-opt ", "--user "},
    ),
}
# Where an emulator listens unless it is told otherwise.
EMULATOR = "127.0.0.1:8090"
PRICES = '{"date": "2027-01-15", "source": "x", "currency": "USD", "models": {}}'


def read(path):
    return path.read_text(encoding="utf-8")


def commands(source):
    """The commands of a block, as words; comments are none."""
    for old, new in FILLED.items():
        source = source.replace(old, new)
    for line in source.replace("\\\n", " ").splitlines():
        # $(…) is one word for a shell.
        words = shlex.split(re.sub(r"\$\([^)]*\)", "20260101", line), comments=True)
        while words:
            end = next((at for at, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
            yield words[:end]
            words = words[end + 1 :]


def of_page(page):
    # Marked blocks are run by tests of their own.
    for block in BLOCK.finditer(read(page)):
        if not (block["mark"] or "").startswith("test: "):
            yield from commands(block["source"])


def of_manifest(path):
    """The commands in its comments."""
    lines = re.findall(r"^#(?:   (?! )|     )(.*)$", read(path), re.MULTILINE)
    yield from commands("\n".join(lines))


def of_script(path):
    """What it tells its user to type: what stands in a string, and what it prints by `quoted`."""
    for line in read(path).splitlines():
        if line.lstrip().startswith("#"):
            continue
        for found in re.finditer(r"(?P<quoted>\$\(quoted )?\bgcloud (?P<rest>[a-z].*)", line):
            if re.search(r"need_tools|gcloud does not work", line):
                continue
            rest = found["rest"].partition(")")[0] if found["quoted"] else re.split(r"[\"'|;]", found["rest"])[0]
            rest = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", rest)
            rest = re.sub(r"\$(\w+)", lambda name: OF_SCRIPTS[name[1]], rest)
            yield ["gcloud", *shlex.split(rest)]


def named(path, words):
    return pytest.param(words, id=f"{path.stem}-{' '.join(words)[:60]}")


COMMANDS = [named(page, words) for page in PAGES for words in of_page(page)]
COMMANDS += [named(path, words) for path in MANIFESTS for words in of_manifest(path)]
COMMANDS += [named(path, words) for path in SCRIPTS for words in of_script(path)]

# In running text, where words may be left out.
IN_TEXT = [
    named(page, shlex.split(text))
    for page in PAGES
    for text in re.findall(r"(?<!`)`((?:gcloud|kubectl|\./\w+\.sh) [^`\n]+)`(?!`)", BLOCK.sub("", read(page)))
]


def test_commands_are_found_everywhere():
    """Those that hide best."""
    found = {" ".join(parameter.values[0]) for parameter in COMMANDS}
    for command in (
        "git clone $REPOSITORY ai-proxy",
        "kubectl logs deployment/ai-proxy",
        "kubectl apply -f deploy/kubernetes.yaml",
        "gcloud run services replace deploy/service.yaml --region=REGION --project=PROJECT",
        "gcloud projects create my-project",
        "gcloud auth login",
        "gcloud domains verify ai.example.com",
        "gcloud artifacts repositories delete cloud-run-source-deploy --location=us-central1 --project=my-project",
        "gcloud storage rm --recursive gs://run-sources-my-project-us-central1/services/ai-proxy",
        "gcloud billing projects link my-project --billing-account=ACCOUNT_ID",
    ):
        assert command in found, command
    assert any(command.startswith("gcloud billing budgets create --billing-account=ACCOUNT_ID ") for command in found)
    assert any("roles/iam.workloadIdentityUser" in command for command in found)
    assert len(IN_TEXT) >= 8


def variables():
    """All that .env.example names, and what the runbook's commands take their names from."""
    return {*re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", read(ROOT / ".env.example"), re.MULTILINE), "PROJECT", "REGION", "DOMAIN"}


def is_of_grammar(arguments, grammar):
    command = next((one for one in grammar if arguments[: len(one.split())] == one.split()), None)
    assert command, f"no such command here: {' '.join(arguments)}"
    count, flags = grammar[command]
    rest, words = arguments[len(command.split()) :], []
    while rest:
        word, *rest = rest
        if words and count is None:
            break  # What is behind an image is the image's.
        if not word.startswith("-"):
            words.append(word)
        elif f"{word} " in flags:
            assert rest.pop(0)
        else:
            assert word in flags or word.partition("=")[0] + "=" in flags, word
    assert len(words) == (count if count is not None else 1)


@contextlib.contextmanager
def emulator():
    """An emulator of its own; tells where it listens."""
    environment = {"PATH": os.environ["PATH"], "PORT": "0"}
    process = subprocess.Popen([PROGRAM, "emulator"], env=environment, stdout=subprocess.PIPE, encoding="utf-8")
    with process:
        try:
            told = (re.search("GCE_METADATA_HOST=(.+)", line) for line in process.stdout)
            yield next(found[1] for found in told if found)
        finally:
            process.terminate()


@pytest.fixture
def fake_gcloud(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_GCLOUD", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT / "tests/deploy")
    sys.modules.pop("fake_gcloud", None)
    import fake_gcloud

    return fake_gcloud


def succeeds(command, **environment):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("words", IN_TEXT)
def test_command_in_text(words, fake_gcloud):
    program, *arguments = words
    if program == "gcloud":
        command = next((" ".join(arguments[:n]) for n in (4, 3, 2) if " ".join(arguments[:n]) in fake_gcloud.COMMANDS), None)
        assert command, f"nothing here knows whether this is right: {' '.join(words)}"
        flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert flags <= fake_gcloud.COMMANDS[command][1] | fake_gcloud.EVERYWHERE
    elif program == "kubectl":
        is_of_grammar(arguments, KUBECTL)
    else:
        script = read(ROOT / program)
        assert all(re.search(rf"^  {re.escape(word)}\b", script, re.MULTILINE) for word in arguments[:1])


@pytest.mark.parametrize("words", COMMANDS)
def test_command(words, fake_gcloud, tmp_path):
    program, *arguments = words
    match program, arguments:
        case "gcloud", _:
            # It refuses a command, a flag or a number of words that it does not know.
            try:
                fake_gcloud.parse(arguments)
            except SystemExit:
                pytest.fail((tmp_path / "refused").read_text(encoding="utf-8"))
        case "kubectl", _:
            is_of_grammar(arguments, KUBECTL)
        case "docker", _:
            is_of_grammar(arguments, DOCKER)
        case "git", ["clone", "$REPOSITORY", "ai-proxy"]:
            pass
        case "cargo", ["build", "--release"] | ["run", "--release", "--", "dev"]:
            pass
        case "./target/release/ai-proxy", _:
            # As a build makes it; without words it would serve.
            assert read(ROOT / "Cargo.toml").count('name = "ai-proxy"') == 1
            if arguments:
                test_command(["ai-proxy", *arguments], fake_gcloud, tmp_path)
        case "./deploy.sh" | "./teardown.sh" | "./ops.sh", _:
            keys = tmp_path / "api-keys.json"
            keys.write_text('[{"id":"me","key":"sk_live_0123456789abcdef"}]', encoding="utf-8")
            arguments = [str(keys) if argument == keys.name else argument for argument in arguments]
            project = [] if "--project" in arguments else ["--project=my-project"]
            dry_run = [] if "--dry-run" in arguments else ["--dry-run"]
            arguments = ["my-project" if argument == "your-project" else argument for argument in arguments]
            assert "gcloud " in succeeds(["bash", program, *arguments, *project, *dry_run], TMPDIR=str(tmp_path), CLOUD_RUN_DOMAIN="ai.example.com")
        case "ai-proxy", ["keys", action, *_]:
            keys = tmp_path / "api-keys.json"
            succeeds([PROGRAM, "keys", "new", "another"], API_KEYS_FILE=str(keys))
            if action != "new":
                for name in ("my-laptop", "ci"):
                    succeeds([PROGRAM, "keys", "new", name], API_KEYS_FILE=str(keys))
            said = succeeds([PROGRAM, *arguments], API_KEYS_FILE=str(keys))
            assert action not in ("new", "rotate") or "sk_live_" in said
        case "ai-proxy", ["usage", *_]:
            # A log without a request, and a gcloud that has found none.
            gcloud = tmp_path / "gcloud"
            gcloud.write_text("#!/bin/sh\necho '[]'\n", encoding="utf-8")
            gcloud.chmod(0o755)
            files = {"gateway.log": "", "gateway.log.1": "", "prices.json": PRICES}
            for name, content in files.items():
                (tmp_path / name).write_text(content, encoding="utf-8")
            arguments = [str(tmp_path / word) if word in files else word for word in arguments]
            succeeds([PROGRAM, *arguments], PATH=f"{tmp_path}:{os.environ['PATH']}")
        case "ai-proxy", []:
            pass  # It serves.
        case "curl", _ if any(EMULATOR in word for word in arguments):
            with emulator() as address:
                said = succeeds(["curl", "--fail", *(word.replace(EMULATOR, address) for word in arguments)])
                assert isinstance(json.loads(said), dict)
        case "ai-proxy", ["check" | "dev" | "emulator" as command, *options]:
            # Help comes before anything is run, and after all words before it have been read.
            usage = succeeds([PROGRAM, *arguments, "--help"])
            assert f"ai-proxy {command} " in usage
            assert all(re.search(rf"{option}\b", usage) for option in options if option.startswith("--"))
            if command == "emulator" and options == ["--list"]:
                assert "rate-limited " in succeeds([PROGRAM, *arguments])
        case "make", [target]:
            assert re.search(rf"^{target}: ", read(ROOT / "Makefile"), re.MULTILINE)
        case "python", [script]:
            assert (ROOT / "agents-harness" / script).is_file()
        case "cd", ["ai-proxy"]:
            pass  # What was cloned.
        case "cd", [folder]:
            assert (ROOT / folder).is_dir()
        case "pip", ["install", "-r", file]:
            assert (ROOT / "agents-harness" / file).is_file()
        case "python3", ["-m", "venv", ".venv"]:
            pass
        case ".", [".venv/bin/activate"]:
            pass
        case "export", assignments:
            assert {word.partition("=")[0] for word in assignments} <= variables()
        case "ln", ["-s", wrapper, _]:
            assert (ROOT / wrapper.replace("$PWD/", "")).is_file()
        case "pi", _:
            # The wrapper's own commands, or flags that its page's tests have run.
            known = read(ROOT / "docs/clients/pi.md") + read(ROOT / "pi-sandbox/pi")
            assert all(word in known for word in arguments)
        case _:
            pytest.fail(f"nothing here knows whether this is right: {' '.join(words)}")

"""A new user with an empty folder: from docs/deploy.md alone to a service and back, nothing else known."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("AI_PROXY") or ROOT / "target/debug/ai-proxy").resolve()
NOBODYS_KEY = "sk_live_0123456789abcdef"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page):
    """The lines of all its blocks, in their order."""
    return [line for block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) for line in block.splitlines() if line]


class World:
    """A fake gcloud for a project that was made a minute ago, and the service that it deploys: `ai-proxy dev` with the keys that
    the newest revision has mounted."""

    def __init__(self, folder):
        self.here, self.gcloud = folder / "empty", folder / "gcloud"
        programs, mount = folder / "bin", folder / "mounted.json"
        for new in (self.here, self.gcloud, programs, folder / "home"):
            new.mkdir()
        self.programs, self.mount = programs, mount
        self.script("gcloud", f'exec "{sys.executable}" -I "{ROOT}/tests/deploy/fake_gcloud.py" "$@"')
        # The gateway looks at its keys every second or so.
        self.script("sleep", f"exec {shutil.which('sleep')} 0.2")
        self.script("ai-proxy", f'exec "{PROGRAM}" "$@"')
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "FAKE_GCLOUD": str(self.gcloud),
            "REPOSITORY": str(repository(folder)),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        mount.write_text(json.dumps([{"id": "nobody", "key": NOBODYS_KEY}]), encoding="utf-8")
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "API_KEYS_FILE": str(mount), "PORT": "0"}
        self.log = folder / "gateway.log"
        with self.log.open("w") as log:
            self.gateway = subprocess.Popen([PROGRAM, "dev"], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        url = self.wait_for_url()
        self.state = {
            "project": "my-project", "number": "123456789012", "logged_in": [], "billing": True, "verified": [],
            "forbids_all_users": False, "url": url, "revisions": 0, "apis": [], "accounts": {}, "secrets": {},
            "services": {}, "mappings": {}, "images": [], "mount": str(mount),
            "project_bindings": [["roles/run.builder", "serviceAccount:123456789012-compute@developer.gserviceaccount.com"]],
        }  # fmt: skip
        (self.gcloud / "state.json").write_text(json.dumps(self.state), encoding="utf-8")

    def script(self, name, text):
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    def wait_for_url(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.gateway.poll() is None:
            if found := re.search(r"^ *base URL *(http:\S*)/v1$", self.log.read_text(encoding="utf-8"), re.MULTILINE):
                return found.group(1)
            time.sleep(0.05)
        raise AssertionError(self.log.read_text(encoding="utf-8"))

    def now(self):
        return json.loads((self.gcloud / "state.json").read_text(encoding="utf-8"))

    def run(self, line, answer=""):
        """What a command prints, which must work. Folders that are changed into stay."""
        words = ["bash", "-euo", "pipefail", "-c", f"{line}\npwd >{self.gcloud}/here"]
        run = subprocess.run(
            words, cwd=self.here, env=self.environment, input=answer, capture_output=True, text=True, timeout=180, check=False
        )
        print(f"$ {line}\n{run.stdout}{run.stderr}")
        assert run.returncode == 0, line
        assert not (self.gcloud / "refused").exists(), (self.gcloud / "refused").read_text(encoding="utf-8")
        self.here = Path((self.gcloud / "here").read_text(encoding="utf-8").strip())
        return run.stdout + run.stderr


def repository(folder):
    """The files as they are here now, as what there is to clone."""
    origin = folder / "origin"
    listed = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, origin / name)
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=all"]):
        who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]
        subprocess.run(["git", *who, *words], cwd=origin, env=environment, check=True)
    return origin


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.gateway.terminate()
    world.gateway.wait(timeout=30)


def test_from_an_empty_folder_to_a_service_and_back(world):
    lines = commands("docs/deploy.md")
    assert lines[0].startswith("git clone ") and lines[-1].startswith("./teardown.sh ")
    output = ""
    for line in lines[:-1]:
        line = line.replace("your-project", "my-project")
        if line.startswith("./ops.sh") and not (world.here / ".env").exists():
            # As the page has it.
            settings = "GOOGLE_CLOUD_PROJECT=my-project\nCLOUD_RUN_DOMAIN=ai.example.com\n"
            (world.here / ".env").write_text(settings, encoding="utf-8")
        before = world.now()
        output += world.run(line)
        if "--dry-run" in line:
            assert world.now() == before
    assert output.count(f"ok: stream at {world.state['url']}") == 2
    assert "CNAME" in output and world.now()["mappings"] == {"us-central1/ai.example.com": "ai-proxy"}
    key = json.loads((world.here / "api-keys.json").read_text(encoding="utf-8"))[0]["key"]
    assert key not in output

    # What the first deploy has printed to be pasted: the client's settings, and the budget.
    (put_key,) = set(re.findall(r"^  (\(umask 077; .*\))$", output, re.MULTILINE))
    (base,) = set(re.findall(r"^(AI_API_BASE=http.*)$", output, re.MULTILINE))
    world.run(f"echo {base} >>.env; {put_key}")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first_answer = re.search(r"^<!-- test: curl -->\n```bash\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL).group(1)
    assert '"choices"' in world.run(f"set -a; . ./.env; set +a; {first_answer}")
    (budget,) = set(re.findall(r"^  (gcloud billing budgets create .*)$", output, re.MULTILINE))
    world.run(budget)
    assert world.now()["budgets"] == ["ai-proxy"]

    left = world.run(lines[-1].replace("your-project", "my-project"), answer="yes\n")
    empty = {name: world.now()[name] for name in ("accounts", "secrets", "services", "mappings", "images")}
    assert empty == {name: world.state[name] for name in empty}
    assert world.now()["project_bindings"] == world.state["project_bindings"]
    # And what it leaves, by the commands that it prints.
    commands_left = re.findall(r"^ +(gcloud .*)$", left, re.MULTILINE)
    assert len(commands_left) == 2
    for line in commands_left:
        world.run(line)


def gcloud_commands(page):
    """The blocks of a page that call gcloud."""
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [block for block in blocks if block.startswith("gcloud ") and "./" not in block]


def test_the_runbook_by_hand(world):
    """Its gcloud commands do to a service what the scripts would, up to its end."""
    world.run('git clone "$REPOSITORY" ai-proxy && cd ai-proxy && gcloud auth login')
    world.run("gcloud domains verify example.com; ./deploy.sh --project my-project --domain ai.example.com")
    names = "export PROJECT=my-project REGION=us-central1 DOMAIN=ai.example.com\n"
    pages = ("09-keys.md", "11-operations.md")
    by_hand = [block for page in pages for block in gcloud_commands(f"docs/runbook/{page}")]
    assert len(by_hand) >= 5
    for block in by_hand:
        revision = world.now()["services"]["us-central1/ai-proxy"]["revisions"][0]
        world.run(names + block.replace("REVISION=", f"{revision}="))
    now = world.now()
    assert now["services"]["us-central1/ai-proxy"]["pinned"] == now["services"]["us-central1/ai-proxy"]["revisions"][0]
    assert len(now["services"]["us-central1/ai-proxy"]["revisions"]) == 3
    assert len(now["secrets"]["ai-proxy-api-keys"]["versions"]) == 2
    (teardown,) = gcloud_commands("docs/runbook/14-teardown.md")
    world.run(names + teardown)
    now = world.now()
    assert {name: now[name] for name in ("accounts", "secrets", "services", "mappings", "images")} == {
        name: world.state[name] for name in ("accounts", "secrets", "services", "mappings", "images")
    }
    assert now["project_bindings"] == world.state["project_bindings"]


def test_the_manifests_by_hand(world):
    """The commands in their comments, on a project whose APIs are on."""
    world.run('git clone "$REPOSITORY" ai-proxy && cd ai-proxy && gcloud auth login')
    world.run("./deploy.sh --project my-project && ./teardown.sh --project my-project --yes")
    world.script("kubectl", f'printf "%s\\n" "$*" >>"{world.gcloud}/kubectl"')
    for name in ("kubernetes.yaml", "service.yaml"):
        text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
        lines = re.findall(r"^#(?:   (?! )|     )(.*)$", text, re.MULTILINE)
        source = "\n".join(lines).replace("PROJECT", "my-project").replace("REGION", "us-central1")
        (world.here / "deploy" / name).write_text(text.replace("PROJECT", "my-project"), encoding="utf-8")
        if name == "service.yaml":
            source = "gcloud secrets create ai-proxy-api-keys --replication-policy=automatic --project=my-project\n" + source
        world.run(source)
    now = world.now()
    account = "ai-proxy-sa@my-project.iam.gserviceaccount.com"
    assert now["accounts"][account]["bindings"] == [
        ["roles/iam.workloadIdentityUser", "serviceAccount:my-project.svc.id.goog[ai-proxy/ai-proxy]"]
    ]
    assert ["roles/aiplatform.user", f"serviceAccount:{account}"] in now["project_bindings"]
    assert now["services"]["us-central1/ai-proxy"]["account"] == account
    called = (world.gcloud / "kubectl").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in called] == ["create", "create", "apply"]
    assert (ROOT / called[2].split()[-1]).is_file()

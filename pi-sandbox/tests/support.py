"""A user of the wrapper: a home directory, a project, `pi` on the PATH; and the gateway that pi talks to."""

import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent.parent
AI_PROXY = pathlib.Path(os.environ.get("AI_PROXY", FOLDER.parent / "target/debug/ai-proxy")).absolute()
IMAGE = "pi-sandbox:latest"
KEY = "sk_test_of-the-pi-sandbox_0123456789"
# Who runs the wrapper where the tests run as root, which it refuses: ids that nobody has, here or in the image.
ANYBODY = 4321
# For one run of a container. None takes a tenth of it.
PATIENCE_SECONDS = 120


def engine_runs():
    try:
        return subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


ENGINE = engine_runs()
needs_engine = unittest.skipUnless(ENGINE, "no Docker engine here")


def network():
    """What PI_SANDBOX_NETWORK must be here: an engine without a bridge has the host's network only."""
    given = os.environ.get("PI_SANDBOX_NETWORK")
    if given is not None:
        return given
    bridge = subprocess.run(["docker", "network", "inspect", "bridge"], capture_output=True)
    return "" if bridge.returncode == 0 else "host"


def build_image():
    """Of the Dockerfile as it is now, whatever image is there; quick where the engine has it cached."""
    if not ENGINE:
        return
    environment = {**os.environ, "PI_SANDBOX_NETWORK": network()}
    built = subprocess.run([FOLDER / "pi", "rebuild"], env=environment, capture_output=True, text=True)
    if built.returncode != 0:
        raise RuntimeError(f"the image does not build:\n{built.stderr[-3000:]}")


class User:
    """Somebody with a home directory, a project in it, and `pi` on the PATH by two symbolic links, one relative."""

    def __init__(self, test):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="pi-sandbox-")).resolve()
        test.addCleanup(shutil.rmtree, self.root)
        self.home = self.root / "home"
        self.project = self.home / "project"
        self.bin = self.root / "bin"
        self.installed = self.root / "installed"
        for folder in (self.project, self.bin, self.root / "links", self.installed):
            folder.mkdir(parents=True)
        for name in ("pi", "Dockerfile", "models.json"):
            shutil.copy(FOLDER / name, self.installed / name)
        (self.root / "links/pi").symlink_to("../installed/pi")
        (self.bin / "pi").symlink_to(self.root / "links/pi")
        self.models = self.home / ".pi-sandbox/agent/models.json"
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "AI_API_BASE": "https://gateway.example/v1",
            "API_KEY": KEY,
        }
        for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
            if name in os.environ:
                self.environment[name] = os.environ[name]
        self.identity = {}
        self.uid, self.gid = os.getuid(), os.getgid()
        if self.uid == 0:
            self.uid = self.gid = ANYBODY
            socket = pathlib.Path("/var/run/docker.sock")
            groups = [socket.stat().st_gid] if socket.exists() else []
            self.identity = {"user": self.uid, "group": self.gid, "extra_groups": groups}
            self.root.chmod(0o755)
            self.own(self.home)
        else:
            # The engine that the caller's own configuration chooses.
            self.environment["DOCKER_CONFIG"] = os.environ.get("DOCKER_CONFIG", os.path.expanduser("~/.docker"))

    def own(self, path):
        for each in (path, *path.rglob("*")):
            os.chown(each, self.uid, self.gid, follow_symlinks=False)

    def write(self, name, text):
        """A file of the project."""
        path = self.project / name
        path.write_text(text)
        self.own(path)
        return path

    def options(self, cwd=None, **environment):
        chosen = {name: value for name, value in {**self.environment, **environment}.items() if value is not None}
        return {"cwd": cwd or self.project, "env": chosen, **self.identity}

    def pi(self, *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=None, **environment):
        """Runs `pi` as this user would, with these variables changed, or unset where they are None."""
        return subprocess.run(
            ["pi", *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
            **self.options(cwd, **environment),
        )

    def fake(self, name, script):
        """A program of this name before all others on the PATH."""
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)

    def fake_engine(self, image_is_there=True):
        """A `docker` that only notes how it was called, and the key that it was given."""
        self.notes = self.home / "calls"
        known = "exit 0" if image_is_there else "exit 1"
        self.fake(
            "docker",
            f"""printf '%s\\0' "$@" "API_KEY=${{API_KEY:-}} AI_API_BASE=${{AI_API_BASE:-}}" $'\\n' >>'{self.notes}'
case "$1 $2" in "image inspect") {known} ;; esac""",
        )

    def calls(self, command):
        """The arguments, and the two variables, of each `docker COMMAND` so far."""
        notes = self.notes.read_text() if self.notes.exists() else ""
        calls = [note.split("\0") for note in notes.split("\0\n\0") if note]
        return [call for call in calls if call[0] == command]


def owner(path):
    about = path.stat()
    return about.st_uid, about.st_gid


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class Gateway:
    """`ai-proxy dev` on a port of the system's choice, and what it has logged of each request."""

    def __init__(self, test_class, host, **settings):
        if not AI_PROXY.exists():
            raise RuntimeError(f"no gateway at {AI_PROXY}; build it, or set AI_PROXY")
        keys = json.dumps([{"id": "pi", "key": KEY}])
        environment = {"PATH": os.environ["PATH"], "HOST": host, "PORT": "0", "API_KEYS_JSON": keys, **settings}
        self.process = subprocess.Popen([AI_PROXY, "dev"], stdout=subprocess.PIPE, env=environment, text=True)
        test_class.addClassCleanup(self.stop)
        self.logged = threading.Condition()
        self.requests = []
        for line in self.process.stdout:
            found = re.search(r'"address":"[^"]*:(\d+)"', line)
            if found:
                self.base = f"http://127.0.0.1:{found[1]}/v1"
                break
        else:
            raise RuntimeError("the gateway did not start")
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            if '"httpRequest"' in line:
                with self.logged:
                    self.requests.append(json.loads(line))
                    self.logged.notify_all()

    def statuses(self, count):
        """Of all requests so far, once there are so many: each is logged when its answer has ended."""
        with self.logged:
            self.logged.wait_for(lambda: len(self.requests) >= count, timeout=PATIENCE_SECONDS)
            return [request["status"] for request in self.requests]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE_SECONDS)
        self.process.stdout.close()

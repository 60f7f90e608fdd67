"""A user's tree with secrets in it, the image that is built of that, and the engine that does so."""

import json
import os
import pathlib
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
IMAGE = "ai-proxy:test"
# Plays upstream; the examples of agents-harness need it, too.
PYTHON_IMAGE = "python:3.14-slim"
# For anything that an engine does in a moment.
PATIENCE_SECONDS = 60

# What a user may have lying about, at the top or next to the source.
SECRET_FILES = [
    ".env",
    "production.env",
    ".env.production",
    ".envrc",
    "api-keys.json",
    "api-keys.2026.json",
    "keys.json",
    "deploy-key.json",
    "deploy_key.json",
    "credentials.json",
    "application_default_credentials.json",
    "credentials",
    "adc.json",
    "service-account.json",
    "service-account-prod.json",
    "account-0123456789abcdef.json",
    "certificate-0123456789abcdef.pem",
    "account-0123456789abcdef.new",
    "tls.pem",
    "server.key",
    "account.p12",
    "tls.pfx",
    "trust.jks",
    "release.keystore",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".venv/secret",
    "node_modules/secret",
    "target/secret",
]
# Folders where they are put.
PLACES = ["", "bench/", "build/", "src/", "emulator/src/scenarios/", "docs/", "docs/runbook/", "pi-sandbox/"]
SOURCE_FOLDERS = ["build", "docs/runbook", "emulator", "src"]
# At the top only: what no list of secret names would have.
OTHER_FILES = [".git/config", "notes.txt", "keys/new.txt"]


def engine_runs():
    try:
        return subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


needs_engine = unittest.skipUnless(engine_runs(), "no Docker engine here")


def docker(*arguments, **options):
    """What the engine says to a command, which must work."""
    run = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options)
    if run.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: {run.stderr}")
    return run.stdout


def bridge():
    """Whether containers have networks of their own. An engine without a bridge has the host's only."""
    return subprocess.run(["docker", "network", "inspect", "bridge"], capture_output=True).returncode == 0


class Tree:
    """A copy of this repository with secrets in it, each with `canary` inside."""

    def __init__(self):
        self.canary = f"canary-{secrets.token_hex(16)}"
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="ai-proxy-image-"))
        # Not the secrets that are there really.
        theirs = shutil.ignore_patterns(".git", ".venv", "__pycache__", "node_modules", "target", ".env")
        shutil.copytree(ROOT, self.root, ignore=theirs, dirs_exist_ok=True, symlinks=True)
        self.secrets = sorted([place + name for place in PLACES for name in SECRET_FILES] + OTHER_FILES)
        for name in self.secrets:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{self.canary}\n")

    def remove(self):
        shutil.rmtree(self.root)

    def source(self):
        """What the image is built of."""
        folders = (self.root / name for name in SOURCE_FOLDERS)
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        single = {".cargo/config.toml", "Cargo.toml", "Cargo.lock", "bench/Cargo.toml"}
        return single | {path.relative_to(self.root).as_posix() for path in files} - set(self.secrets)


def build(tree):
    """Of the files as they are now, whatever image is there; quick where the engine has it cached."""
    command = ["docker", "build", "--tag", IMAGE, "--build-arg", "REVISION=of-the-test"]
    command += [] if bridge() else ["--network", "host"]
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        command += ["--build-arg", name] if name in os.environ else []
    # Shown as it comes: it takes minutes.
    if subprocess.run([*command, tree.root]).returncode != 0:
        raise RuntimeError("the image does not build")


class Saved:
    """The image, as the engine hands it out."""

    def __init__(self):
        self.blobs = {}
        with tempfile.TemporaryFile() as file:
            subprocess.run(["docker", "save", IMAGE], stdout=file, check=True)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                for member in archive:
                    if member.isfile():
                        self.blobs[member.name] = archive.extractfile(member).read()
        manifest = json.loads(self.blobs["manifest.json"])[0]
        self.config = json.loads(self.blobs[manifest["Config"]])
        # What is in all layers together: name to what tar says of it, and to the contents of files.
        self.members, self.files = {}, {}
        for layer in manifest["Layers"]:
            with tempfile.TemporaryFile() as file:
                file.write(self.blobs[layer])
                file.seek(0)
                with tarfile.open(fileobj=file) as archive:
                    for member in archive:
                        self.members[member.name] = member
                        if member.isfile():
                            self.files[member.name] = archive.extractfile(member).read()

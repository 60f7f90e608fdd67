"""A release as `release.sh` makes it, of Cargo's dev profile: what is in it, and that nobody can change it unnoticed."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
IDENTITY = "releases@ai-proxy.test"
# Apart from what other tests run.
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "release-test"
BUILD = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}


def run(*command, **more):
    return subprocess.run([str(word) for word in command], encoding="utf-8", capture_output=True, check=False, **more)


def new_key(path):
    assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", IDENTITY, "-f", path).returncode == 0
    return path


@pytest.fixture(scope="session")
def key(tmp_path_factory):
    return new_key(tmp_path_factory.mktemp("key") / "key")


def release(key, out):
    made = run(ROOT / "release.sh", "--key", key, "--out", out, "--profile", "dev", "--allow-dirty", env=BUILD)
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture(scope="session")
def released(key, tmp_path_factory):
    return release(key, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def archive(released, tmp_path_factory):
    """The unpacked folder."""
    (path,) = released.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    assert path.name == f"{inside.name}.tar.gz"
    return inside


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verify(folder, key, tmp_path):
    """As SECURITY.md tells users to."""
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"{IDENTITY} {key.with_suffix('.pub').read_text(encoding='utf-8')}", encoding="utf-8")
    verification = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", IDENTITY, "-n", "ai-proxy-release"]
    with open(folder / "SHA256SUMS", encoding="utf-8") as sums:
        signed = run(*verification, "-s", folder / "SHA256SUMS.sig", stdin=sums)
    return signed.returncode == 0 and run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=folder).returncode == 0


def test_a_release_is_signed_and_no_byte_of_it_can_be_another(released, key, tmp_path):
    assert verify(released, key, tmp_path)
    listed = {line.split()[1] for line in (released / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    assert listed | {"SHA256SUMS", "SHA256SUMS.sig"} == {path.name for path in released.iterdir()}
    assert not verify(released, new_key(tmp_path / "another"), tmp_path), "signed by somebody else"
    for path in released.iterdir():
        changed = tmp_path / "changed" / path.name
        shutil.copytree(released, changed)
        content = bytearray((changed / path.name).read_bytes())
        content[len(content) // 2] ^= 1
        (changed / path.name).write_bytes(content)
        assert not verify(changed, key, tmp_path), path.name


def test_the_archive_holds_a_program_that_runs_and_what_belongs_to_it(archive):
    names = {path.name for path in archive.iterdir()}
    documents = {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", ".env.example"}
    assert names == {"ai-proxy", "sbom.cdx.json", "provenance.json", "THIRD-PARTY.txt"} | documents
    assert run(archive / "ai-proxy", "--version").stdout.strip().endswith(VERSION)
    assert (archive / "ai-proxy").stat().st_mode & 0o777 == 0o755
    licences = (archive / "THIRD-PARTY.txt").read_text(encoding="utf-8")
    for crate in ("tokio ", "rustls ", "ring ", "tikv-jemalloc-sys "):
        assert f"\n{crate}" in licences
    assert "\nai-proxy" not in licences
    assert "comes without" not in licences


def named_crates(program):
    """The crates that the program itself names."""
    said = run(ROOT / "tools/release/named_crates.py", program)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)["packages"]


def test_the_program_and_its_bill_of_materials_name_the_same_crates(archive):
    bill = json.loads((archive / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == ("ai-proxy", VERSION)
    assert root["hashes"] == [{"alg": "SHA-256", "content": sha256(archive / "ai-proxy")}]
    crates = {(part["name"], part["version"]): part for part in bill["components"]}
    for (name, version), part in crates.items():
        assert part["purl"] == f"pkg:cargo/{name}@{version}"
        assert part["licenses"][0]["expression"] != "NOASSERTION"
        # The emulator comes from the same commit as the rest.
        assert name == "ai-proxy-emulator" or re.fullmatch(r"[0-9a-f]{64}", part["hashes"][0]["content"])
    refs = [entry["ref"] for entry in bill["dependencies"]]
    assert sorted(refs) == sorted({root["purl"], *(part["purl"] for part in crates.values())})
    assert {needed for entry in bill["dependencies"] for needed in entry["dependsOn"]} | {root["purl"]} == set(refs)

    named = {(part["name"], part["version"]): part for part in named_crates(archive / "ai-proxy")}
    del named["ai-proxy", VERSION]
    assert len(named) > 100
    assert named.keys() <= crates.keys()
    # All that is in the program, it names; macros and build scripts it may say or not.
    required = {crate for crate, part in crates.items() if part["scope"] == "required"}
    assert required <= named.keys()


def test_a_program_that_names_no_crates_is_told_from_one_that_does():
    for path, reason in [(ROOT / "README.md", "no 64-bit ELF file"), (shutil.which("ssh-keygen"), "no section .dep-v0")]:
        said = run(ROOT / "tools/release/named_crates.py", path)
        assert (said.returncode, said.stdout, said.stderr.strip()) == (1, "", reason)


def test_the_provenance_says_what_was_built_of_what(archive):
    statement = json.loads((archive / "provenance.json").read_text(encoding="utf-8"))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [{"name": "ai-proxy", "digest": {"sha256": sha256(archive / "ai-proxy")}}]
    definition = statement["predicate"]["buildDefinition"]
    commit = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    assert definition["externalParameters"]["commit"] == commit
    digests = {part["name"]: part["digest"] for part in definition["resolvedDependencies"]}
    assert digests == {"source": {"gitCommit": commit}, "Cargo.lock": {"sha256": sha256(ROOT / "Cargo.lock")}}
    assert run("rustc", "-vV").stdout.splitlines() == definition["internalParameters"]["rustc"]


def test_a_second_release_has_the_same_bytes(released, key, tmp_path):
    again = release(key, tmp_path / "again")
    assert {path.name: sha256(path) for path in again.iterdir()} == {
        path.name: sha256(path) for path in released.iterdir()
    }


def test_a_release_names_no_folder_of_the_machine(archive):
    # The dev profile keeps line tables, which name folders as they were told to.
    homes = {str(ROOT), os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")}
    for path in archive.iterdir():
        content = path.read_bytes()
        assert not [home for home in homes if home.encode() in content], path.name


@pytest.mark.parametrize(
    "options, reason",
    [
        ([], "unsigned"),
        (["--key", "/nonexistent"], "no such key"),
        (["--what"], "unknown option"),
        (["--key"], "needs a value"),
    ],
)
def test_what_cannot_be_released_is_refused(options, reason):
    refused = run(ROOT / "release.sh", *options)
    assert refused.returncode == 1 and reason in refused.stderr


def test_what_is_not_committed_is_not_released(key, tmp_path):
    clone = tmp_path / "clone"
    assert run("git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", clone).returncode == 0
    (clone / "Cargo.toml").open("a", encoding="utf-8").write("# changed\n")
    refused = run(clone / "release.sh", "--key", key, "--out", tmp_path / "dist")
    assert refused.returncode == 1 and "not committed" in refused.stderr
    assert not (tmp_path / "dist").exists()

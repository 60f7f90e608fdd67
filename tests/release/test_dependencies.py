"""What others wrote is little, is there for a reason, and comes from one place."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_CRATES = 200
TABLES = ("dependencies", "dev-dependencies", "build-dependencies")
MANIFEST = (ROOT / "Cargo.toml").read_text(encoding="utf-8")


def direct():
    """Each direct dependency."""
    manifest = tomllib.loads(MANIFEST)
    for place in (manifest, *manifest.get("target", {}).values()):
        for table in TABLES:
            yield from place.get(table, ())


def crates_below(options):
    command = ["cargo", "tree", "--locked", "--package=ai-proxy", "--prefix=none", "--format={p}", *options]
    tree = subprocess.check_output(command, cwd=ROOT, encoding="utf-8")
    return {" ".join(line.split()[:2]) for line in tree.splitlines()} - {""}


def test_few_crates_are_in_the_program():
    shipped = crates_below(["--edges=normal"])
    print(len(shipped), "crates")
    assert 50 < len(shipped) < MOST_CRATES


@pytest.mark.parametrize("name", sorted(set(direct())))
def test_every_direct_dependency_has_a_reason(name):
    lines = MANIFEST.splitlines()
    places = [at for at, line in enumerate(lines) if re.match(rf"{re.escape(name)} = ", line)]
    assert places and all(re.match(r"# .{15,}", lines[at - 1]) for at in places)


def test_everything_comes_from_the_registry_with_its_digest():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))
    own = {"ai-proxy", "ai-proxy-bench", "ai-proxy-emulator"}
    for crate in lock["package"]:
        if crate["name"] not in own:
            assert crate["source"] == "registry+https://github.com/rust-lang/crates.io-index"
            assert re.fullmatch(r"[0-9a-f]{64}", crate["checksum"])


def test_no_unsafe_code_of_our_own():
    """`forbid` cannot be allowed away further down, and every member takes the workspace's lints."""
    manifest = tomllib.loads(MANIFEST)
    assert manifest["workspace"]["lints"]["rust"]["unsafe_code"] == "forbid"
    for folder in (".", *manifest["workspace"]["members"]):
        member = tomllib.loads((ROOT / folder / "Cargo.toml").read_text(encoding="utf-8"))
        assert member["lints"] == {"workspace": True}
    metadata = subprocess.check_output(["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"], cwd=ROOT)
    assert len(json.loads(metadata)["packages"]) == 1 + len(manifest["workspace"]["members"])

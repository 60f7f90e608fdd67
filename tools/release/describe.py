#!/usr/bin/env python3
"""Says what a program is made of and how it was built.

    tools/release/describe.py PROGRAM TARGET FOLDER

writes into FOLDER, from `cargo metadata`, Cargo.lock and git:

    sbom.cdx.json        what is in it and what built it, in CycloneDX 1.6
    provenance.json      an in-toto statement with SLSA's provenance: which commit, which toolchain, which flags
    THIRD-PARTY.txt      the licences of all that is in it

The same program of the same commit gives the same bytes.
"""

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# How what is described here was built; it names no place.
BUILD_TYPE = "urn:ai-proxy:release-build:1"
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|unlicense)", re.IGNORECASE)


def main():
    program, target, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    crates = Crates(target)
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    write(folder / "sbom.cdx.json", json_text(sbom(crates, digest)))
    write(folder / "provenance.json", json_text(provenance(program, digest, target)))
    write(folder / "THIRD-PARTY.txt", third_party(crates))


def write(path, text):
    path.write_text(text, encoding="utf-8")


def json_text(value):
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def output(*command):
    return subprocess.check_output(command, cwd=ROOT, encoding="utf-8").strip()


def built_at():
    """The commit's time: the build's own would make every build another."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct"))
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Crates:
    """The graph of crates below the program, for one target."""

    def __init__(self, target):
        metadata = json.loads(
            output("cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}")
        )
        self.packages = {package["id"]: package for package in metadata["packages"]}
        self.nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
        self.root = next(id for id, package in self.packages.items() if package["name"] == "ai-proxy")
        lock = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))
        self.checksums = {(crate["name"], crate["version"]): crate.get("checksum") for crate in lock["package"]}
        # What is in the program, and what only ran when it was built: build scripts, macros, and what these need.
        self.shipped = self.below(self.root, lambda kind, id: kind is None and not self.is_macro(id))
        self.all = self.below(self.root, lambda kind, id: kind != "dev")

    def is_macro(self, id):
        return any("proc-macro" in target["kind"] for target in self.packages[id]["targets"])

    def needs(self, id, follows):
        """Those that one needs; the dev-dependencies of others are not in the graph."""
        for needed in self.nodes[id]["deps"]:
            if any(follows(kind["kind"], needed["pkg"]) for kind in needed["dep_kinds"]):
                yield needed["pkg"]

    def below(self, id, follows):
        seen, todo = set(), [id]
        while todo:
            id = todo.pop()
            if id not in seen:
                seen.add(id)
                todo.extend(self.needs(id, follows))
        return seen

    def purl(self, id):
        return "pkg:cargo/{name}@{version}".format_map(self.packages[id])

    def sorted(self, ids):
        return sorted(ids, key=lambda id: (self.packages[id]["name"], self.packages[id]["version"]))


def sbom(crates, digest):
    def component(id):
        package = crates.packages[id]
        checksum = crates.checksums[package["name"], package["version"]]
        # Old crates write a slash for "or".
        licence = (package["license"] or "NOASSERTION").replace("/", " OR ")
        told = {
            "type": "library",
            "bom-ref": crates.purl(id),
            "name": package["name"],
            "version": package["version"],
            "scope": "required" if id in crates.shipped else "excluded",
            "licenses": [{"expression": licence}],
            "purl": crates.purl(id),
        }
        if checksum:
            told["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if package["repository"]:
            told["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return told

    root = component(crates.root)
    root |= {"type": "application", "scope": "required", "hashes": [{"alg": "SHA-256", "content": digest}]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {"timestamp": built_at(), "component": root},
        "components": [component(id) for id in crates.sorted(crates.all - {crates.root})],
        "dependencies": [
            {
                "ref": crates.purl(id),
                "dependsOn": sorted(crates.purl(needed) for needed in crates.needs(id, lambda kind, _: kind != "dev")),
            }
            for id in crates.sorted(crates.all)
        ],
    }


def provenance(program, digest, target):
    commit = output("git", "rev-parse", "HEAD")
    changed = bool(output("git", "status", "--porcelain", "--untracked-files=no"))
    lock = hashlib.sha256((ROOT / "Cargo.lock").read_bytes()).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": program.name, "digest": {"sha256": digest}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"commit": commit, "changed": changed, "target": target},
                "internalParameters": {
                    "rustc": output("rustc", "-vV").splitlines(),
                    "cc": output(os.environ.get("CC", "cc"), "--version").splitlines()[0],
                    "command": "tools/release/build",
                },
                "resolvedDependencies": [
                    {"name": "source", "digest": {"gitCommit": commit}},
                    {"name": "Cargo.lock", "digest": {"sha256": lock}},
                ],
            },
            "runDetails": {
                "builder": {"id": os.environ.get("BUILDER_ID", "urn:ai-proxy:builder:unnamed")},
                "metadata": {"startedOn": built_at()},
            },
        },
    }


def third_party(crates):
    """What the licences ask for that are passed on with a program. A text that many crates have stands there once."""
    texts = {}
    apache = (ROOT / "LICENSE").read_text(encoding="utf-8").strip()
    for id in crates.sorted(crates.shipped):
        package = crates.packages[id]
        if package["source"] is None:
            # The program's own.
            continue
        folder = Path(package["manifest_path"]).parent
        # What was taken from elsewhere has its own in a folder further down.
        beside = sorted(folder.rglob("*"))
        files = [path for path in beside if path.is_file() and LICENCE_FILE.match(path.name)]
        name = "{name} {version} ({license})".format_map(package)
        found = [path.read_text(encoding="utf-8", errors="replace").strip() for path in files]
        if not found and "Apache-2.0" in (package["license"] or ""):
            # Some leave out that text, which is the same for all.
            found = [apache]
        for text in found or [""]:
            texts.setdefault(text, []).append(name)
    parts = []
    for text, names in texts.items():
        parts.append("\n".join(["=" * 100, *names, "=" * 100, "", text or "(comes without a text of its licence)", ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    main()

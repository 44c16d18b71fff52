#!/usr/bin/env python3
"""Writes what a program of Rota is made of: a CycloneDX list of its parts, and the texts of their licences.

    deploy/parts.py TARGET --sbom FILE --licences FILE

The parts are those that cargo links for TARGET, as Cargo.lock has them, and what the console's page has in it. Two runs write the
same. A part whose licence nobody named is a failure.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("licen", "copying", "copyright", "notice", "unlicense")
"""What names of files with licences begin with, in lower case."""
CONSOLE = ("svelte",)
"""Packages of npm of which the console's page has code in it: the others only build it."""
LARGEST = 200_000
"""The most bytes of a licence's text: what is larger is none."""


def linked(target: str) -> tuple[dict, list[dict], dict[str, list[str]]]:
    """The package of the program, what is linked into it, and what depends on what, by cargo's ids."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    needs = {
        node["id"]: sorted(
            dependency["pkg"]
            for dependency in node["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        )
        for node in metadata["resolve"]["nodes"]
    }
    program = next(package for package in metadata["packages"] if package["name"] == "rota")
    found, waiting = {program["id"]}, [program["id"]]
    while waiting:
        for needed in needs[waiting.pop()]:
            if needed not in found:
                found.add(needed)
                waiting.append(needed)
    parts = sorted((packages[found_id] for found_id in found), key=lambda part: (part["name"], part["version"]))
    return program, parts, {part["id"]: needs[part["id"]] for part in parts}


def purl(part: dict) -> str:
    return f"pkg:cargo/{part['name']}@{part['version']}"


def component(part: dict, checksums: dict[str, str]) -> dict:
    if not part["license"]:
        sys.exit(f"deploy/parts.py: {part['name']} names no licence in its Cargo.toml")
    described = {
        "type": "library",
        "bom-ref": purl(part),
        "name": part["name"],
        "version": part["version"],
        "purl": purl(part),
        "licenses": [{"expression": part["license"].replace("/", " OR ")}],
    }
    if checksum := checksums.get(f"{part['name']} {part['version']}"):
        described["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if part["repository"]:
        described["externalReferences"] = [{"type": "vcs", "url": part["repository"]}]
    return described


def checksums() -> dict[str, str]:
    """Of each package of a registry, what Cargo.lock says it must have."""
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    return {f"{package['name']} {package['version']}": package["checksum"] for package in packages if "checksum" in package}


def of_the_console() -> list[dict]:
    lock = json.loads((ROOT / "console" / "package-lock.json").read_text())["packages"]
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:npm/{name}@{(package := lock[f'node_modules/{name}'])['version']}",
            "name": name,
            "version": package["version"],
            "purl": f"pkg:npm/{name}@{package['version']}",
            "licenses": [{"expression": package["license"]}],
        }
        for name in CONSOLE
    ]


def sbom(target: str, program: dict, parts: list[dict], needs: dict[str, list[str]]) -> dict:
    known = checksums()
    described = {part["id"]: component(part, known) for part in parts}
    root = described[program["id"]] | {"type": "application"}
    # What no package of cargo names: the libraries that the compiler links, and what is within packages.
    compiler = subprocess.run(["rustc", "--version"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    version = compiler.stdout.split()[1]
    within = [
        {"type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": version, "licenses": [{"expression": "MIT OR Apache-2.0"}]}
    ]
    if "musl" in target:
        within.append({"type": "library", "bom-ref": "musl", "name": "musl", "licenses": [{"expression": "MIT"}]})
    components = [described[part["id"]] for part in parts if part is not program] + of_the_console() + within
    dependencies = [
        {"ref": described[part]["bom-ref"], "dependsOn": [described[needed]["bom-ref"] for needed in needed_ones]}
        for part, needed_ones in needs.items()
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root, "properties": [{"name": "rota:target", "value": target}]},
        "components": components,
        "dependencies": dependencies,
    }


def licences(parts: list[dict]) -> str:
    """Each text once, under the names of the parts that have it."""
    texts: dict[str, tuple[str, list[str]]] = {}
    for part in parts:
        if part["source"] is None:
            continue
        folder = Path(part["manifest_path"]).parent
        files = [file for file in folder.iterdir() if file.is_file() and file.name.lower().startswith(TEXTS)]
        for file in sorted(files):
            if file.stat().st_size > LARGEST or file.suffix in (".rs", ".html"):
                continue
            text = file.read_text(errors="replace").strip()
            texts.setdefault(hashlib.sha256(text.encode()).hexdigest(), (text, []))[1].append(f"{part['name']} {part['version']}")
    named = "\n".join(f"{part['name']} {part['version']}: {part['license']}" for part in parts)
    whole = [f"Rota is made of these, each under the licence that it names.\n\n{named}\n"]
    for text, owners in texts.values():
        whole.append(f"{'-' * 80}\n{', '.join(sorted(set(owners)))}\n\n{text}\n")
    return "\n".join(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--sbom", type=Path, required=True)
    parser.add_argument("--licences", type=Path, required=True)
    asked = parser.parse_args()
    program, parts, needs = linked(asked.target)
    asked.sbom.write_text(json.dumps(sbom(asked.target, program, parts, needs), indent=1) + "\n")
    asked.licences.write_text(licences(parts))


if __name__ == "__main__":
    main()

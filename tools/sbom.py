"""What the package is made of, as a CycloneDX 1.5 bill of materials: `python tools/sbom.py [EXTRA ...]` prints JSON.

The package itself, and the distributions that it needs in this environment, with those of the extras named; versions as installed.
Equal environments give equal text: no time and no random number is in it.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata

NAME = "preimage"


def plain(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str, extras: set[str]) -> list[str]:
    """The names that a distribution requires, with these extras of its own; what is asked of other extras is left out."""
    found = []
    for requirement in metadata.requires(name) or []:
        head, _, marker = requirement.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        if extra is None or extra[1] in extras:
            match = re.match(r"[A-Za-z0-9._-]+", head.strip())
            found.append(plain(match[0] if match else ""))
    return sorted(set(found) - {plain(NAME), ""})


def component(name: str) -> dict[str, object] | None:
    """An installed distribution; None for one that is not here, whose marker is of another system."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    kind = "application" if name == NAME else "library"
    made: dict[str, object] = {"type": kind, "bom-ref": name, "name": name, "version": about["Version"],
                               "purl": f"pkg:pypi/{name}@{about['Version']}"}  # fmt: skip
    if licence := about.get("License-Expression"):
        made["licenses"] = [{"expression": licence}]
    return made


def bill(extras: set[str]) -> dict[str, object]:
    """The whole document."""
    seen: dict[str, dict[str, object]] = {}
    edges: dict[str, list[str]] = {}
    left = [NAME]
    while left:
        name = left.pop()
        found = component(name)
        if name in seen or found is None:
            continue
        seen[name], edges[name] = found, needed(name, extras if name == NAME else set())
        left += edges[name]
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": seen.pop(NAME)},
        "components": [seen[name] for name in sorted(seen)],
        "dependencies": [{"ref": k, "dependsOn": [d for d in v if d in edges]} for k, v in sorted(edges.items())],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(bill(set(sys.argv[1:])), indent=1))

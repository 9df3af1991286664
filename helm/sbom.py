"""Writes what is in our images, as CycloneDX: `python helm/sbom.py CYCLONEDX-PY`.

They go to dist/sbom-<image>.cdx.json, or to the folder of --to. What an image installs is what this environment has of
the same packages, since both follow constraints.txt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
#: The extras of pyproject.toml that each image installs.
IMAGES = {"gateway": (), "loadtest": ("loadtest",)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("cyclonedx")
    parser.add_argument("--to", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    arguments.to.mkdir(exist_ok=True)
    for image, extras in IMAGES.items():
        pins = "".join(f"{name}=={found.version}\n" for name, found in closure("duet-serving", extras).items())
        target = arguments.to / f"sbom-{image}.cdx.json"
        command = [arguments.cyclonedx, "requirements", "-", "--output-reproducible", "--of", "JSON", "-o", str(target)]
        command += ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
        # It warns that a list of pins says nothing of who needs whom.
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        subprocess.run(command, input=pins, text=True, check=True, env=environment)  # noqa: S603 - the operator's own
        print(f"{target}: {len(pins.splitlines())} packages")
    return 0


def closure(name: str, extras: Iterable[str] = ()) -> dict[str, Distribution]:
    """The packages that a package needs, itself left out, as they are installed here."""
    found: dict[str, Distribution] = {}
    waiting = [(name, frozenset(extras))]
    asked = set(waiting)
    while waiting:
        current, wanted = waiting.pop()
        package = distribution(current)
        found[canonicalize_name(current)] = package
        for line in package.requires or ():
            needed = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *wanted)]
            if needed.marker and not any(needed.marker.evaluate(environment) for environment in environments):
                continue
            entry = canonicalize_name(needed.name), frozenset(needed.extras)
            if entry not in asked:
                asked.add(entry)
                waiting.append(entry)
    del found[canonicalize_name(name)]
    return dict(sorted(found.items()))


if __name__ == "__main__":
    sys.exit(main())

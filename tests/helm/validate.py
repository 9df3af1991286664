"""Run in the chart's environment: validates the manifests of a JSON file, strictly, for Kubernetes versions.

`python validate.py FILE VERSION...`, where FILE holds {"name of the rendering": [objects]}. What has no schema is a
fault too. Custom resources are checked against the schemas in crds/.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
from kubernetes_validate import utils

CRDS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "crds").glob("*.json")}
# Every call reads the same files of some megabytes.
utils.schema_contents = functools.cache(utils.schema_contents)


def fault(one: dict[str, Any], version: str) -> str | None:
    try:
        if one["kind"] in CRDS:
            jsonschema.Draft7Validator(CRDS[one["kind"]]).validate(one)
        else:
            utils.validate(one, version, strict=True)
    except utils.SchemaNotFoundError as error:
        return str(error.message)
    except jsonschema.ValidationError as error:
        return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    return None


def main(file: Path, versions: list[str]) -> int:
    checked, faults = 0, set()
    known: dict[tuple[str, str], str | None] = {}
    for name, objects in json.loads(file.read_text()).items():
        for version in versions:
            for one in objects:
                key = (json.dumps(one, sort_keys=True), version)
                if key not in known:
                    known[key] = fault(one, version)
                checked += 1
                if known[key]:
                    faults.add(f"{name}, {version}, {one['kind']} {one['metadata']['name']}: {known[key]}")
    print("\n".join(sorted(faults)))
    print(f"{checked} objects, {len(faults)} faults")
    return 1 if faults or not checked else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))

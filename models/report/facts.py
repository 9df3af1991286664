"""Everything the report says, as JSON-able data: from the training records, and from the artifacts themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from models import parity
from models.artifacts import Artifact, Store
from models.report.samples import samples
from models.spec import FRAMEWORKS, NATIVE, ModelSpec

Facts = dict[str, Any]


def collect(store: Store, specs: Sequence[ModelSpec]) -> Facts:
    """Raises NotInstalledError. A model that is not trained has no records, and parity says so in `problems`."""
    models = [model(store, spec) for spec in specs]
    records = [
        record for one in models for version in one["versions"].values() for record in version.values() if record
    ]
    libraries = {name: version for record in records for name, version in record["libraries"].items()}
    return {
        "libraries": dict(sorted(libraries.items())),
        "seeds": sorted({record["seed"] for record in records}),
        "tolerance": {
            "relative": parity.RELATIVE_TOLERANCE,
            "absolute": parity.ABSOLUTE_TOLERANCE,
            "row": parity.ROW_TOLERANCE,
        },
        "models": models,
    }


def model(store: Store, spec: ModelSpec) -> Facts:
    versions = {
        str(version): {framework: store.record(Artifact(spec.name, version, framework)) for framework in FRAMEWORKS}
        for version in spec.versions
    }
    compared = [parity.compare(store, spec, version) for version in spec.versions]
    return {
        "name": spec.name,
        "description": spec.description,
        "inputs": [tensor.as_json() for tensor in spec.inputs],
        "outputs": [tensor.as_json() for tensor in spec.outputs],
        "measure": spec.measure.name,
        "smaller_is_better": spec.measure.smaller_is_better,
        "bar": spec.bar,
        "versions": versions,
        "parity": {str(one.version): parity.as_json(one) for one in compared},
        "samples": samples(store, spec, loadable(compared)),
    }


def loadable(compared: Sequence[parity.Parity]) -> list[str]:
    """The frameworks whose version 1 can be asked."""
    return [framework for one in compared if one.version == NATIVE for framework in one.fingerprints]


def as_json(facts: Facts) -> bytes:
    """Numbers in lists stay on one line: a loss curve is hundreds of them."""
    return (dump(facts, 0) + "\n").encode()


def dump(value: Any, depth: int) -> str:
    """JSON has neither infinity nor NaN; they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    pad = " " * (depth + 1)
    if isinstance(value, dict) and value:
        lines = (f"{pad}{json.dumps(key)}: {dump(item, depth + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(pad + dump(item, depth + 1) for item in value) + "\n" + " " * depth + "]"
    return json.dumps(value)

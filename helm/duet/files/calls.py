"""Calls models through the gateway: `python calls.py URL MODEL@VARIANT...`; exits with 1 where a call fails.

With --compare the variants of a model got the same input and must have answered the same, to
0.001 relative and 0.0001 absolute.
Inputs are made from what the gateway tells of the model. Standard library only; DUET_KEY_FILE names a file with a key.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

RELATIVE, ABSOLUTE = 1e-3, 1e-4
TIMEOUT_SECONDS = 30


class CallFailed(Exception):
    """The text says which call, and what came back."""


def call(url: str, body: dict | None = None) -> dict:
    headers = {"Content-Type": "application/json"}
    if key_file := os.environ.get("DUET_KEY_FILE"):
        headers["Authorization"] = f"Bearer {Path(key_file).read_text().strip()}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data=data, headers=headers), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - the operator's address
            return json.load(answer)
    except HTTPError as error:
        raise CallFailed(f"{url}: status {error.code}: {error.read(500).decode(errors='replace')}") from error
    except (URLError, OSError, ValueError) as error:
        raise CallFailed(f"{url}: {error}") from error


def example(metadata: dict, seed: int) -> dict:
    """A request of one row with values that any model of its datatypes can take."""
    inputs = []
    for tensor in metadata["inputs"]:
        # By its name: the frameworks tell their inputs in different orders.
        chosen = random.Random(f"{seed} {tensor['name']}")  # noqa: S311 - an example, no secret
        shape = [1 if size < 0 else size for size in tensor["shape"]]
        make = {"F": chosen.random, "B": lambda: "a fine day"}.get(tensor["datatype"][0], lambda: 1)
        if tensor["datatype"] == "BOOL":
            make = lambda: True  # noqa: E731
        data = [make() for _ in range(math.prod(shape))]
        inputs.append({"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": data})
    return {"inputs": inputs}


def answer(url: str, pinned: str) -> dict[str, list]:
    """The outputs of one call. Raises CallFailed."""
    path = f"{url}/v2/models/{pinned}"
    outputs = call(f"{path}/infer", example(call(path), seed=7)).get("outputs", [])
    found = {output["name"]: output["data"] for output in outputs}
    if not found or not all(found.values()):
        raise CallFailed(f"{path}: an answer without data")
    return found


def differences(model: str, found: dict[str, dict]) -> list[str]:
    lines = []
    (first, expected), *others = found.items()
    for variant, outputs in others:
        for name, data in expected.items():
            if not same(flat(data), flat(outputs.get(name, []))):
                lines.append(f"{model}: {name} of {variant} is not that of {first}")
    return lines


def flat(data: list) -> list:
    return [value for item in data for value in (flat(item) if isinstance(item, list) else [item])]


def same(ones: list, others: list) -> bool:
    if len(ones) != len(others):
        return False
    return all(
        math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE) if isinstance(one, float) else one == other
        for one, other in zip(ones, others, strict=True)
    )


def main(arguments: list[str]) -> int:
    compare = "--compare" in arguments
    url, *names = (argument for argument in arguments if argument != "--compare")
    models: dict[str, dict] = {}
    failed = []
    for pinned in names:
        model, _, variant = pinned.partition("@")
        try:
            models.setdefault(model, {})[variant] = answer(url.rstrip("/"), pinned)
        except CallFailed as error:
            failed.append(str(error))
    for model, found in models.items():
        failed += differences(model, found) if compare and found else []
        print(f"{model}: {', '.join(found) or 'nobody'} answered")
    print("\n".join(failed) or f"{len(names)} calls, no fault found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

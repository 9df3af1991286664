"""The OpenAPI document, tried by schemathesis: what it generates is answered as the document says, whatever it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security.door import LEAK, MODEL, Door

#: 501 is for content codings that are not known here.
ANSWERS = {"200", "400", "404", "405", "413", "414", "417", "431", "501"}
CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance"


def run(door: Door, folder: Path, *options: str) -> tuple[int, dict[str, int]]:
    """The number of requests, and how many answers of each status there were."""
    document, cassette = folder / "openapi.json", folder / "calls.ndjson"
    told = json.loads(door.gateway.admin.get("/openapi.json").content)
    for parameter in (each for path in told["paths"].values() for each in next(iter(path.values()))["parameters"]):
        if parameter["in"] == "path":  # otherwise nothing that is generated gets further than the name
            known = {"model": [MODEL, f"{MODEL}@pytorch"], "version": ["1"]}[parameter["name"]]
            parameter["schema"] = {"anyOf": [{"enum": known}, {"type": "string"}]}
    document.write_text(json.dumps(told))
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", door.gateway.url]
    command += ["--checks", CHECKS, "--seed", "7", "--no-color", "--report-ndjson-path", str(cassette), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False, cwd=folder)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    found: dict[str, int] = {}
    for status in re.findall(r'"status_code": ?(\d{3})', cassette.read_text()):
        found[status] = found.get(status, 0) + 1
    return sum(found.values()), found


def test_every_operation_is_in_the_document(door: Door) -> None:
    document = json.loads(door.gateway.admin.get("/openapi.json").content)
    assert {"/v2", "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"} <= set(document["paths"])
    assert not LEAK.search(json.dumps({**document, "servers": []}).encode())


def test_what_schemathesis_makes_is_answered_as_the_document_says(
    door: Door, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    count, found = run(door, tmp_path, "--phases", "examples,coverage,fuzzing", "-n", "5")
    record_property("cases", count)
    assert count > 200
    assert found.keys() <= ANSWERS


@pytest.mark.full
def test_twenty_thousand_of_them_are(
    door: Door, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    count, found = run(door, tmp_path, "-n", "2000")
    record_property("cases", count)
    undeclared = sum(number for status, number in found.items() if status[0] == "5" and status not in ANSWERS)
    record_property("figure", f"{undeclared} undeclared 5xx")
    assert count >= 20_000
    assert found.keys() <= ANSWERS

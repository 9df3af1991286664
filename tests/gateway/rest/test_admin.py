"""The documentation on the admin port needs nothing from elsewhere."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.rest import admin
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway

SWAGGER = Path(admin.__file__).parent / "swagger"


def test_the_documentation_is_whole_without_the_internet(
    gateway_with: Callable[[dict[str, Any]], RunningGateway],
) -> None:
    """Scripts, styles and icon come from the port itself, and the document is sent to no validator."""
    pytorch = FakeTorchServe({})
    server = {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url}
    client = gateway_with({"servers": {"pytorch": server}}).admin
    page = client.get("/docs").text
    wanted = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
    assert len(wanted) == 3
    for path in wanted:
        assert path.startswith("/docs/"), path
        answer = client.get(path)
        assert answer.status_code == 200
        name = path.removeprefix("/docs/")
        packed = SWAGGER / f"{name}.gz"
        assert answer.content == (
            gzip.decompress(packed.read_bytes()) if packed.exists() else (SWAGGER / name).read_bytes()
        )
    assert '"validatorUrl": null' in page
    assert "://" not in page
    assert client.get("/openapi.json").json()["openapi"].startswith("3.")
    assert client.get("/docs/%2e%2e/admin.py").status_code == 400
    pytorch.close()


def test_what_is_not_ours_has_its_licences_beside_it() -> None:
    assert "Apache License" in (SWAGGER / "LICENSE").read_text()
    assert (SWAGGER / "NOTICE").read_text()
    assert (SWAGGER / "swagger-ui-bundle.js.LICENSE.txt").read_text()

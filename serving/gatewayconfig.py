"""The gateway's settings file for the servers that run here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from serving.localkey import OPEN
from serving.options import LOOPBACK, Options

# The server's key in the file is the variant's name.
TENSORFLOW, PYTORCH = "tensorflow", "pytorch"


def render_gateway_config(
    options: Options,
    variants: Mapping[str, Sequence[str]],
    *,
    key_file: Path,
    model_config_file: Path,
    auth: Mapping[str, Any] = OPEN,
    rows: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    opaque: Collection[str] = (),
) -> str:
    """duet.yaml as text. `variants` gives each model's variants, its default first; `auth` says who may call.

    A server that serves none of them is left out. `rows` is what is known of the rows of a model's variants: a real
    tensorflow_model_server cannot report it. `opaque` names the models whose handler is the user's own.
    """
    ports = options.ports
    servers: dict[str, dict[str, str]] = {
        TENSORFLOW: {
            "kind": "tfserving",
            "endpoint": f"{LOOPBACK}:{ports['--tf-port']}",
            "model_config_file": str(model_config_file),
        },
        PYTORCH: {
            "kind": "torchserve",
            "endpoint": f"http://{LOOPBACK}:{ports['--torchserve-port']}",
            "management": f"http://{LOOPBACK}:{ports['--torchserve-management-port']}",
            "key_file": str(key_file),
        },
    }
    used = {kind for kinds in variants.values() for kind in kinds}
    settings: dict[str, Any] = {
        "auth": dict(auth),
        "http": {"host": options.host, "port": ports["--http-port"]},
        "grpc": {"host": options.host, "port": ports["--grpc-port"], "reflection": True},
        "admin": {"host": options.admin_host, "port": ports["--admin-port"]},
        "servers": {name: server for name, server in servers.items() if name in used},
        "models": {
            name: model_settings(kinds, rows.get(name, {}), opaque=name in opaque) for name, kinds in variants.items()
        },
    }
    return yaml.safe_dump(settings, sort_keys=False)


def model_settings(kinds: Sequence[str], rows: Mapping[str, str], *, opaque: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"variants": list(kinds), "default": kinds[0]}
    if opaque:
        settings["opaque"] = True
    if rows:
        settings["batching"] = {"rows": dict(rows)}
    return settings

"""Both servers' configuration side by side. What differs without need must be allowed by name, and is printed."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil  # type: ignore[import-untyped]

from gateway.servers.tfserving.settings import TFServingSettings
from gateway.servers.torchserve.settings import TorchServeSettings
from loadtest.failures import LoadFailed, NotComparable
from loadtest.stack import Stack
from models.artifacts import read_json
from models.spec import FRAMEWORKS

UNKNOWN = "unknown"
BY_NATURE = ("framework", "server", "wire to the gateway", "processes")
"""Rows that differ because the two are two."""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. ``key`` is the name that --allow-diff takes."""

    key: str
    values: tuple[str, ...]
    reason: str = ""

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1 or UNKNOWN in self.values

    @property
    def needs_reason(self) -> bool:
        return self.differs and self.key not in BY_NATURE

    @property
    def is_refused(self) -> bool:
        """Other weights make another function: no reason allows them. Unknown ones are left to the outputs' parity."""
        return self.key == "weights" and self.differs and UNKNOWN not in self.values


@dataclass(frozen=True, slots=True)
class Configuration:
    variants: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr([(row.key, row.values) for row in self.rows]).encode()).hexdigest()[:16]

    def value(self, key: str) -> tuple[str, ...]:
        return next(row.values for row in self.rows if row.key == key)

    def changes(self, later: Configuration) -> list[str]:
        return [one.key for one, other in zip(self.rows, later.rows, strict=True) if one.values != other.values]

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "key": row.key,
                "values": list(row.values),
                "differs": row.differs,
                "by_nature": row.key in BY_NATURE,
                "reason": row.reason,
            }
            for row in self.rows
        ]


def read(stack: Stack, model: str, version: int, allowed: Mapping[str, str]) -> Configuration:
    """Raises NotComparable for a row that differs and is not in ``allowed``, LoadFailed for a name that is no row."""
    of_variants = [_of(stack, variant, model, version) for variant in FRAMEWORKS]
    rows = tuple(
        Row(key, tuple(found.get(key, UNKNOWN) for found in of_variants), allowed.get(key, ""))
        for key in of_variants[0]
    )
    if strangers := sorted(set(allowed) - {row.key for row in rows}):
        raise LoadFailed(f"--allow-diff {strangers[0]}: no such row; there are {', '.join(row.key for row in rows)}")
    if unequal := [row for row in rows if row.is_refused or (row.needs_reason and not row.reason)]:
        lines = "; ".join(f"{row.key}: {' and '.join(row.values)}" for row in unequal)
        raise NotComparable(f"the configurations differ ({lines}); make them equal, or --allow-diff KEY=REASON")
    return Configuration(FRAMEWORKS, rows)


def _of(stack: Stack, variant: str, model: str, version: int) -> dict[str, str]:
    server = stack.settings.servers.get(variant)
    if isinstance(server, TFServingSettings):
        own = _tensorflow(stack, server, model, version)
    elif isinstance(server, TorchServeSettings):
        own = _torchserve(stack, server, variant, model, version)
    else:
        raise LoadFailed(f"{stack.config} has no server {variant!r}")
    return {**own, "machine": machine(), "device": _device(), "model version": str(version), **_gateway(stack, model)}


def _tensorflow(stack: Stack, server: TFServingSettings, model: str, version: int) -> dict[str, str]:
    process = _process(stack, "tensorflow")
    flags = _flags(process)
    signature = _signature_on_disk(server.model_config_file, model, version)
    return {
        "framework": f"TensorFlow {_installed('tensorflow')}",
        "server": "embedded, TF Serving's protocol" if "serving.embedded" in flags else "tensorflow_model_server",
        "wire to the gateway": "gRPC, tensor_content",
        "processes": "1",
        "weights": _short(signature),
        "datatypes": _datatypes(signature),
        "threads of one operation": flags.get("--tensorflow_intra_op_parallelism", UNKNOWN),
        "operations at a time": flags.get("--tensorflow_inter_op_parallelism", UNKNOWN),
        "batching in the server": "on" if "--enable_batching" in flags else "off",
        "cores": _cores(process),
    }


def _torchserve(stack: Stack, server: TorchServeSettings, variant: str, model: str, version: int) -> dict[str, str]:
    process = _process(stack, "torchserve")
    described = _describe(stack, server, variant, model, version)
    signature = described.get("customizedMetadata")
    signature = json.loads(signature) if isinstance(signature, str) else signature
    environment: dict[str, str] = {}
    with suppress(psutil.Error, AttributeError):
        environment = process.environ() if process else {}
    workers = str(described.get("maxWorkers", UNKNOWN))
    return {
        "framework": f"PyTorch {_installed('torch')}",
        "server": f"TorchServe {_installed('torchserve')}",
        "wire to the gateway": "REST, binary tensors",
        "processes": f"java and {workers} worker(s)",
        "weights": _short(signature),
        "datatypes": _datatypes(signature),
        "threads of one operation": environment.get("DUET_TORCH_THREADS", UNKNOWN),
        "operations at a time": workers,
        "batching in the server": "off" if described.get("batchSize") == 1 else f"up to {described.get('batchSize')}",
        "cores": _cores(process),
    }


def _gateway(stack: Stack, model: str) -> dict[str, str]:
    """Settings of the gateway that touch both variants alike; they are shown, for they shape the figures.

    Raises LoadFailed where it keeps answers: the load would measure its memory.
    """
    settings = stack.settings.model_dump(mode="json")
    of_model = settings["models"].get(model) or {}
    if of_model.get("cache") or settings.get("cache"):
        raise LoadFailed(f"the gateway keeps answers of {model}; take `cache` out of {stack.config} for a comparison")
    batching = stack.settings.batching_of(model).model_dump(mode="json")
    return {"batching in the gateway": json.dumps(batching).strip("{}").replace('"', "")}


def _describe(stack: Stack, server: TorchServeSettings, variant: str, model: str, version: int) -> dict[str, Any]:
    at = urlsplit(server.management)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=5)
    path = f"/models/{quote(model, safe='')}/{version}?customized=true"
    try:
        connection.request("GET", path, headers=stack.authorization(variant, "management"))
        answer = json.loads(connection.getresponse().read())
        return answer[0] if isinstance(answer, list) and answer else {}
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    finally:
        connection.close()


def artifacts_root(stack: Stack) -> Path | None:
    """The folder that the TensorFlow server's models lie in, where it can be read here."""
    for server in stack.settings.servers.values():
        if isinstance(server, TFServingSettings) and server.model_config_file and server.model_config_file.is_file():
            for line in server.model_config_file.read_text().splitlines():
                if "base_path:" in line:
                    return Path(line.split('"')[1]).parents[1]
    return None


def _signature_on_disk(config: Path | None, model: str, version: int) -> dict[str, Any] | None:
    if config is None or not config.is_file():
        return None
    for line in config.read_text().splitlines():
        folder = Path(line.split('"')[1]) if "base_path:" in line else None
        if folder is not None and folder.name == model:
            return read_json(folder / str(version) / "assets.extra" / "duet.json")
    return None


def _short(signature: dict[str, Any] | None) -> str:
    return str((signature or {}).get("fingerprint", UNKNOWN))[: len("sha256:") + 16]


def _datatypes(signature: dict[str, Any] | None) -> str:
    if signature is None:
        return UNKNOWN
    return ", ".join(f"{one['name']} {one['datatype']}" for one in (*signature["inputs"], *signature["outputs"]))


def _process(stack: Stack, name: str) -> psutil.Process | None:
    try:
        return psutil.Process(stack.processes[name])
    except (KeyError, psutil.Error):
        return None


def _flags(process: psutil.Process | None) -> dict[str, str]:
    """``--name=value`` of the command line of the process or of the one that it started; bare words as themselves."""
    if process is None:
        return {}
    words: list[str] = []
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            words += one.cmdline()
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _cores(process: psutil.Process | None) -> str:
    try:
        return ", ".join(map(str, process.cpu_affinity())) if process else UNKNOWN
    except (psutil.Error, AttributeError):
        return UNKNOWN


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _device() -> str:
    return "GPU visible" if any(Path("/dev").glob("nvidia[0-9]*")) else "CPU, FP32"


def machine() -> str:
    """The processor and how many there are: what makes a calibration this machine's."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"

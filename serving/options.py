"""The command line of `python -m serving up`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.ports import Listener
from serving.torchserve import TorchServePorts

LOOPBACK = "127.0.0.1"

# option, default, whose, what for
PORTS = (
    ("--http-port", 8000, "gateway", "clients over HTTP"),
    ("--grpc-port", 8001, "gateway", "clients over gRPC"),
    ("--admin-port", 8002, "gateway", "metrics, health and administration"),
    ("--tf-port", 8500, "TensorFlow server", "gRPC"),
    ("--torchserve-port", 8080, "TorchServe", "inference"),
    ("--torchserve-management-port", 8081, "TorchServe", "management"),
    ("--torchserve-metrics-port", 8082, "TorchServe", "metrics"),
    ("--torchserve-grpc-port", 7070, "TorchServe", "inference over gRPC"),
    ("--torchserve-grpc-management-port", 7071, "TorchServe", "management over gRPC"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str
    admin_host: str
    ports: dict[str, int]  # by option, e.g. "--http-port"
    artifacts: Path
    run_dir: Path
    models: tuple[str, ...]
    train: bool
    tf_serving_binary: str | None
    workers_per_model: int
    threads: int
    timeout_seconds: float
    allow_digests: Path | None = None

    def listeners(self) -> list[Listener]:
        hosts = {"--http-port": self.host, "--grpc-port": self.host, "--admin-port": self.admin_host}
        return [
            Listener(
                server=f"{server}, {use}", host=hosts.get(option, LOOPBACK), port=self.ports[option], option=option
            )
            for option, _, server, use in PORTS
        ]

    def torchserve_ports(self) -> TorchServePorts:
        return TorchServePorts(
            inference=self.ports["--torchserve-port"],
            management=self.ports["--torchserve-management-port"],
            metrics=self.ports["--torchserve-metrics-port"],
            grpc_inference=self.ports["--torchserve-grpc-port"],
            grpc_management=self.ports["--torchserve-grpc-management-port"],
        )


def parse(arguments: Sequence[str]) -> Options:
    """Raises SystemExit with usage on a bad command line, and after --help."""
    parsed = _parser().parse_args(arguments)
    ports = {option: getattr(parsed, _attribute(option), default + parsed.port_offset) for option, default, *_ in PORTS}
    return Options(
        host=parsed.host,
        admin_host=parsed.admin_host,
        ports=ports,
        artifacts=parsed.artifacts.absolute(),
        run_dir=parsed.run_dir.absolute(),
        models=tuple(name for name in map(str.strip, parsed.models.split(",")) if name),
        train=not parsed.no_train,
        tf_serving_binary=parsed.tf_serving_binary,
        workers_per_model=parsed.workers_per_model,
        threads=parsed.threads,
        timeout_seconds=parsed.timeout,
        allow_digests=parsed.allow_digests.absolute() if parsed.allow_digests else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up",
        help="start both servers and the gateway, show predictions, stay until Ctrl-C",
        description="Trains what is missing, starts TensorFlow's server, TorchServe and the gateway, waits until every "
        "model answers, shows one prediction of each and stays until Ctrl-C, which stops them all.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    up.add_argument("--host", default=LOOPBACK, help="address that the gateway takes clients on")
    up.add_argument("--admin-host", default=LOOPBACK, help="address of the gateway's metrics and administration")
    for option, default, server, use in PORTS:
        up.add_argument(
            option, type=_port, metavar="PORT", help=f"{server}: {use} (default: {default})", default=argparse.SUPPRESS
        )
    up.add_argument("--port-offset", type=int, default=0, metavar="N", help="added to every port that is not given")
    up.add_argument("--artifacts", type=Path, default=Path("artifacts"), metavar="DIR", help="the models' folder")
    up.add_argument("--run-dir", type=Path, default=Path(".duet"), metavar="DIR", help="logs and written configuration")
    up.add_argument("--models", default="", metavar="A,B", help="only these models; all if empty")
    up.add_argument(
        "--allow-digests", type=Path, metavar="FILE", help="load only artifacts whose SHA-256 digests this file lists"
    )
    up.add_argument("--no-train", action="store_true", help="fail if a model is missing")
    up.add_argument("--tf-serving-binary", metavar="FILE", help="the real tensorflow_model_server, if not on PATH")
    up.add_argument("--workers-per-model", type=_count, default=1, metavar="N", help="TorchServe's, each a process")
    up.add_argument("--threads", type=_count, default=1, metavar="N", help="of one operation, in both servers alike")
    up.add_argument("--timeout", type=float, default=180.0, metavar="SECONDS", help="for everything to be ready")
    return parser


def _attribute(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _port(text: str) -> int:
    return _in_range(text, 1, 65_535)


def _count(text: str) -> int:
    return _in_range(text, 1, 1_024)


def _in_range(text: str, least: int, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
    return number

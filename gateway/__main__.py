"""``python -m gateway --config duet.yaml``: serves until SIGTERM or SIGINT, then drains and exits with 0."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.config import ConfigError, Settings, load, require_auth
from gateway.logging import configure


def main() -> int:
    if sys.argv[1:2] == ["keys"]:
        from gateway.security.commands import main as keys

        return keys(sys.argv[2:])
    arguments = _parser().parse_args()
    if arguments.worker:
        return _work()
    try:
        settings = _settings(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.check_config:
        print(f"{arguments.config}: {len(settings.models)} models on {len(settings.servers)} servers, no fault found")
        return 0
    configure(settings.log.level)
    try:
        return _serve(settings, arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description="Duet's gateway; `python -m gateway keys` makes API keys",
    )
    parser.add_argument("--config", type=Path, default=Path("duet.yaml"), help="settings file (default: %(default)s)")
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that share the ports, restarted one by one on SIGHUP (default: the setting workers, or 1)",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="measure where the time goes, slower by a third; at the end print the dearest functions, keep all in FILE",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    environment = dict(os.environ)
    if arguments.workers is not None:
        environment["DUET__WORKERS"] = str(arguments.workers)
    settings = load(arguments.config, environment)
    try:
        require_auth(settings)
    except ConfigError as error:
        raise ConfigError(f"{arguments.config}: {error}") from None
    return settings


def _serve(settings: Settings, arguments: argparse.Namespace) -> int:
    if settings.workers > 1:
        if arguments.profile is not None:
            raise ConfigError("--profile measures one process: give --workers 1 with it")
        # The supervisor of workers needs nothing of what they import, and stays small.
        from gateway.workers.supervisor import Supervisor

        return Supervisor(settings, reload=lambda: _settings(arguments)).run()
    gc.disable()  # until all is imported and built
    from gateway.process import run

    if arguments.profile is None:
        run(settings)
    else:
        _profiled(lambda: run(settings), arguments.profile)
    return 0


def _profiled(serve: Callable[[], None], file: Path) -> None:
    """Serves, then prints the functions that took most themselves; ``python -m pstats`` reads ``file``."""
    import cProfile
    import pstats

    file.touch()  # a path that cannot be written is told now, not after the load
    profile = cProfile.Profile()
    try:
        profile.runcall(serve)
    finally:
        profile.dump_stats(file)
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(40)


def _work() -> int:
    gc.disable()
    from gateway.process import run_worker
    from gateway.workers.order import read

    order = read(sys.stdin.buffer)
    configure(order.settings.log.level)
    try:
        run_worker(order)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

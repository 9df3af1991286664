"""`python -m models list` and `python -m models train`."""

from __future__ import annotations

import argparse
import errno
import sys
from functools import partial
from pathlib import Path

from rich.console import Console

from models import display
from models.artifacts import Store
from models.catalog import CATALOG, select, select_frameworks
from models.datasets import DatasetUnavailableError
from models.frameworks import NotInstalledError
from models.plan import Options, Step, decide, settings, with_dataset
from models.spec import FRAMEWORKS, UnknownNameError

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130


def whole_number(text: str, smallest: int) -> int:
    if not text.isdecimal() or int(text) < smallest:
        raise argparse.ArgumentTypeError(f"must be a whole number from {smallest}, not {text!r}")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the models, and which artifacts are there")
    train = commands.add_parser("train", help="train and export what is missing")
    train.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CATALOG)}; all by default")
    train.add_argument(
        "--framework", action="append", default=[], metavar="FRAMEWORK", help=f"{' or '.join(FRAMEWORKS)}; both"
    )
    train.add_argument("--dataset", help="train on this data; without NAME, the models that can be")
    train.add_argument("--epochs", type=partial(whole_number, smallest=1), metavar="N", help="the model's own number")
    train.add_argument("--seed", type=partial(whole_number, smallest=0), metavar="N", help="of weights and batches; 0")
    train.add_argument("--force", action="store_true", help="train again what is there")
    for command in (listing, train):
        command.add_argument("--out", type=Path, default=Store().root, metavar="DIR", help="artifacts' folder")
    return parser.parse_args(arguments)


def train(arguments: argparse.Namespace, console: Console) -> None:
    specs = with_dataset(select(arguments.names), arguments.dataset, named=bool(arguments.names))
    chosen = select_frameworks(arguments.framework)
    options = Options(arguments.dataset, arguments.epochs, arguments.seed, arguments.force)
    store = Store(arguments.out)
    plan = decide(store, specs, chosen, options)
    if plan.steps:
        carry_out(store, plan.steps, options, console)
    console.print(display.results(store, specs, chosen))
    if not plan.steps:
        console.print(f"Nothing to do: all of it is in {store.root}. Use --force to train again.", highlight=False)
    for artifact in plan.blocked:
        console.print(
            f"{artifact.name} version {artifact.version} is PyTorch's version 1, which is not there yet: "
            f"python -m models train {artifact.name}",
            highlight=False,
        )


def carry_out(store: Store, steps: list[Step], options: Options, console: Console) -> None:
    from models import production

    def epochs(step: Step) -> int:
        return settings(CATALOG[step.artifact.name], options).epochs if step.action == "train" else 1

    with display.Bars(console, steps, epochs).shown() as bars:
        for step in steps:
            bars.begin(step)
            record = production.run(store, step, options, partial(bars.epoch, step))
            bars.end(step, record)


def explain(error: OSError, out: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left in {out}; free some or give another folder with --out"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"not allowed to write to {error.filename or out}; give another folder with --out"
    return f"could not write to {out}: {error}; free space, or give another folder with --out"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    console = Console()
    try:
        if options.command == "list":
            console.print(display.listing(Store(options.out), select()))
        else:
            train(options, console)
    except (UnknownNameError, DatasetUnavailableError, NotInstalledError) as error:
        print(f"models: {error}", file=sys.stderr)
        return BAD_USAGE if isinstance(error, UnknownNameError) else FAILED
    except OSError as error:
        print(f"models: {explain(error, options.out)}. What was there before is untouched.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("models: interrupted. What was finished is kept; run it again to continue.", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

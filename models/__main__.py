"""The documented models: train them, prove their twins equal, report on them, serve your own beside them."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import get_args

from rich.console import Console

from models import display
from models.artifacts import Store
from models.catalog import CATALOG, select, select_frameworks
from models.datasets import DatasetUnavailableError
from models.frameworks import NotInstalledError
from models.fronts import FRONTS, URLS, FrontError
from models.generate import LENGTH, MODEL, PROMPT, SEED, TEMPERATURE, GenerationError
from models.importing.request import ImportRefusedError, Request, model_name, tensor_name, tensor_spec
from models.plan import Options, Step, decide, settings, with_dataset
from models.served import imported
from models.spec import FILE, FRAMEWORKS, TRANSPLANTED, Rows, UnknownNameError

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130


def whole_number(text: str, smallest: int) -> int:
    if not text.isdecimal() or int(text) < smallest:
        raise argparse.ArgumentTypeError(f"must be a whole number from {smallest}, not {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the models, and which artifacts are there")
    train = commands.add_parser("train", help="train and export what is missing")
    parity = commands.add_parser("parity", help="prove that both frameworks' artifacts compute the same")
    report = commands.add_parser("report", help="write what is known of the models as a page and as JSON")
    bring = commands.add_parser("import", help="serve a model of your own", description=importing_help())
    add_generating(commands.add_parser("generate", help=f"text from {MODEL}, through the gateway"))
    for command in (train, parity, report):
        command.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CATALOG)}; all by default")
    add_training(train)
    version = partial(whole_number, smallest=1)
    parity.add_argument("--version", type=version, default=TRANSPLANTED, metavar="N", help=f"{TRANSPLANTED} by default")
    parity.add_argument("--json", action="store_true", help="the figures as JSON")
    add_importing(bring)
    for command in (listing, train, parity, report, bring):
        command.add_argument("--out", type=Path, default=Store().root, metavar="DIR", help="artifacts' folder")
    return parser.parse_args(arguments)


def add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--framework", action="append", default=[], metavar="FRAMEWORK", help=f"{' or '.join(FRAMEWORKS)}; both"
    )
    data = command.add_mutually_exclusive_group()
    data.add_argument("--dataset", help="train on this data; without NAME, the models that can be")
    data.add_argument(
        "--data", dest="dataset", type=own_file, metavar="FILE", help="your own sentences, each with a tab and 0 or 1"
    )
    command.add_argument("--epochs", type=partial(whole_number, smallest=1), metavar="N", help="the model's own number")
    command.add_argument(
        "--seed", type=partial(whole_number, smallest=0), metavar="N", help="of weights and batches; 0"
    )
    command.add_argument("--force", action="store_true", help="train again what is there")


def own_file(text: str) -> str:
    """The name of the dataset, which version 2 finds again from any folder."""
    return f"{FILE}{Path(text).resolve()}"


def importing_help() -> str:
    return (
        "SOURCE is a SavedModel's folder, a .keras, .tflite or TorchScript (.pt) file, PACKAGE.MODULE:FACTORY of a "
        "torch.nn.Module, or a TorchServe archive (.mar). The model is loaded and asked before anything is published; "
        "an archive's own handler is loaded at the next start, and bodies go to it as they are."
    )


def add_importing(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="SOURCE", help="folder, file or PACKAGE.MODULE:FACTORY")
    command.add_argument("--name", type=model_name, help="what clients call it; by default after SOURCE")
    command.add_argument("--version", type=partial(whole_number, smallest=1), metavar="N", help="1 by default")
    command.add_argument("--description", default="", metavar="TEXT", help="for `python -m models list` and clients")
    command.add_argument(
        "--input",
        dest="inputs",
        action="append",
        type=tensor_spec,
        default=[],
        metavar="NAME:DATATYPE:SHAPE",
        help="one of the inputs, in their order, as in image:FP32:-1,3,224,224. Of PyTorch: KEY of a dict that is the "
        "only argument, ARGUMENT.KEY of one beside others, ARGUMENT.0 of a list or tuple; an optional argument is an "
        "input, which requests may leave out, where its name is given",
    )
    command.add_argument(
        "--output",
        dest="outputs",
        action="append",
        type=tensor_name,
        default=[],
        metavar="NAME",
        help="name of one of the outputs, in their order",
    )
    command.add_argument("--signature", metavar="NAME", help="of a SavedModel; serving_default by default")
    command.add_argument("--example", type=Path, metavar="FILE", help="to try it with: .npy, .npz, .json, or an image")
    command.add_argument(
        "--rows",
        choices=get_args(Rows),
        help="whether a row's answer depends on the rows beside it, which decides whether requests are joined; by "
        "default an analysis of the model's graph concludes it",
    )
    command.add_argument("--weights", type=Path, metavar="FILE", help="a state_dict for PACKAGE.MODULE:FACTORY")
    command.add_argument("--force", action="store_true", help="replace the version that is there")


def add_generating(command: argparse.ArgumentParser) -> None:
    command.add_argument("--front", choices=FRONTS, default=next(iter(FRONTS)), help="how to call the gateway; v2-rest")
    command.add_argument("--url", help=f"the gateway's; {URLS['v2-rest']}, over gRPC {URLS['v2-grpc']}")
    command.add_argument("--variant", choices=FRAMEWORKS, help="one framework; both by default")
    command.add_argument("--prompt", default=PROMPT, metavar="TEXT", help=f"what to continue; {PROMPT!r}")
    command.add_argument("--length", type=partial(whole_number, smallest=1), default=LENGTH, metavar="N")
    command.add_argument("--temperature", type=positive_number, default=TEMPERATURE, metavar="X", help="0.5")
    command.add_argument("--seed", type=partial(whole_number, smallest=0), default=SEED, metavar="N", help="0")


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


def parity(arguments: argparse.Namespace, console: Console) -> int:
    """1 where an artifact is not what it says, or version 2 is not the same function in both frameworks."""
    from models import parity

    found = []
    for spec in select(arguments.names):
        with console.status(f"comparing {spec.name}"):
            found.append(parity.compare(Store(arguments.out), spec, arguments.version))
    if arguments.json:
        print(json.dumps([parity.as_json(one) for one in found], indent=1))
    else:
        console.print(display.parities(found))
    for problem in (problem for one in found for problem in one.problems):
        print(f"models: {problem}", file=sys.stderr)
    return FAILED if any(one.problems for one in found) else 0


def bring(arguments: argparse.Namespace, console: Console) -> None:
    from models.importing.deliver import deliver

    chosen = {key: value for key, value in vars(arguments).items() if key in Request.__dataclass_fields__}
    request = Request(**{**chosen, "inputs": tuple(arguments.inputs), "outputs": tuple(arguments.outputs)})
    with console.status(f"loading and asking {request.source}"):
        delivery = deliver(Store(arguments.out), request)
    display.show_delivery(console, delivery)


def report(arguments: argparse.Namespace, console: Console) -> None:
    from models.report import write

    with console.status("comparing and drawing"):
        page = write(Store(arguments.out), select(arguments.names))
    console.print(f"{page} and {page.with_suffix('.json').name} beside it", highlight=False, soft_wrap=True)


def generate(arguments: argparse.Namespace, console: Console) -> None:
    from models.generate import continued

    (spec,) = select([MODEL])
    url = arguments.url or URLS[arguments.front]
    chances = {"temperature": arguments.temperature, "seed": arguments.seed}
    for variant in [arguments.variant] if arguments.variant else FRAMEWORKS:
        with closing(FRONTS[arguments.front](url, spec, variant)) as step:
            letters = continued(step, arguments.prompt, arguments.length, **chances)
            first = next(letters)  # the failures are nearly all before it
            console.print(f"{variant}:", style="bold", highlight=False)
            for letter in chain((arguments.prompt, first), letters):
                print(letter, end="", flush=True)
            print("\n")


def show_list(arguments: argparse.Namespace, console: Console) -> None:
    console.print(display.listing(Store(arguments.out), select()))
    if own := imported(arguments.out):
        console.print(display.imports(own))


def explain(error: OSError, out: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left in {out}; free some or give another folder with --out"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"not allowed to write to {error.filename or out}; give another folder with --out"
    return f"could not write to {out}: {error}; free space, or give another folder with --out"


COMMANDS = {
    "list": show_list,
    "train": train,
    "parity": parity,
    "report": report,
    "import": bring,
    "generate": generate,
}

REFUSALS = (
    UnknownNameError,
    DatasetUnavailableError,
    NotInstalledError,
    ImportRefusedError,
    GenerationError,
    FrontError,
)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    console = Console()
    try:
        return COMMANDS[options.command](options, console) or 0
    except REFUSALS as error:
        print(f"models: {error}", file=sys.stderr)
        return BAD_USAGE if isinstance(error, UnknownNameError) else FAILED
    except OSError as error:
        print(f"models: {explain(error, options.out)}. What was there before is untouched.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("models: interrupted. What was finished is kept; run it again to continue.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

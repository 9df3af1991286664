"""The command line of tensorflow_model_server: the same names, defaults and way of parsing.

Read in TF Serving's model_servers/main.cc and TensorFlow's core/util/command_line_flags.cc: a flag is `--name=value`, a
boolean may stand alone; `--name value` is two unknown arguments; an unknown argument prints the usage and the server goes
on; a value that cannot be read prints the usage and the server exits with 255.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from serving.embedded.flag_table import FLAGS, REFUSED, Flag

Value = str | int | float | bool


class FlagError(Exception):
    """A value could not be read; the text is TensorFlow's."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What was asked for. `values` holds every known flag, given or default."""

    values: dict[str, Value]
    given: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    help_asked: bool = False
    warnings: tuple[str, ...] = field(default=())

    def text(self, name: str) -> str:
        return str(self.values[name])

    def number(self, name: str) -> int:
        return int(self.values[name])

    def fraction(self, name: str) -> float:
        return float(self.values[name])

    def on(self, name: str) -> bool:
        return bool(self.values[name])


def parse(arguments: Sequence[str]) -> CommandLine:
    """Raises FlagError for a value of the wrong type, and for a flag that would be unsafe to ignore."""
    values: dict[str, Value] = {flag.name: flag.default for flag in FLAGS.values()}
    given: dict[str, Flag] = {}
    unknown: list[str] = []
    for argument in arguments:
        flag, value = _match(argument)
        if flag is None:
            unknown.append(argument)
        else:
            values[flag.name] = value
            given[flag.name] = flag
    _refuse_unsafe(values, given)
    return CommandLine(
        values=values,
        given=frozenset(given),
        unknown=tuple(argument for argument in unknown if argument != "--help"),
        help_asked="--help" in unknown,
        warnings=tuple(_warnings(given.values())),
    )


def usage(program: str) -> str:
    """The list of flags in TensorFlow's layout."""
    lines = [f"usage: {program}", "Flags:"]
    for flag in FLAGS.values():
        kind = {str: "string", bool: "bool", int: "int32", float: "float"}[type(flag.default)]
        shown = f'"{flag.default}"' if isinstance(flag.default, str) else str(flag.default).lower()
        lines.append(f"\t--{flag.name + '=' + shown:<45}\t{kind}\t{flag.help}")
    return "\n".join(lines) + "\n"


def _match(argument: str) -> tuple[Flag | None, Value]:
    name, equals, text = argument.removeprefix("--").partition("=")
    flag = FLAGS.get(name) if argument.startswith("--") else None
    if flag is None:
        return None, ""
    if isinstance(flag.default, bool):
        return flag, _boolean(flag, text) if equals else True
    if not equals:
        return None, ""
    return flag, _value(flag, text)


def _boolean(flag: Flag, text: str) -> bool:
    if text not in ("true", "false"):
        raise FlagError(f"Couldn't interpret value ={text} for flag {flag.name}.")
    return text == "true"


def _value(flag: Flag, text: str) -> Value:
    try:
        return type(flag.default)(text)
    except ValueError:
        raise FlagError(f"Couldn't interpret value {text} for flag {flag.name}.") from None


def _warnings(given: Iterable[Flag]) -> Iterable[str]:
    for flag in given:
        if flag.without_meaning:
            yield f"--{flag.name} is accepted and ignored: {flag.without_meaning}"


def _refuse_unsafe(values: dict[str, Value], given: Iterable[str]) -> None:
    for name in given:
        if name in REFUSED and values[name]:
            raise FlagError(f"--{name}: {REFUSED[name]}")

"""How a TorchScript `forward` is called with named tensors, and how its result becomes named outputs.

An archive's signature.json tells both to the handler under the key `forward`, where a call is more than tensors in
their order and a tensor or a tuple of tensors as the answer:

    {"arguments": [{"name": "batch", "kind": "dict", "inputs": ["ids", "mask"], "keys": ["ids", "mask"]},
                   {"name": "scale", "kind": "tensor", "inputs": ["scale"], "default": true}],
     "outputs": [["logits"], ["states", 0]]}

Each argument names the inputs that it is made of. One with `default` is left out of the call where none of its inputs
is given; without it an argument whose inputs are all left out is None. Each output is a path into the result: keys of
dicts, places in tuples and lists. Without `arguments` inputs are given by their places, and without `outputs` the
result is one of them or a tuple of them.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from models.importing.request import ImportRefusedError
from models.spec import TensorSpec

Kind = Literal["tensor", "texts", "dict", "list", "tuple"]
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of `forward`. `size` is a tuple's; `omittable` ones are inputs only where the user names them."""

    name: str
    kind: Kind
    shown: str
    has_default: bool = False
    is_optional: bool = False
    size: int = 1

    @property
    def omittable(self) -> bool:
        return self.has_default or self.is_optional

    @property
    def own_names(self) -> list[str]:
        return [f"{self.name}.{place}" for place in range(self.size)] if self.kind == "tuple" else [self.name]


@dataclass(frozen=True, slots=True)
class Filled:
    """An argument and the inputs that it is made of. `keys` are a dict's."""

    argument: Argument
    inputs: tuple[TensorSpec, ...]
    keys: tuple[str, ...] = ()

    def value(self, named: Mapping[str, Any]) -> Any:
        """What `forward` gets for the inputs in `named`; None where there are none of its own."""
        found = [named[spec.name] for spec in self.inputs if spec.name in named]
        if not found:
            return None
        if self.argument.kind == "dict":
            return {key: named[s.name] for key, s in zip(self.keys, self.inputs, strict=True) if s.name in named}
        if self.argument.kind in ("list", "tuple"):
            return found if self.argument.kind == "list" else tuple(found)
        return found[0]

    def as_json(self) -> dict[str, object]:
        one: dict[str, object] = {"name": self.argument.name, "kind": self.argument.kind}
        one["inputs"] = [spec.name for spec in self.inputs]
        if self.argument.kind == "dict":
            one["keys"] = list(self.keys)
        if self.argument.has_default:
            one["default"] = True
        return one

    @property
    def is_plain(self) -> bool:
        """Whether it is one tensor, or a list of texts, that is always given by its place."""
        return self.argument.kind in ("tensor", "texts") and not self.argument.omittable


def of_schema(schema: Any) -> list[Argument]:
    """The arguments that tensors can be. Raises ImportRefusedError where a required one can be none."""
    found = []
    for one in schema.arguments[1:]:  # the first is the module
        argument = of_type(one.name.replace(".", "_"), one.type)  # a trace's names have points
        if argument is not None:
            found.append(replace(argument, has_default=one.has_default_value()))
        elif not one.has_default_value():
            raise ImportRefusedError(
                f"its forward takes {one.name}: {one.type}, which is no tensor; give it a default value, or put a "
                "module around it that takes tensors, List[str] for texts, Dict[str, Tensor], List[Tensor] or a tuple "
                "of tensors"
            )
    return found


def of_python(module: Any) -> list[Argument]:
    """The same of a module that is to be traced, by its annotations. Raises ImportRefusedError.

    What is not annotated is taken for a tensor; what has a default that is a number or a text keeps it.
    """
    found = []
    for one in inspect.signature(module.forward).parameters.values():
        if one.kind is inspect.Parameter.VAR_POSITIONAL:
            raise ImportRefusedError(
                f"its forward takes *{one.name}, and TorchScript needs to know each argument; put a module around it "
                "whose forward names them, or takes List[Tensor]"
            )
        has_default = one.default is not inspect.Parameter.empty
        argument = of_annotation(one.name, one.annotation)
        is_value = has_default and one.default is not None and not isinstance(one.default, torch.Tensor)
        if one.kind is inspect.Parameter.VAR_KEYWORD or argument is None or is_value:
            continue
        if one.kind is inspect.Parameter.KEYWORD_ONLY:
            if not has_default:
                raise ImportRefusedError(
                    f"its forward takes {one.name} by its name alone, and a trace takes arguments by their places; "
                    f"take the * before {one.name} away"
                )
            continue
        found.append(replace(argument, has_default=has_default))
    return found


def of_annotation(name: str, annotation: Any) -> Argument | None:
    if annotation in (inspect.Parameter.empty, Any):
        return Argument(name=name, kind="tensor", shown="Tensor")
    try:
        return of_type(name, torch.jit.annotations.ann_to_type(evaluated(annotation), None))
    except Exception:  # TorchScript knows few types; what it raises for others is of many kinds
        return Argument(name=name, kind="tensor", shown="Tensor")


def evaluated(annotation: Any) -> Any:
    """`from __future__ import annotations` leaves texts."""
    if not isinstance(annotation, str):
        return annotation
    known = {**vars(typing), "torch": torch, "Tensor": torch.Tensor}
    return typing.get_type_hints(type("_", (), {"__annotations__": {"it": annotation}}), known)["it"]


def of_type(name: str, kind: Any) -> Argument | None:
    shown, is_optional = str(kind), kind.kind() == "OptionalType"
    if is_optional:
        kind = kind.getElementType()
    text = str(kind)
    if kind.kind() == "TupleType":
        parts = kind.elements()
        is_made_of_tensors = bool(parts) and all(str(part) == "Tensor" for part in parts)
        found = Argument(name=name, kind="tuple", shown=shown, size=len(parts)) if is_made_of_tensors else None
        return found and replace(found, is_optional=is_optional)
    kinds: dict[str, Kind] = {
        "Tensor": "tensor",
        "List[str]": "texts",
        "Dict[str, Tensor]": "dict",
        "List[Tensor]": "list",
    }
    return Argument(name=name, kind=kinds[text], shown=shown, is_optional=is_optional) if text in kinds else None


def fill(arguments: Sequence[Argument], inputs: Sequence[TensorSpec]) -> list[Filled]:
    """Each argument with its inputs; omittable ones that none of `inputs` names get none. Raises ImportRefusedError.

    An omittable argument is named `NAME`, or `NAME.KEY` where it is a dict. All others take the rest: by their own
    names (`NAME`, `NAME.KEY` of a dict, `NAME.0` of a list or tuple), else in their order under the user's own names.
    With a dict beside others its keys must be told from their names; a dict that is the only required argument takes
    all of the rest by their plain names. Where every argument, omittable or not, is one input, order will do for all.
    """
    rest = {spec.name: spec for spec in inputs}
    chosen = {one.name: taken(one, rest) for one in arguments if one.omittable}
    required = [one for one in arguments if not one.omittable]
    if is_one_each(arguments, inputs) and len(rest) > len(required):
        shares = [[spec] for spec in inputs]
    else:
        of_required = iter(shared_out(required, list(rest.values()), arguments))
        shares = [chosen[one.name] if one.omittable else next(of_required) for one in arguments]
    filled = []
    for one, share in zip(arguments, shares, strict=True):
        specs = tuple(replace(spec, optional=True) if one.omittable else spec for spec in share)
        check_datatypes(one, specs)
        filled.append(Filled(one, specs, keys_of(one, specs)))
    return filled


def is_one_each(arguments: Sequence[Argument], inputs: Sequence[TensorSpec]) -> bool:
    return len(inputs) == len(arguments) and all(one.kind in ("tensor", "texts") for one in arguments)


def taken(argument: Argument, rest: dict[str, TensorSpec]) -> list[TensorSpec]:
    """Those of `rest` that the argument is named by; they are taken out of it."""
    is_part = argument.kind in ("dict", "list")
    found = [n for n in rest if (n.startswith(f"{argument.name}.") if is_part else n in argument.own_names)]
    return [rest.pop(name) for name in found]


def shared_out(
    required: Sequence[Argument], specs: Sequence[TensorSpec], arguments: Sequence[Argument]
) -> list[list[TensorSpec]]:
    is_open = [one.kind in ("dict", "list") for one in required]
    if any(is_open) and len(required) == 1:
        if not specs:
            raise mismatch(arguments, specs)
        return [list(specs)]
    names = [name for one in required for name in one.own_names]
    if not any(is_open) and len(specs) == len(names) and {spec.name for spec in specs} != set(names):
        left = iter(specs)
        return [[next(left) for _ in one.own_names] for one in required]
    rest = {spec.name: spec for spec in specs}
    found = [taken(one, rest) for one in required]
    by_name = [
        sorted(f, key=lambda s: s.name) if one.kind == "tuple" else f for one, f in zip(required, found, strict=True)
    ]
    is_short = any(len(f) != one.size if not o else not f for one, f, o in zip(required, by_name, is_open, strict=True))
    if rest or is_short:
        raise mismatch(arguments, specs)
    return by_name


def keys_of(argument: Argument, specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    if argument.kind != "dict":
        return ()
    prefix = f"{argument.name}."
    is_prefixed = all(spec.name.startswith(prefix) for spec in specs)
    return tuple(spec.name.removeprefix(prefix) if is_prefixed else spec.name for spec in specs)


def check_datatypes(argument: Argument, specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        if (spec.datatype == "BYTES") == (argument.kind == "texts"):
            continue
        if argument.kind == "texts":
            raise ImportRefusedError(
                f"its forward takes {argument.name}: {argument.shown}, so --input {spec.name} must be BYTES"
            )
        raise ImportRefusedError(
            f"its forward takes {argument.name}: {argument.shown}, so --input {spec.name} cannot be BYTES: TorchScript "
            "takes texts as List[str]"
        )


def mismatch(arguments: Sequence[Argument], specs: Sequence[TensorSpec]) -> ImportRefusedError:
    given = ", ".join(spec.name for spec in specs) or "none"
    return ImportRefusedError(f"its forward takes {listed(arguments)}; given are {given}{how(arguments)}")


def how(arguments: Sequence[Argument]) -> str:
    """What to say about inputs that are no plain tensors."""
    hints = []
    required = [one for one in arguments if not one.omittable]
    for one in arguments:
        alone = not one.omittable and len(required) == 1
        if one.kind == "dict":
            hints.append(f"each key of {one.name} is an input named {'KEY' if alone else f'{one.name}.KEY'}")
        if one.kind == "list":
            hints.append(
                f"each tensor of {one.name} is an input"
                + (", in their order" if alone else f" named {one.name}.0, {one.name}.1 and so on")
            )
        if one.kind == "tuple":
            hints.append(f"the tensors of {one.name} are {', '.join(one.own_names)}")
        if one.omittable and one.kind in ("tensor", "texts"):
            hints.append(f"{one.name} may be left out, and is an input where one is named {one.name}")
    return "".join(f"; {hint}" for hint in hints)


def listed(arguments: Sequence[Argument]) -> str:
    return "(" + ", ".join(f"{one.name}: {one.shown}{' = ...' * one.has_default}" for one in arguments) + ")"


def question(source: str, arguments: Sequence[Argument]) -> str:
    if not arguments:
        return f"{source}: its forward takes no tensors, and a request has one at least"
    flags = []
    for one in [one for one in arguments if not one.omittable] or arguments:
        alone = sum(not other.omittable for other in arguments) == 1
        names = {"dict": ["KEY" if alone else f"{one.name}.KEY"], "list": [f"{one.name}.0"]}.get(
            one.kind, one.own_names
        )
        flags += [f"--input {name}:{'BYTES:-1' if one.kind == 'texts' else 'DATATYPE:SHAPE'}" for name in names]
    plain = next((one.own_names[0] for one in arguments if one.kind not in ("dict", "list")), "image")
    return (
        f"{source} does not tell datatypes and shapes; its forward takes {listed(arguments)}. Give, in this order: "
        f"{' '.join(flags)} (as in --input {plain}:FP32:-1,3,224,224, where -1 is free), or --example FILE"
        f"{how(arguments)}"
    )


def call_of(filled: Sequence[Filled], named: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by place, and from the first that is left out, by name."""
    by_place: list[Any] = []
    by_name: dict[str, Any] = {}
    has_gap = False
    for one in filled:
        given = any(spec.name in named for spec in one.inputs)
        if one.argument.has_default and not given:
            has_gap = True
        elif has_gap:
            by_name[one.argument.name] = one.value(named)
        else:
            by_place.append(one.value(named))
    return by_place, by_name


def parts(result: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each tensor, list of texts or other value of a result with the way to it. None is no part."""
    if isinstance(result, dict):
        for key, value in result.items():
            yield from parts(value, (*path, key))
    elif isinstance(result, (tuple, list)) and not is_texts(result):
        for place, value in enumerate(result):
            yield from parts(value, (*path, place))
    elif result is not None:
        yield path, result


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def is_plain(paths: Sequence[Path]) -> bool:
    """Whether the result is one part, or a tuple of parts without gaps; a list or a dict never is."""
    return list(paths) == [()] or list(paths) == [(place,) for place in range(len(paths))]


def names_of(result: Any, paths: Sequence[Path]) -> tuple[str, ...]:
    """Keys of dicts and fields of named tuples; `output_0` and so on for places.

    >>> names_of({"a": 1, "b": [2, 3]}, [("a",), ("b", 0), ("b", 1)])
    ('a', 'b.0', 'b.1')
    >>> names_of((1, 2), [(0,), (1,)]), names_of([1], [(0,)])
    (('output_0', 'output_1'), ('output',))
    """
    named = [name_of(result, path) for path in paths]
    if len(named) == 1 and named[0] == "output_0":
        return ("output",)
    return tuple(named)


def name_of(result: Any, path: Path) -> str:
    words: list[str] = []
    for step in path:
        fields = getattr(result, "_fields", None)
        if isinstance(result, dict) or fields is None:
            words.append(str(step) if isinstance(result, dict) or words else f"output_{step}")
        else:
            words.append(fields[int(step)])
        result = result[step]
    return ".".join(words) or "output"


def shown(path: Path) -> str:
    return "result" + "".join(f"[{step!r}]" for step in path)


def notes(filled: Sequence[Filled]) -> list[str]:
    """What the user should know of arguments that are no plain tensors."""
    found = []
    for one in filled:
        names = ", ".join(spec.name for spec in one.inputs)
        if one.argument.omittable and not one.inputs:
            flag = one.argument.name + {"dict": ".KEY", "list": ".0", "tuple": ".0"}.get(one.argument.kind, "")
            kept = "keeps its default" if one.argument.has_default else "is None"
            found.append(
                f"{one.argument.name}: {one.argument.shown} {kept}; --input {flag}:DATATYPE:SHAPE beside the others "
                "would make it an input that requests may leave out"
            )
        elif one.argument.kind in ("dict", "list", "tuple"):
            found.append(f"the {one.argument.kind} {one.argument.name} is made of {names}")
        if left := [spec.name for spec in one.inputs if spec.optional]:
            found.append(f"requests may leave out {', '.join(left)}")
    return found

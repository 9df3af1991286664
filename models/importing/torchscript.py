"""A TorchScript file, or an nn.Module by its import path, as TorchServe will run it."""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.frameworks.pytorch import torchscript
from models.importing import examples, forward, sizes, state, watch, widths
from models.importing.candidate import Answer, Candidate, last_line
from models.importing.forward import Argument, Filled
from models.importing.request import ImportRefusedError, Request
from models.importing.sizes import Arrays, Sized
from models.spec import Array, TensorSpec

DTYPES = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


def from_file(request: Request, given: Mapping[str, Array], folder: Path) -> Candidate:
    """Raises ImportRefusedError."""
    module = load(request.path)
    saved = folder / "model.pt"
    saved.write_bytes(request.path.read_bytes())
    return candidate(request, given, module, saved, notes=())


def from_module(request: Request, given: Mapping[str, Array], folder: Path) -> Candidate:
    """Raises ImportRefusedError."""
    module = imported_module(request.source)
    if request.weights:
        load_state(module, request.weights)
    scripted, note = compiled(request, given, module)
    buffer = io.BytesIO()
    with torchscript():
        torch.jit.save(scripted, buffer)
    saved = folder / "model.pt"
    saved.write_bytes(buffer.getvalue())
    return candidate(request, given, load(saved), saved, notes=(note,) if note else ())


def candidate(
    request: Request, given: Mapping[str, Array], module: nn.Module, saved: Path, notes: tuple[str, ...]
) -> Candidate:
    check_stateless(request, module)
    arguments = forward.of_schema(module.forward.schema)  # type: ignore[attr-defined]
    filled = known(request, given, arguments)
    caller = Caller(module, filled)
    one = examples.rows(caller.inputs, given, str(request.example))
    one = sizes.answerable(caller.inputs, one, caller)
    if not request.inputs:
        caller = caller.over(forward.fill(arguments, sizes.loosened(caller.inputs, one, caller)))
    caller, more = with_needed(caller, one)
    caller.learn(one)
    return Candidate(
        framework="pytorch",
        saved=saved,
        inputs=caller.inputs,
        outputs=request.outputs or caller.output_names(),
        predict=caller,
        watched=caller.watched,
        extra=caller.described(),
        notes=(*notes, *more, *forward.notes(caller.filled)),
    )


def check_stateless(request: Request, module: nn.Module) -> None:
    if not module._c._has_method("forward"):  # type: ignore[attr-defined]
        raise ImportRefusedError(f"{request.source} has no method forward, which is what the servers call")
    if part := state.written(module):
        raise ImportRefusedError(
            f"its forward writes {part}, which is kept between calls: all callers would share it, and one would change "
            "the answers of others; take the state as an input and return the new one as an output"
        )


def with_needed(caller: Caller, one: tuple[Array, ...]) -> tuple[Caller, list[str]]:
    """An optional input without which the model fails is none."""
    if not sizes.answers(caller, one):
        return caller, []
    fail = {
        spec.name
        for number, spec in enumerate(caller.inputs)
        if spec.optional and not sizes.answers(caller, sizes.left_out(one, [number]))
    }
    filled = [
        replace(f, inputs=tuple(replace(s, optional=s.optional and s.name not in fail) for s in f.inputs))
        for f in caller.filled
    ]
    return caller.over(filled), [f"{name} must be given: the model fails without it" for name in sorted(fail)]


def load(path: Path) -> nn.Module:
    try:
        with torchscript():
            module: nn.Module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ImportRefusedError(
            f"{path} is not a TorchScript file ({first_sentence(error)}); if it holds weights alone, name their module "
            f"too: python -m models import PACKAGE.MODULE:FACTORY --weights {path}"
        ) from error
    return module


def imported_module(source: str) -> nn.Module:
    """What `package.module:name` names, called unless it is a module already; also from the working folder."""
    where, _, attribute = source.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        with torchscript():
            found = attribute_of(importlib.import_module(where), attribute, source)
            module = found if isinstance(found, nn.Module) else found()
    except ImportRefusedError:
        raise
    except Exception as error:  # the user's own code
        raise ImportRefusedError(f"{source}: {type(error).__name__}: {last_line(error)}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(module, nn.Module):
        raise ImportRefusedError(f"{source} gives a {type(module).__name__}, not a torch.nn.Module")
    return module.eval().cpu()


def attribute_of(found: Any, attribute: str, source: str) -> Any:
    for part in attribute.split("."):
        found = getattr(found, part)
    if isinstance(found, torch.jit.ScriptFunction):
        raise ImportRefusedError(
            f"{source} is a scripted function; put it into the forward of a torch.nn.Module, or save it with "
            "torch.jit.save and import the file"
        )
    return found


def load_state(module: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state.get("state_dict", state) if isinstance(state, dict) else state)
    except FileNotFoundError:
        raise ImportRefusedError(f"--weights {path}: there is no such file") from None
    except Exception as error:  # torch raises a dozen kinds for a file that is none, or is of another module
        raise ImportRefusedError(f"--weights {path}: {last_line(error)}") from error


def compiled(request: Request, given: Mapping[str, Array], module: nn.Module) -> tuple[nn.Module, str]:
    """Scripted, so that every path of its code is kept; traced where TorchScript cannot read the code."""
    with torchscript(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return torch.jit.script(module), ""
        except Exception as error:  # TorchScript's compiler raises many kinds, of which only some are its own
            reason = last_line(error)
    filled = known(request, given, forward.of_python(module))
    inputs = tuple(spec for one in filled for spec in one.inputs)
    if any(spec.datatype == "BYTES" for spec in inputs) or not inputs:
        raise ImportRefusedError(f"TorchScript cannot compile it ({reason}), and texts cannot be traced")
    caller = Caller(module, filled)
    one = sizes.answerable(inputs, examples.rows(inputs, given, str(request.example)), caller)
    two, three = (caller.arguments(examples.repeated(inputs, one, count)) for count in (2, 3))
    with torchscript(), warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            traced = trace(module, filled, *two)
            same = equal(module(*three[0], **three[1]), traced(*three[0], **three[1]))
        except Exception as error:  # as above
            raise ImportRefusedError(
                f"TorchScript can neither compile it ({reason}) nor trace it ({last_line(error)})"
            ) from error
    if not same:
        raise ImportRefusedError(
            f"traced, it answers otherwise than as Python, and TorchScript cannot compile it: {reason}"
        )
    return traced, "traced with the example, as TorchScript cannot compile it: branches that depend on values are fixed"


def trace(module: nn.Module, filled: Sequence[Filled], by_place: list[Any], by_name: dict[str, Any]) -> nn.Module:
    """`strict` would refuse dicts and lists in the result; what they hold is compared afterwards."""
    every: dict[str, Any] = {}
    if by_name:
        names = [one.argument.name for one in filled if one.inputs]
        every = {"example_kwarg_inputs": dict(zip(names, [*by_place, *by_name.values()], strict=True))}
    traced: nn.Module = torch.jit.trace(module, None if every else tuple(by_place), strict=False, **every)  # type: ignore[no-untyped-call]
    return traced


def known(request: Request, given: Mapping[str, Array], arguments: Sequence[Argument]) -> list[Filled]:
    """The arguments with their inputs, from --input, else from --example. Raises ImportRefusedError."""
    inputs = request.inputs
    if not inputs and given:
        inputs = examples.specs(given, [name for one in arguments if not one.omittable for name in one.own_names])
    if not inputs:
        raise ImportRefusedError(forward.question(request.source, arguments))
    return forward.fill(arguments, inputs)


class Caller:
    """A module that is called with arrays, one for each of `inputs`; None for one that is left out.

    After `learn` it answers with the parts of the result that it had then, and refuses other ones.
    """

    def __init__(self, module: nn.Module, filled: Sequence[Filled]) -> None:
        self.filled = filled
        self.inputs = tuple(spec for one in filled for spec in one.inputs)
        self._module = module
        self._paths: list[forward.Path] | None = None
        self._names: tuple[str, ...] = ("output",)
        self._is_plain = True
        self._widths: dict[forward.Path, int] = {}
        self._is_blind = True

    def over(self, filled: Sequence[Filled]) -> Caller:
        return Caller(self._module, filled)

    def learn(self, one: Arrays) -> None:
        """Call it once, to know the parts of its result; what goes wrong here is told when the candidate is tried."""
        try:
            result = self._call(one)
        except Exception:  # see above
            return
        self._paths = [path for path, _ in forward.parts(result)]
        if not self._paths:
            raise ImportRefusedError(f"it returns {result!r}, in which there is no tensor")
        self._names = forward.names_of(result, self._paths)
        self._is_plain = (isinstance(result, tuple) or self._paths == [()]) and forward.is_plain(self._paths)
        self._widths = widths.fixed_axes(self._module)
        self._is_blind = watch.is_blind(self._module) or any(spec.datatype == "BYTES" for spec in self.inputs)

    def output_names(self) -> tuple[str, ...]:
        if len(set(self._names)) < len(self._names):
            raise ImportRefusedError(
                f"two of its outputs would have one name ({', '.join(self._names)}): give --output NAME "
                f"{len(self._names)} times"
            )
        return self._names

    def described(self) -> dict[str, Any]:
        """How the handler calls it, where that is more than tensors in their order."""
        form: dict[str, Any] = {}
        if not all(one.is_plain for one in self.filled):
            form["arguments"] = [one.as_json() for one in self.filled]
        if not self._is_plain:
            form["outputs"] = [list(path) for path in self._paths or ()]
        return {"forward": form} if form else {}

    def __call__(self, arrays: Arrays) -> list[Answer]:
        return [decoded(part, path) for path, part in self._parts(self._call(arrays))]

    def watched(self, arrays: Arrays) -> list[Sized]:
        by_place, by_name = self.arguments(arrays)
        watching = watch.Watch([by_place, by_name])
        with torch.no_grad(), torch.jit.optimized_execution(False), watching:  # type: ignore[no-untyped-call]
            result = self._module(*by_place, **by_name)
        return [self._sized(path, part, watching) for path, part in self._parts(result)]

    def _sized(self, path: forward.Path, part: Any, watching: watch.Watch) -> Sized:
        if not isinstance(part, torch.Tensor):
            return Sized((len(part),))
        axis = self._widths.get(path)
        fixed = frozenset() if axis is None or part.ndim < -axis else frozenset([part.ndim + axis])
        return Sized(tuple(part.shape), self._is_blind or watching.sized(part), fixed)

    def _call(self, arrays: Arrays) -> Any:
        by_place, by_name = self.arguments(arrays)
        with torch.inference_mode():
            return self._module(*by_place, **by_name)

    def arguments(self, arrays: Arrays) -> tuple[list[Any], dict[str, Any]]:
        named = {s.name: tensor(s, a) for s, a in zip(self.inputs, arrays, strict=True) if a is not None}
        return forward.call_of(self.filled, named)

    def _parts(self, result: Any) -> list[tuple[forward.Path, Any]]:
        found = dict(forward.parts(result))
        if self._paths is None:
            return list(found.items())
        if set(found) != set(self._paths):
            strays = ", ".join(forward.shown(path) for path in sorted(set(found) ^ set(self._paths), key=str))
            raise ImportRefusedError(
                f"its result has {strays} in some calls and not, or None there, in others; clients are told one list "
                "of outputs: put a module around it that returns the same parts always"
            )
        return [(path, found[path]) for path in self._paths]


def tensor(spec: TensorSpec, array: Array) -> Any:
    if spec.datatype == "BYTES":
        return [text.decode() for text in array.ravel()]
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)).to(DTYPES[spec.datatype])


def decoded(result: Any, path: forward.Path) -> Answer:
    if forward.is_texts(result):
        return Answer("BYTES", np.array(result, object))
    if not isinstance(result, torch.Tensor) or result.dtype not in DATATYPES:
        kind = f"a tensor of {result.dtype}" if isinstance(result, torch.Tensor) else type(result).__name__
        raise ImportRefusedError(
            f"it returns {kind}{' as ' + forward.shown(path) if path else ''}; to be served its result must be made of "
            "tensors and List[str], in tuples, lists or dicts"
        )
    values = result.float() if result.dtype == torch.bfloat16 else result
    return Answer(DATATYPES[result.dtype], values.numpy())


def first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].split(". ")[0]


def equal(one: Any, other: Any) -> bool:
    ours, theirs = dict(forward.parts(one)), dict(forward.parts(other))
    return ours.keys() == theirs.keys() and all(
        torch.allclose(ours[path], theirs[path], rtol=1e-3, atol=1e-4, equal_nan=True) for path in ours
    )

"""A TorchScript file, or an nn.Module by its import path, as TorchServe will run it."""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.frameworks.pytorch import torchscript
from models.importing import examples
from models.importing.candidate import Answer, Candidate, last_line
from models.importing.request import ImportRefusedError, Request
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
TEXTS = "List[str]"


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
    inputs = known_inputs(request, given, parameters(module))
    if inputs is None:
        raise ImportRefusedError(question(request, parameters(module)))
    outputs = request.outputs or default_outputs(len(raw_call(module, inputs, given, request)))
    return Candidate(
        framework="pytorch",
        saved=saved,
        inputs=inputs,
        outputs=outputs,
        predict=lambda arrays: call(module, inputs, arrays),
        notes=notes,
    )


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
        found: Any = importlib.import_module(where)
        for part in attribute.split("."):
            found = getattr(found, part)
        module = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # the user's own code
        raise ImportRefusedError(f"{source}: {type(error).__name__}: {last_line(error)}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(module, nn.Module):
        raise ImportRefusedError(f"{source} gives a {type(module).__name__}, not a torch.nn.Module")
    return module.eval().cpu()


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
    names = [name for name, kind in signature_of(module) if kind != TEXTS]
    inputs = known_inputs(request, given, signature_of(module))
    if inputs is None:
        raise ImportRefusedError(question(request, signature_of(module)))
    arrays = examples.rows(inputs, given, str(request.example))
    if any(spec.datatype == "BYTES" for spec in inputs) or not names:
        raise ImportRefusedError(f"TorchScript cannot compile it ({reason}), and texts cannot be traced")
    two = tensors(inputs, examples.repeated(inputs, arrays, 2))
    with torchscript(), warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            traced: nn.Module = torch.jit.trace(module, tuple(two))  # type: ignore[no-untyped-call]
            three = tensors(inputs, examples.repeated(inputs, arrays, 3))
            same = equal(module(*three), traced(*three))
        except Exception as error:  # as above
            raise ImportRefusedError(
                f"TorchScript can neither compile it ({reason}) nor trace it ({last_line(error)})"
            ) from error
    if not same:
        raise ImportRefusedError(
            f"traced, it answers otherwise than as Python, and TorchScript cannot compile it: {reason}"
        )
    return traced, "traced with the example, as TorchScript cannot compile it: branches that depend on values are fixed"


def signature_of(module: nn.Module) -> list[tuple[str, str]]:
    import inspect

    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(module.forward).parameters.values()
    return [(one.name, "Tensor") for one in found if one.kind in kinds and one.default is inspect.Parameter.empty]


def parameters(module: nn.Module) -> list[tuple[str, str]]:
    """Name and type of what `forward` must be given. Raises ImportRefusedError for what no tensor can be."""
    schema = module.forward.schema  # type: ignore[attr-defined]
    wanted = [one for one in schema.arguments[1:] if not one.has_default_value()]  # the first is the module
    found = [(one.name.replace(".", "_"), str(one.type)) for one in wanted]
    for name, kind in found:
        if kind not in ("Tensor", TEXTS):
            raise ImportRefusedError(
                f"its forward takes {name}: {kind}, which is no tensor; give it a default value, or put a module "
                "around it that takes tensors (or List[str] for texts)"
            )
    return found


def known_inputs(
    request: Request, given: Mapping[str, Array], wanted: Sequence[tuple[str, str]]
) -> tuple[TensorSpec, ...] | None:
    """From --input, else from --example by the parameters' names; None where neither tells."""
    names = [name for name, _ in wanted]
    inputs = request.inputs
    if not inputs and given:
        inputs = examples.specs(given, names)
        by_name = {spec.name: spec for spec in inputs}
        inputs = tuple(by_name[name] for name in names) if set(by_name) == set(names) else inputs
    if not inputs:
        return None
    if len(inputs) != len(wanted):
        raise ImportRefusedError(f"its forward takes {listed(wanted)}; given are {', '.join(s.name for s in inputs)}")
    for spec, (name, kind) in zip(inputs, wanted, strict=True):
        if request.inputs and (spec.datatype == "BYTES") != (kind == TEXTS) and kind == TEXTS:
            raise ImportRefusedError(f"its forward takes {name}: {kind}, so --input {spec.name} must be BYTES")
    return inputs


def question(request: Request, wanted: Sequence[tuple[str, str]]) -> str:
    flags = " ".join(f"--input {name}:{'BYTES:-1' if kind == TEXTS else 'DATATYPE:SHAPE'}" for name, kind in wanted)
    name = wanted[0][0] if wanted else "image"
    return (
        f"{request.source} does not tell datatypes and shapes; its forward takes {listed(wanted)}. "
        f"Give, in this order: {flags} (as in --input {name}:FP32:-1,3,224,224, where -1 is free), or --example FILE"
    )


def listed(wanted: Sequence[tuple[str, str]]) -> str:
    return "(" + ", ".join(f"{name}: {kind}" for name, kind in wanted) + ")"


def default_outputs(count: int) -> tuple[str, ...]:
    return ("output",) if count == 1 else tuple(f"output_{place}" for place in range(count))


def raw_call(
    module: nn.Module, inputs: Sequence[TensorSpec], given: Mapping[str, Array], request: Request
) -> Sequence[object]:
    """Once, to count the outputs; what goes wrong here is told when the candidate is tried."""
    try:
        return call(module, inputs, examples.rows(inputs, given, str(request.example)))
    except ImportRefusedError:
        raise
    except Exception:  # see above
        return [None]


def call(module: nn.Module, inputs: Sequence[TensorSpec], arrays: tuple[Array, ...]) -> list[Answer]:
    with torch.inference_mode():
        results = module(*tensors(inputs, arrays))
    return [decoded(result) for result in (results if isinstance(results, tuple) else (results,))]


def tensors(inputs: Sequence[TensorSpec], arrays: tuple[Array, ...]) -> list[Any]:
    return [
        [text.decode() for text in array.ravel()]
        if spec.datatype == "BYTES"
        else torch.from_numpy(np.ascontiguousarray(array)).to(DTYPES[spec.datatype])
        for spec, array in zip(inputs, arrays, strict=True)
    ]


def decoded(result: Any) -> Answer:
    if isinstance(result, list) and all(isinstance(text, str) for text in result):
        return Answer("BYTES", np.array(result, object))
    if not isinstance(result, torch.Tensor) or result.dtype not in DATATYPES:
        raise ImportRefusedError(
            f"it returns {type(result).__name__}; to be served it must return a tensor, a List[str], or a tuple of them"
        )
    values = result.float() if result.dtype == torch.bfloat16 else result
    return Answer(DATATYPES[result.dtype], values.numpy())


def first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].split(". ")[0]


def equal(one: Any, other: Any) -> bool:
    pairs = zip(*(value if isinstance(value, tuple) else (value,) for value in (one, other)), strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) for a, b in pairs)

"""One TorchServe handler for every TorchScript archive: tensors in, tensors out, no code per model.

It runs inside TorchServe's worker (here or in the official image) and needs torch, numpy and the standard library only.
An archive holds `model.pt` (TorchScript), this file and `signature.json`:

    {"name": ..., "version": ..., "inputs": [{"name", "datatype", "shape"}, ...], "outputs": [...], "rows": ..., ...}

Requests and answers are the Open Inference Protocol's binary tensor extension (Triton's extension_binary_data.md): a
JSON header whose length the HTTP header `Inference-Header-Content-Length` gives, then the tensors' bytes in the
header's order, little-endian and row-major; a BYTES element is its length as a little-endian uint32 and then its bytes,
here UTF-8 text. The module gets its inputs positionally in the signature's order, a BYTES input as a flat `List[str]`,
and returns one tensor (or `List[str]`) or a tuple of them in the order of the signature's outputs. Where its arguments
or its result are anything else, the signature's `forward` says how they are made (models/importing/forward.py). An
input with `"optional": true` can be left out of a request.

A bad request is a 400 with a sentence. Requests that TorchServe has batched and whose trailing shapes agree share one
forward pass if the signature says `"rows": "independent"`; a bad one among them fails alone. Otherwise each runs alone.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ts.utils.util import PredictionException  # type: ignore[import-untyped]  # the one type whose status TorchServe passes on

LENGTH_HEADER = "Inference-Header-Content-Length"
MAX_HEADER_BYTES = 65_536  # parsed headers are kept, so their size is bounded
PLANS_KEPT = 256
# TorchScript profiles the first run, compiles in the second, and again for the first batch of another size (14 ms).
WARM_UP_ROWS = (1, 1, 2, 2, 3)

BAD_REQUEST = 400
UNSUPPORTED = 501
MODEL_FAILED = 503  # what TorchServe itself answers when a handler raises; its 500 means that the worker died

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
    "FP32": torch.float32,
    "FP64": torch.float64,
    "BF16": torch.bfloat16,
}
DEVICE_FAILED = re.compile(r"^(RuntimeError: |torch\.\w+: )?CUDA (error|out of memory)", re.MULTILINE)
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

Argument = torch.Tensor | list[str]


class TensorHandler:
    """TorchServe's entry point. TorchServe wants exactly one class in this module, hence the nested ones."""

    class Piece(NamedTuple):
        """Where one input lies in the body."""

        name: str
        datatype: str
        shape: tuple[int, ...]
        offset: int
        size_bytes: int

    class Plan(NamedTuple):
        """What one JSON header asks for. Requests of the same form share their plan."""

        pieces: tuple[TensorHandler.Piece, ...]  # in the signature's order, without inputs that were left out
        names: tuple[str, ...]  # of the pieces
        outputs: tuple[int, ...]  # positions in the signature's outputs, in the order asked for
        body_bytes: int  # of the tensors, without the header
        rows: int
        merge_key: tuple[tuple[str, tuple[int, ...]], ...] | None  # names, trailing shapes; None: must run alone

    class Job(NamedTuple):
        """One decoded request and its place in TorchServe's batch."""

        place: int
        plan: TensorHandler.Plan
        arguments: list[Argument]

    def initialize(self, context: Any) -> None:
        """Load the archive and run it on zeros until TorchScript has compiled it. Raises what loading raises."""
        properties = context.system_properties
        folder = Path(properties["model_dir"])
        signature = json.loads((folder / "signature.json").read_text("utf-8"))
        self._inputs: list[dict[str, Any]] = signature["inputs"]
        self._outputs: list[dict[str, Any]] = signature["outputs"]
        form = signature.get("forward") or {}
        self._arguments: list[dict[str, Any]] | None = form.get("arguments") or by_names(self._inputs)
        self._paths: list[tuple[Any, ...]] = [tuple(path) for path in form.get("outputs") or ()]
        self._describe_answer = json.dumps(signature)
        # Only what is known to answer each row by that row alone; unknown, as in older archives, is not known.
        self._mergeable = signature.get("rows") == "independent" and all(
            spec["shape"][:1] == [-1] for spec in self._inputs + self._outputs
        )
        self._device = choose_device(properties.get("gpu_id"))
        self._plan = lru_cache(PLANS_KEPT)(self._read_header)
        quieten()
        configure_torch(self._device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
            module = torch.jit.load(str(folder / "model.pt"), map_location=self._device)  # type: ignore[no-untyped-call]
        self._forward = module.eval().forward
        self._warm_up()

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes | str]:
        """Answer TorchServe's batch `data`, one entry per request, in order."""
        if context.get_request_header(0, "describe") == "True":
            return [self._describe_answer]
        answers: list[bytes | str] = [b""] * len(data)
        groups: dict[Any, list[TensorHandler.Job]] = {}
        for index, request in enumerate(data):
            try:
                job = self._decode(index, request, context)
            except PredictionException as error:
                answers[index] = refuse(error, index, context, alone=len(data) == 1)
            else:
                groups.setdefault(job.plan.merge_key or index, []).append(job)
        for group in groups.values():
            for job, results in zip(group, self._run(group), strict=True):
                if isinstance(results, PredictionException):
                    answers[job.place] = refuse(results, job.place, context, alone=len(data) == 1)
                else:
                    answers[job.place] = self._answer(job, results, context, alone=len(data) == 1)
        return answers

    def _answer(self, job: Job, results: tuple[Argument, ...], context: Any, *, alone: bool) -> bytes:
        try:
            return self._encode(job, results, context)
        except PredictionException as error:
            return refuse(error, job.place, context, alone=alone)

    def _decode(self, place: int, request: dict[str, Any], context: Any) -> Job:
        body = request.get("body")
        if isinstance(body, bytes):
            body = bytearray(body)  # torch asks for writable memory; TorchServe's own worker gives bytearrays
        if not isinstance(body, bytearray):
            raise bad_request("send the binary tensor form with Content-Type: application/octet-stream")
        header_bytes = header_length(place, context)
        if header_bytes > min(len(body), MAX_HEADER_BYTES):
            raise bad_request(
                f"{LENGTH_HEADER} is {header_bytes}: the body or the limit of {MAX_HEADER_BYTES} is smaller"
            )
        plan = self._plan(bytes(memoryview(body)[:header_bytes]))
        if len(body) - header_bytes != plan.body_bytes:
            raise bad_request(
                f"the tensors take {plan.body_bytes} bytes but {len(body) - header_bytes} follow the header"
            )
        return self.Job(place, plan, [self._argument(body, header_bytes, piece) for piece in plan.pieces])

    def _argument(self, body: bytearray, header_bytes: int, piece: Piece) -> Argument:
        start = header_bytes + piece.offset
        if piece.datatype == "BYTES":
            return split_texts(memoryview(body)[start : start + piece.size_bytes], piece)
        dtype = DTYPES[piece.datatype]
        if not piece.size_bytes:
            return torch.empty(piece.shape, dtype=dtype, device=self._device)
        flat = torch.frombuffer(body, dtype=torch.uint8, count=piece.size_bytes, offset=start)
        if flat.data_ptr() % dtype.itemsize:
            flat = flat.clone()  # the header's length decides alignment, and kernels may not like odd addresses
        return flat.view(dtype).view(piece.shape).to(self._device)

    def _read_header(self, header: bytes) -> Plan:
        try:
            asked = json.loads(header)
            sent = asked["inputs"]
            offers = {}
            offset = 0
            for tensor in sent:
                size_bytes = tensor["parameters"]["binary_data_size"]
                piece = self.Piece(tensor["name"], tensor["datatype"], tuple(tensor["shape"]), offset, size_bytes)
                check_piece(piece)
                offers[piece.name] = piece
                offset += size_bytes
            outputs = [tensor["name"] for tensor in asked.get("outputs") or ()]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise bad_request(
                'the header must be {"inputs": [{"name", "datatype", "shape", "parameters": {"binary_data_size"}}]}, '
                f"with {LENGTH_HEADER} as its length ({type(error).__name__}: {error})"
            ) from None
        pieces = self._match_inputs(offers, len(sent))
        rows, merge_key = self._merging(pieces)
        names = tuple(piece.name for piece in pieces)
        return self.Plan(pieces, names, self._match_outputs(outputs), offset, rows, merge_key)

    def _match_inputs(self, offers: dict[str, Piece], sent: int) -> tuple[Piece, ...]:
        names = [spec["name"] for spec in self._inputs]
        needed = {spec["name"] for spec in self._inputs if not spec.get("optional")}
        if sent != len(offers) or not needed <= set(offers) <= set(names):
            optional = [name for name in names if name not in needed]
            but = f", and {optional} can be left out" if optional else ""
            raise bad_request(f"the inputs must be {names}, each once{but}; got {list(offers)}")
        specs = [spec for spec in self._inputs if spec["name"] in offers]
        pieces = tuple(offers[spec["name"]] for spec in specs)
        for piece, spec in zip(pieces, specs, strict=True):
            if piece.datatype != spec["datatype"]:
                raise bad_request(f"input {piece.name} must be {spec['datatype']}, got {piece.datatype}")
            if not fits(piece.shape, spec["shape"]):
                raise bad_request(f"input {piece.name} must have shape {spec['shape']}, got {list(piece.shape)}")
        return pieces

    def _match_outputs(self, asked: list[str]) -> tuple[int, ...]:
        names = [spec["name"] for spec in self._outputs]
        if not set(asked) <= set(names) or len(set(asked)) != len(asked):
            raise bad_request(f"outputs can be {names}, each once; got {asked}")
        return tuple(names.index(name) for name in asked) or tuple(range(len(names)))

    def _merging(self, pieces: tuple[Piece, ...]) -> tuple[int, tuple[tuple[str, tuple[int, ...]], ...] | None]:
        rows = {piece.shape[0] if piece.shape else -1 for piece in pieces}
        if not self._mergeable or len(rows) != 1:
            return 0, None
        return rows.pop(), tuple((piece.name, piece.shape[1:]) for piece in pieces)

    def _run(self, group: list[Job]) -> list[tuple[Argument, ...] | PredictionException]:
        if len(group) == 1:
            return [self._run_alone(group[0])]
        columns = zip(*(job.arguments for job in group), strict=True)
        try:
            merged = self._call([join(column) for column in columns], group[0].plan.names)
        except PredictionException:
            merged = ()
        rows = [job.plan.rows for job in group]
        # Not the rows that went in: a row spoils its neighbours, or the model is not row by row after all.
        if not merged or any(rows_of(output) != sum(rows) for output in merged):
            return [self._run_alone(job) for job in group]
        return list(zip(*(cut(output, rows) for output in merged), strict=True))

    def _run_alone(self, job: Job) -> tuple[Argument, ...] | PredictionException:
        try:
            return self._call(job.arguments, job.plan.names)
        except PredictionException as error:
            return error

    @torch.inference_mode()
    def _call(self, arguments: list[Argument], names: tuple[str, ...]) -> tuple[Argument, ...]:
        try:
            if self._arguments is None:
                results = self._forward(*arguments)
            else:
                by_place, by_name = arranged(self._arguments, dict(zip(names, arguments, strict=True)))
                results = self._forward(*by_place, **by_name)
        except Exception as error:  # whatever it is: raised, it would fail all requests that TorchServe has batched
            if self._device.type == "cuda" and is_of_the_device(error):
                raise  # TorchServe answers 507 to these
            raise PredictionException(f"the model failed: {last_line(error)}", MODEL_FAILED) from error
        if self._paths:
            results = self._chosen(results)
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(self._outputs):
            raise PredictionException(f"the model gave {len(results)} outputs, not {len(self._outputs)}", MODEL_FAILED)
        return tuple(on_cpu(result, spec) for result, spec in zip(results, self._outputs, strict=True))

    def _chosen(self, results: Any) -> tuple[Any, ...]:
        """The parts of the result that are the signature's outputs; it must have these and no other."""
        found = dict(parts(results, (), frozenset(self._paths)))
        names = dict(zip(self._paths, (spec["name"] for spec in self._outputs), strict=True))
        if missing := [name for path, name in names.items() if path not in found]:
            raise PredictionException(
                f"the model gave no {' and no '.join(missing)} for this request, which its signature promises",
                MODEL_FAILED,
            )
        if more := [list(path) for path in found if path not in names]:
            raise PredictionException(
                f"the model gave more than its signature tells for this request: {more} of its result", MODEL_FAILED
            )
        return tuple(found[path] for path in self._paths)

    def _warm_up(self) -> None:
        needed = [spec for spec in self._inputs if not spec.get("optional")]
        try:
            for specs in (self._inputs, needed) if len(needed) < len(self._inputs) else (self._inputs,):
                for rows in WARM_UP_ROWS:
                    self._call([zeros(one, rows, self._device) for one in specs], tuple(one["name"] for one in specs))
        except PredictionException as error:  # zeros may be no valid input: then the first request compiles
            logging.getLogger(__name__).warning("No warm-up: %s", error.message)

    def _encode(self, job: Job, results: tuple[Argument, ...], context: Any) -> bytes:
        headers: list[str] = []
        blobs: list[bytes | memoryview] = []
        for position in job.plan.outputs:
            spec, result = self._outputs[position], results[position]
            if isinstance(result, list):
                blobs.append(join_texts(result))
                datatype, shape = "BYTES", texts_shape(len(result), spec["shape"])
            elif result.dtype not in DATATYPES or result.layout != torch.strided:
                raise unsupported(spec["name"], result)
            else:
                blobs.append(as_bytes(result))
                datatype, shape = DATATYPES[result.dtype], list(result.shape)
            headers.append(
                f'{{"name":{json.dumps(spec["name"])},"datatype":"{datatype}","shape":{shape},'
                f'"parameters":{{"binary_data_size":{len(blobs[-1])}}}}}'
            )
        header = f'{{"outputs":[{",".join(headers)}]}}'.encode()
        context.set_response_content_type(job.place, "application/octet-stream")
        context.set_response_header(job.place, LENGTH_HEADER, str(len(header)))
        return b"".join((header, *blobs))


def bad_request(sentence: str) -> PredictionException:
    return PredictionException(f"Bad request: {sentence}.", BAD_REQUEST)


def unsupported(name: str, result: torch.Tensor) -> PredictionException:
    """Of an output that was asked for; those who ask for others get them."""
    kind = str(result.dtype).removeprefix("torch.")
    kind = kind if result.layout == torch.strided else f"{kind} in a {str(result.layout).removeprefix('torch.')} layout"
    sentence = f"output {name!r} is {kind}, for which the Open Inference Protocol has no form; ask for other outputs"
    return PredictionException(sentence, UNSUPPORTED)


def is_of_the_device(error: Exception) -> bool:
    """Whether the accelerator failed. What a model raises itself may quote its input, whatever that says."""
    return isinstance(error, RuntimeError) and DEVICE_FAILED.search(str(error)) is not None


def refuse(error: PredictionException, index: int, context: Any, *, alone: bool) -> bytes:
    """Fail one request of a batch, in the form that TorchServe gives to a batch that failed as a whole.

    A request that is alone raises instead: TorchServe's gRPC loses a status that was only set.
    """
    if alone:
        raise error
    context.set_response_status(error.error_code, "", index)
    context.set_response_content_type(index, "application/json")
    answer = {"code": error.error_code, "type": "InternalServerException", "message": error.message}
    return json.dumps(answer).encode()


def header_length(index: int, context: Any) -> int:
    value = context.get_request_header(index, LENGTH_HEADER)
    if value is None:  # header names come as the client wrote them, and a proxy may write them small
        headers = context.get_all_request_header(index).items()
        value = next((text for name, text in headers if name.lower() == LENGTH_HEADER.lower()), "")
    if not (value.isascii() and value.isdigit()):
        raise bad_request(f"the HTTP header {LENGTH_HEADER} must give the length of the JSON header in bytes")
    return int(value[:18])


def check_piece(piece: TensorHandler.Piece) -> None:
    """Raise ValueError unless the piece's numbers are such and its bytes are as many as its shape says."""
    if not all(type(number) is int and number >= 0 for number in (*piece.shape, piece.size_bytes)):
        raise ValueError(f"shape and binary_data_size of {piece.name} must be whole numbers from 0")
    if piece.datatype == "BYTES":
        return
    if piece.datatype not in DTYPES:
        raise ValueError(f"datatype {piece.datatype}")
    expected = math.prod(piece.shape) * DTYPES[piece.datatype].itemsize
    if piece.size_bytes != expected:
        raise ValueError(f"{piece.name} has binary_data_size {piece.size_bytes}, its shape takes {expected}")


def fits(shape: tuple[int, ...], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))


def split_texts(blob: memoryview, piece: TensorHandler.Piece) -> list[str]:
    texts, position, count = [], 0, math.prod(piece.shape)
    try:
        while position < len(blob):
            (size,) = struct.unpack_from("<I", blob, position)
            position += 4 + size
            texts.append(str(blob[position - size : position], "utf-8"))
    except (struct.error, UnicodeDecodeError) as error:
        raise bad_request(f"input {piece.name} must be UTF-8 texts, each after its length: {error}") from None
    if position != len(blob) or len(texts) != count:
        raise bad_request(f"input {piece.name} of shape {list(piece.shape)} must hold {count} texts, whole")
    return texts


def by_names(inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The arguments of a signature that does not tell them; None where all inputs go by their places."""
    if not any(spec.get("optional") for spec in inputs):
        return None
    return [
        {"name": spec["name"], "kind": "tensor", "inputs": [spec["name"]], "default": bool(spec.get("optional"))}
        for spec in inputs
    ]


def arranged(form: list[dict[str, Any]], named: Mapping[str, Argument]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments by their places and, from the first on that keeps its default, by their names."""
    by_place: list[Any] = []
    by_name: dict[str, Any] = {}
    has_gap = False
    for one in form:
        if one.get("default") and not any(name in named for name in one["inputs"]):
            has_gap = True
        elif has_gap:
            by_name[one["name"]] = argument_of(one, named)
        else:
            by_place.append(argument_of(one, named))
    return by_place, by_name


def argument_of(one: dict[str, Any], named: Mapping[str, Argument]) -> Any:
    """None for an optional one of which nothing is given."""
    found = [named[name] for name in one["inputs"] if name in named]
    if not found:
        return None
    if one["kind"] in ("list", "tuple"):
        return found if one["kind"] == "list" else tuple(found)
    if one["kind"] == "dict":
        return {key: named[name] for key, name in zip(one["keys"], one["inputs"], strict=True) if name in named}
    return found[0]


def parts(
    result: Any, path: tuple[Any, ...], paths: frozenset[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Whatever in a result is no dict, tuple or list, with the way to it. None is no part; a list of texts is one."""
    if path in paths and result is not None and not isinstance(result, (dict, tuple)):
        yield path, result
    elif isinstance(result, dict):
        for key, value in result.items():
            yield from parts(value, (*path, key), paths)
    elif isinstance(result, (tuple, list)):
        for place, value in enumerate(result):
            yield from parts(value, (*path, place), paths)
    elif result is not None:
        yield path, result


def on_cpu(result: Any, spec: dict[str, Any]) -> Argument:
    if isinstance(result, torch.Tensor):
        return result.cpu()
    if isinstance(result, list) and all(isinstance(text, str) for text in result):
        return result
    kind = type(result).__name__
    raise PredictionException(f"the model gave {kind} as output {spec['name']}, which is no tensor", MODEL_FAILED)


def as_bytes(result: torch.Tensor) -> memoryview:
    if result.dtype == torch.bfloat16:
        result = result.view(torch.uint16)  # numpy has no bfloat16
    return np.ascontiguousarray(result.numpy()).reshape(-1).view(np.uint8).data


def join_texts(texts: list[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))


def texts_shape(count: int, wanted: Sequence[int]) -> list[int]:
    """TorchScript's `List[str]` has no shape: the trailing sizes are the signature's."""
    trailing = list(wanted[1:])
    return [count // math.prod(trailing), *trailing] if all(size > 0 for size in trailing) else [count]


def join(column: tuple[Argument, ...]) -> Argument:
    if isinstance(column[0], list):
        return [text for texts in column for text in texts]
    return torch.cat(column)  # type: ignore[arg-type]


def rows_of(output: Argument) -> int:
    """-1 for what has no rows that could be cut apart."""
    if isinstance(output, list):
        return len(output)
    return len(output) if output.ndim and output.layout == torch.strided else -1


def cut(output: Argument, rows: list[int]) -> list[Argument]:
    if isinstance(output, torch.Tensor):
        return list(torch.split(output, rows))
    ends = [sum(rows[: position + 1]) for position in range(len(rows))]
    return [output[end - count : end] for end, count in zip(ends, rows, strict=True)]


def last_line(error: Exception) -> str:
    """TorchScript's errors are a page of its own traceback; what happened stands in the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def zeros(spec: dict[str, Any], rows: int, device: torch.device) -> Argument:
    shape = [size if size != -1 else rows if axis == 0 else 1 for axis, size in enumerate(spec["shape"])]
    if spec["datatype"] == "BYTES":
        return [""] * math.prod(shape)
    return torch.zeros(shape, dtype=DTYPES[spec["datatype"]], device=device)


def choose_device(gpu_id: int | None) -> torch.device:
    return torch.device("cpu") if gpu_id is None or not torch.cuda.is_available() else torch.device("cuda", gpu_id)


def quieten() -> None:
    """Stop the two lines that TorchServe's worker prints for every request, a tenth of its time.

    They are its `Backend received inference` and its PredictionTime metric; the gateway times every call itself.
    DUET_WORKER_LOG_LEVEL=INFO brings them back.
    """
    logging.getLogger().setLevel(os.environ.get("DUET_WORKER_LOG_LEVEL", "WARNING"))


def configure_torch(device: torch.device) -> None:
    """One thread per worker unless DUET_TORCH_THREADS says more: workers are the parallelism.

    TF32 is off unless DUET_ALLOW_TF32=1: it keeps 10 bits of mantissa, and twins are compared to more than that.
    """
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("DUET_TORCH_THREADS", "1")))
        with suppress(RuntimeError):  # can be set once in a process
            torch.set_num_interop_threads(1)
    tf32 = os.environ.get("DUET_ALLOW_TF32") == "1"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32

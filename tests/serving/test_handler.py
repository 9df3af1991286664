"""The handler under TorchServe's own Context, without TorchServe: one process, no socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from ts.context import Context, RequestProcessor
from ts.utils.util import PredictionException

from serving.handler import TensorHandler, is_of_the_device
from tests.serving.tensors import LENGTH, answer, request, spec, tensor, write_model

X = np.array([[1.0, 2.0]], dtype=np.float32)


class Affine(nn.Module):
    """Counts its runs, so that a test sees how many requests shared one. A row of sevens fails."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if bool((x == 7).any()):
            raise RuntimeError("no sevens, please")
        self.runs += 1
        return 2 * x + 1, self.runs.expand(x.size(0))


class Subtract(nn.Module):
    def forward(self, minuend: torch.Tensor, subtrahend: torch.Tensor) -> torch.Tensor:
        return minuend - subtrahend


class Mean(nn.Module):
    """Of all rows: the answer has one row, however many were sent."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0, keepdim=True)


class Centred(nn.Module):
    """Counts its runs. A row's answer depends on the rows beside it, and has one row all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.runs += 1
        return x - x.mean(0), self.runs.expand(x.size(0))


class Shout(nn.Module):
    def forward(self, text: list[str]) -> tuple[list[str], torch.Tensor]:
        return [one + "!" for one in text], torch.tensor([len(one) for one in text])


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Shifted(nn.Module):
    """Counts its runs, as `Affine` does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1, dtype=torch.int64))

    def forward(
        self, x: torch.Tensor, plus: torch.Tensor | None = None, minus: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        self.runs += 1
        if plus is not None:
            x = x + plus
        if minus is not None:
            x = x - minus
        return {"runs": self.runs.expand(x.size(0)), "y": x}


def handler_of(folder: Path, module: nn.Module, inputs: list[Any], outputs: list[Any], **more: Any) -> TensorHandler:
    write_model(folder, module, inputs, outputs, **more)
    handler = TensorHandler()
    handler.initialize(context(folder))
    return handler


def context(folder: Path = Path(), headers: list[dict[str, str]] | None = None) -> Context:
    made = Context("model", str(folder), None, len(headers or []), None, "0.12.0")
    made.request_processor = [RequestProcessor(entry) for entry in headers or []]
    return made


def ask(handler: TensorHandler, *requests: tuple[bytes, int]) -> tuple[list[Any], Context]:
    """One batch of TorchServe's; returns its raw answers."""
    made = context(headers=[{LENGTH: str(length)} for _, length in requests])
    return handler.handle([{"body": bytearray(body)} for body, _ in requests], made), made


def outputs(raw: list[Any], made: Context, index: int = 0) -> dict[str, Any]:
    return answer(raw[index], int(made.get_response_headers(index)[LENGTH]))


@pytest.fixture
def affine(tmp_path: Path) -> TensorHandler:
    return handler_of(
        tmp_path, Affine(), [spec("x", "FP32", -1, 2)], [spec("y", "FP32", -1, 2), spec("runs", "INT64", -1)]
    )


def test_a_tensor_goes_in_and_every_output_comes_out(affine: TensorHandler) -> None:
    """Without `outputs` in the request all outputs come, in the signature's order, as an octet-stream."""
    raw, made = ask(affine, request(tensor("x", X)))
    answered = outputs(raw, made)
    assert list(answered) == ["y", "runs"]
    np.testing.assert_array_equal(answered["y"], [[3.0, 5.0]])
    assert made.get_response_content_type(0) == "application/octet-stream"
    assert made.get_response_status(0)[0] == 200


def test_only_the_outputs_asked_for_come_back_in_the_order_asked(affine: TensorHandler) -> None:
    """The order of `outputs` in the request counts, not the signature's."""
    raw, made = ask(affine, request(tensor("x", X), outputs=[{"name": "runs"}, {"name": "y"}]))
    assert list(outputs(raw, made)) == ["runs", "y"]
    raw, made = ask(affine, request(tensor("x", X), outputs=[{"name": "y"}]))
    assert list(outputs(raw, made)) == ["y"]


def test_requests_of_one_batch_share_a_forward_pass_and_get_their_own_rows(affine: TensorHandler) -> None:
    """The module says the same run number to all three; rows are cut where they were joined."""
    parts = [np.full((rows, 2), rows, dtype=np.float32) for rows in (1, 3, 2)]
    raw, made = ask(affine, *(request(tensor("x", part)) for part in parts))
    runs = set()
    for index, part in enumerate(parts):
        answered = outputs(raw, made, index)
        np.testing.assert_array_equal(answered["y"], 2 * part + 1)
        runs |= set(answered["runs"].tolist())
    assert len(runs) == 1


def test_requests_of_different_trailing_shapes_run_apart(tmp_path: Path) -> None:
    """A batch of a 2-wide, a 3-wide and a 2-wide request: each gets what it sent."""
    handler = handler_of(tmp_path, Same(), [spec("x", "FP32", -1, -1)], [spec("y", "FP32", -1, -1)])
    parts = [np.full((1, width), index, dtype=np.float32) for index, width in enumerate((2, 3, 2))]
    raw, made = ask(handler, *(request(tensor("x", part)) for part in parts))
    for index, part in enumerate(parts):
        np.testing.assert_array_equal(outputs(raw, made, index)["y"], part)


def test_a_bad_request_fails_alone_in_its_batch(affine: TensorHandler) -> None:
    """Its neighbours get their answers; it gets a 400 in the form of TorchServe's own errors."""
    bad = request(tensor("z", X))
    raw, made = ask(affine, request(tensor("x", X)), bad, request(tensor("x", X + 1)))
    np.testing.assert_array_equal(outputs(raw, made, 2)["y"], [[5.0, 7.0]])
    assert [made.get_response_status(index)[0] for index in range(3)] == [200, 400, 200]
    assert "'x'" in json.loads(raw[1])["message"]


def test_a_row_that_the_model_refuses_does_not_fail_its_neighbours(affine: TensorHandler) -> None:
    """The shared pass fails, so each is run alone: only the culprit gets the model's own last words."""
    sevens = np.full((1, 2), 7, dtype=np.float32)
    raw, made = ask(affine, request(tensor("x", X)), request(tensor("x", sevens)))
    np.testing.assert_array_equal(outputs(raw, made, 0)["y"], [[3.0, 5.0]])
    assert made.get_response_status(1)[0] == 503
    assert "no sevens, please" in json.loads(raw[1])["message"]


class Odd(nn.Module):
    """Beside a plain output one that no datatype of the protocol holds: complex, quantised or sparse."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.kind == "complex64":
            return x, torch.complex(x, x)
        if self.kind == "quint8":
            return x, torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
        if self.kind == "complex128":
            return x, torch.complex(x.double(), x.double())
        return x, x.to_sparse()


@pytest.mark.parametrize("kind", ["complex64", "complex128", "quint8", "sparse"])
def test_an_output_without_a_datatype_fails_only_those_who_ask_for_it(tmp_path: Path, kind: str) -> None:
    """The kind: an output that cannot be said. It fails its request with 501, not the others of TorchServe's batch."""
    handler = handler_of(
        tmp_path, Odd(kind), [spec("x", "FP32", -1, 2)], [spec("y", "FP32", -1, 2), spec("z", "U", -1)]
    )
    everything = request(tensor("x", X))
    raw, made = ask(handler, everything, request(tensor("x", X + 1), outputs=[{"name": "y"}]), everything)
    assert [made.get_response_status(index)[0] for index in range(3)] == [501, 200, 501]
    np.testing.assert_array_equal(outputs(raw, made, 1)["y"], X + 1)
    for refused in (raw[0], raw[2]):
        told = json.loads(refused)["message"]
        assert "output 'z' is" in told
        assert kind in told
        assert "ask for other outputs" in told


class Quoting(nn.Module):
    """Refuses "CUDA error" with an error that quotes it."""

    def forward(self, text: list[str]) -> list[str]:
        if text[0].startswith("CUDA"):
            raise ValueError(text[0])
        return text


def test_an_error_that_quotes_its_input_is_the_models_and_fails_alone(tmp_path: Path) -> None:
    """The kind: a server's failure is told by its own signs, not by words that a caller can put there."""
    handler = handler_of(tmp_path, Quoting(), [spec("t", "BYTES", -1)], [spec("u", "BYTES", -1)])
    handler._device = torch.device("cuda")  # as if there were one: only the judgement is looked at
    texts = ["CUDA error: device-side assert triggered", "fine"]
    raw, made = ask(handler, *(request(tensor("t", [text])) for text in texts))
    assert [made.get_response_status(index)[0] for index in range(2)] == [503, 200]
    assert "the model failed" in json.loads(raw[0])["message"]


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ..."), True),
        (RuntimeError("The following operation failed\nTraceback ...\nRuntimeError: CUDA out of memory. Tried"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), True),
        (RuntimeError("could not convert string to float: 'CUDA error'"), False),
        (ValueError("CUDA error: by the model's own words"), False),
    ],
)
def test_the_device_is_known_by_its_own_words(error: Exception, found: bool) -> None:
    assert is_of_the_device(error) is found


def test_a_model_that_is_not_row_by_row_is_not_merged(tmp_path: Path) -> None:
    """The signature promises rows, the module gives their mean: each request still gets its own mean."""
    handler = handler_of(tmp_path, Mean(), [spec("x", "FP32", -1, 1)], [spec("y", "FP32", -1, 1)])
    parts = [np.array([[1.0], [3.0]], dtype=np.float32), np.array([[10.0], [20.0]], dtype=np.float32)]
    raw, made = ask(handler, *(request(tensor("x", part)) for part in parts))
    assert [outputs(raw, made, index)["y"].tolist() for index in range(2)] == [[[2.0]], [[15.0]]]


@pytest.mark.parametrize("rows", ["dependent", "unknown", None, "Independent", True, ["independent"]], ids=str)
def test_rows_that_are_not_known_to_be_independent_run_alone_and_once(tmp_path: Path, rows: Any) -> None:
    """Only `"rows": "independent"` in the signature lets requests share a pass.

    The kind: any model whose answer has as many rows as went in, and that looks at all of them; its shapes tell
    nothing. Archives of an earlier Duet say nothing of rows, and a word that is none of ours is no permission.
    """
    outputs_ = [spec("y", "FP32", -1, 2), spec("runs", "INT64", -1)]
    handler = handler_of(tmp_path, Centred(), [spec("x", "FP32", -1, 2)], outputs_, rows=rows)
    warm = int(outputs(*ask(handler, request(tensor("x", X))))["runs"][0])
    parts = [np.full((1, 2), value, dtype=np.float32) for value in (1, 5, 1000)]
    raw, made = ask(handler, *(request(tensor("x", part)) for part in parts))
    found = [outputs(raw, made, place) for place in range(3)]
    assert [one["y"].tolist() for one in found] == [[[0, 0]]] * 3
    assert [one["runs"].tolist() for one in found] == [[warm + 1], [warm + 2], [warm + 3]]


def test_inputs_go_to_the_module_in_the_signatures_order(tmp_path: Path) -> None:
    """The order in the request is the client's own."""
    handler = handler_of(
        tmp_path,
        Subtract(),
        [spec("minuend", "INT64", -1), spec("subtrahend", "INT64", -1)],
        [spec("difference", "INT64", -1)],
    )
    ten, three = tensor("minuend", np.array([10])), tensor("subtrahend", np.array([3]))
    raw, made = ask(handler, request(three, ten))
    assert outputs(raw, made)["difference"].tolist() == [7]


def test_texts_go_in_and_out(tmp_path: Path) -> None:
    """BYTES are UTF-8 texts for TorchScript; two requests of texts merge as tensors do."""
    handler = handler_of(
        tmp_path, Shout(), [spec("text", "BYTES", -1)], [spec("loud", "BYTES", -1), spec("size", "INT64", -1)]
    )
    raw, made = ask(handler, request(tensor("text", ["hé", ""])), request(tensor("text", ["abc"])))
    first, second = outputs(raw, made, 0), outputs(raw, made, 1)
    assert (first["loud"], second["loud"]) == (["hé!", "!"], ["abc!"])
    assert (first["size"].tolist(), second["size"].tolist()) == ([3, 0], [3])  # TorchScript counts bytes


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16", "bool"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 3)])
def test_every_datatype_survives_the_way_at_any_alignment(tmp_path: Path, dtype: str, shape: tuple[int, int]) -> None:
    """The header's length moves the tensors to any address; no rows at all are an answer too."""
    datatype = tensor("x", np.zeros(1, dtype))[0]["datatype"]
    handler = handler_of(tmp_path, Same(), [spec("x", datatype, -1, 3)], [spec("y", datatype, -1, 3)])
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for padding in range(9):
        raw, made = ask(handler, request(tensor("x", values), padding=padding))
        np.testing.assert_array_equal(outputs(raw, made)["y"], values)


def test_the_answer_to_describe_is_the_signature(affine: TensorHandler, tmp_path: Path) -> None:
    """TorchServe's `?customized=true` reaches a handler as the header describe, without a body."""
    (raw,) = affine.handle([{}], context(headers=[{"describe": "True"}]))
    assert json.loads(raw) == json.loads((tmp_path / "signature.json").read_text())


def test_the_length_header_is_found_in_any_letters(affine: TensorHandler) -> None:
    """TorchServe keeps a header's letters as the client wrote them."""
    body, length = request(tensor("x", X))
    for name in (LENGTH, LENGTH.lower(), LENGTH.upper()):
        made = context(headers=[{name: str(length)}])
        np.testing.assert_array_equal(outputs(affine.handle([{"body": body}], made), made)["y"], [[3.0, 5.0]])


@pytest.fixture
def shifted(tmp_path: Path) -> TensorHandler:
    optional = [spec(name, "FP32", -1, 1) | {"optional": True} for name in ("plus", "minus")]
    return handler_of(
        tmp_path,
        Shifted(),
        [spec("x", "FP32", -1, 1), *optional],
        [spec("y", "FP32", -1, 1), spec("runs", "INT64", -1)],
        forward={"outputs": [["y"], ["runs"]]},
        rows="independent",
    )


def test_only_requests_with_the_same_inputs_share_a_forward_pass(shifted: TensorHandler) -> None:
    """All four sets of inputs have the same shapes, and those that are alike are joined."""
    one = np.ones((1, 1), np.float32)
    sets = [[], ["plus"], ["minus"], ["plus"], ["plus", "minus"], []]
    raw, made = ask(shifted, *(request(*(tensor(name, one) for name in ("x", *names))) for names in sets))
    answers = [outputs(raw, made, place) for place in range(len(sets))]
    assert [answered["y"].item() for answered in answers] == [1, 2, 0, 2, 1, 1]
    runs = [answered["runs"].item() for answered in answers]
    assert runs[0] == runs[5]
    assert runs[1] == runs[3]
    assert len(set(runs)) == 4


def test_a_needed_input_cannot_be_left_out(shifted: TensorHandler) -> None:
    with pytest.raises(PredictionException, match=r"\['plus', 'minus'\] can be left out; got \['plus'\]"):
        ask(shifted, request(tensor("plus", np.ones((1, 1), np.float32))))


GOOD, GOOD_BYTES = tensor("x", X)
BAD_REQUESTS = {
    "no length header": ({"body": bytearray(b"{}")}, {}, LENGTH),
    "length is no number": ({"body": bytearray(b"{}")}, {LENGTH: "two"}, LENGTH),
    "length below zero": ({"body": bytearray(b"{}")}, {LENGTH: "-2"}, LENGTH),
    "length beyond the body": ({"body": bytearray(b"{}")}, {LENGTH: "3"}, "smaller"),
    "length beyond the limit": ({"body": bytearray(b" " * 70_000)}, {LENGTH: "70000"}, "65536"),
    "JSON that TorchServe has decoded": ({"body": {"inputs": []}}, {LENGTH: "2"}, "application/octet-stream"),
    "no body": ({}, {LENGTH: "2"}, "application/octet-stream"),
}
BAD_HEADERS: dict[str, tuple[Any, bytes, str]] = {
    "not JSON": (b"{]", b"", "JSONDecodeError"),
    "JSON too deep": (b"[" * 60_000, b"", "RecursionError"),
    "not an object": ([], b"", "inputs"),
    "inputs is null": ({"inputs": None}, b"", "inputs"),
    "no inputs": ({"inputs": []}, b"", "'x'"),
    "an input twice": ({"inputs": [GOOD, GOOD]}, GOOD_BYTES * 2, "each once"),
    "an input too many": ({"inputs": [GOOD, GOOD | {"name": "z"}]}, GOOD_BYTES * 2, "'z'"),
    "data in JSON": ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}, b"", "binary"),
    "another datatype": ({"inputs": [GOOD | {"datatype": "INT32"}]}, GOOD_BYTES, "must be FP32, got INT32"),
    "no datatype of the protocol": ({"inputs": [GOOD | {"datatype": "FLOAT"}]}, GOOD_BYTES, "FLOAT"),
    "another shape": ({"inputs": [GOOD | {"shape": [2, 1]}]}, GOOD_BYTES, "must have shape [-1, 2], got [2, 1]"),
    "another rank": ({"inputs": [GOOD | {"shape": [2]}]}, GOOD_BYTES, "must have shape [-1, 2], got [2]"),
    "a size below zero": ({"inputs": [GOOD | {"shape": [-1, -2]}]}, GOOD_BYTES, "whole numbers"),
    "a size that is true": ({"inputs": [GOOD | {"shape": [True, 2]}]}, GOOD_BYTES, "whole numbers"),
    "a size of 10**30": ({"inputs": [GOOD | {"shape": [10**30, 2]}]}, GOOD_BYTES, "its shape takes"),
    "a size that does not fit": (
        {"inputs": [GOOD | {"parameters": {"binary_data_size": 4}}]},
        GOOD_BYTES,
        "its shape takes 8",
    ),
    "bytes missing": ({"inputs": [GOOD]}, GOOD_BYTES[:-1], "7 follow"),
    "bytes too many": ({"inputs": [GOOD]}, GOOD_BYTES + b"!", "9 follow"),
    "an unknown output": ({"inputs": [GOOD], "outputs": [{"name": "w"}]}, GOOD_BYTES, "'w'"),
    "an output twice": ({"inputs": [GOOD], "outputs": [{"name": "y"}, {"name": "y"}]}, GOOD_BYTES, "each once"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_a_400_that_says_what_is_wrong(affine: TensorHandler, case: str) -> None:
    """A request that is alone raises, so that TorchServe's gRPC keeps the status."""
    data, headers, expected = BAD_REQUESTS[case]
    with pytest.raises(PredictionException) as caught:
        affine.handle([data], context(headers=[headers]))
    assert caught.value.error_code == 400
    assert expected in caught.value.message


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_bad_json_header_is_a_400_that_says_what_is_wrong(affine: TensorHandler, case: str) -> None:
    """Nothing in the header is trusted, and nothing of the size that it claims is allocated."""
    header, blob, expected = BAD_HEADERS[case]
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(PredictionException) as caught:
        ask(affine, (encoded + blob, len(encoded)))
    assert caught.value.error_code == 400
    assert expected in caught.value.message


@pytest.mark.parametrize(
    "blob",
    [b"\x05\x00\x00\x00ab", b"\x02\x00\x00\x00\xff\xfe", b"\x01\x00", b"", b"\x00\x00\x00\x00" * 2],
    ids=["cut short", "not UTF-8", "length cut short", "none", "two"],
)
def test_texts_that_do_not_add_up_are_a_400(tmp_path: Path, blob: bytes) -> None:
    """One text was announced."""
    handler = handler_of(
        tmp_path, Shout(), [spec("text", "BYTES", -1)], [spec("loud", "BYTES", -1), spec("size", "INT64", -1)]
    )
    entry = spec("text", "BYTES", 1) | {"parameters": {"binary_data_size": len(blob)}}
    with pytest.raises(PredictionException) as caught:
        ask(handler, request((entry, blob)))
    assert caught.value.error_code == 400

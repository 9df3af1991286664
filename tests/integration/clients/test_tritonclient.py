"""NVIDIA's tritonclient, unmodified: its four clients, each to models of both frameworks."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from models.catalog import CATALOG
from tests.fronts import Arrays, v2_rest_binary
from tests.integration.clients.examples import VARIANTS, examples
from tests.stack import Stack

HTTP, HTTP_AIO, GRPC, GRPC_AIO = "http", "http.aio", "grpc", "grpc.aio"
LINEAR, STRINGS, STATEFUL = "linear_regression", "text_classifier", "lstm_text_generator"
BOTH = pytest.mark.parametrize("variant", VARIANTS)


class Triton:
    """One of the four clients, called alike: ``triton("is_server_live")``; asyncio's are waited for."""

    def __init__(self, kind: str, stack: Stack) -> None:
        self.over_grpc = kind in (GRPC, GRPC_AIO)
        self.module: Any = importlib.import_module(f"tritonclient.{kind}")
        self._runner = asyncio.Runner() if kind.endswith("aio") else None
        address = f"127.0.0.1:{stack.grpc_port if self.over_grpc else stack.http_port}"
        self.client = self.waited(self._open(address)) if self._runner else self.module.InferenceServerClient(address)

    async def _open(self, address: str) -> Any:
        return self.module.InferenceServerClient(address)

    def waited(self, result: Any) -> Any:
        return self._runner.run(result) if self._runner and inspect.iscoroutine(result) else result

    def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self.waited(getattr(self.client, method)(*arguments, **options))

    def told(self, method: str, *arguments: Any) -> Any:
        """What is told of the server and its models, as JSON over both transports."""
        return self(method, *arguments, **({"as_json": True} if self.over_grpc else {}))

    def inputs(self, arrays: Arrays, *, binary: bool = True) -> list[Any]:
        made = []
        for name, array in arrays.items():
            datatype = {"f": "FP32", "i": "INT64", "O": "BYTES"}[array.dtype.kind]
            made.append(self.module.InferInput(name, list(array.shape), datatype))
            made[-1].set_data_from_numpy(array, **({} if self.over_grpc else {"binary_data": binary}))
        return made

    def infer(self, model: str, arrays: Arrays, **options: Any) -> Any:
        return self("infer", model, self.inputs(arrays), **options)

    def response(self, result: Any) -> dict[str, Any]:
        return result.get_response(as_json=True) if self.over_grpc else result.get_response()

    def refusal(self, *arguments: Any, **options: Any) -> tuple[str, str]:
        """The status, as gRPC's code or HTTP's number, and the text."""
        with pytest.raises(InferenceServerException) as caught:
            self(*arguments, **options)
        return caught.value.status().removeprefix("StatusCode."), caught.value.message()

    def close(self) -> None:
        self("close")
        if self._runner:
            self._runner.close()


@pytest.fixture(params=[HTTP, HTTP_AIO, GRPC, GRPC_AIO])
def triton(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Triton]:
    client = Triton(request.param, stack)
    yield client
    client.close()


def same(found: Callable[[str], Any], expected: Arrays) -> None:
    """The answer is the canonical one, bit for bit."""
    for name, wanted in expected.items():
        array = found(name)
        assert array.dtype == wanted.dtype, name
        assert array.shape == wanted.shape, name
        assert array.tobytes() == wanted.tobytes(), name


def canonical(stack: Stack, model: str, variant: str, arrays: Arrays, version: int | None = None) -> Arrays:
    return v2_rest_binary(stack, model, variant, arrays, version=version, seconds=None)


@BOTH
def test_health(triton: Triton, variant: str) -> None:
    assert triton("is_server_live")
    assert triton("is_server_ready")
    assert triton("is_model_ready", f"{LINEAR}@{variant}")
    assert triton("is_model_ready", f"{LINEAR}@{variant}", "1")
    assert not triton("is_model_ready", f"{LINEAR}@{variant}", "9")
    assert not triton("is_model_ready", f"nobody@{variant}")


def test_the_server_names_its_extensions(triton: Triton) -> None:
    told = triton.told("get_server_metadata")
    assert told["name"] == "duet"
    assert {"binary_tensor_data", "classification", "model_configuration", "statistics"} <= set(told["extensions"])


@BOTH
@pytest.mark.parametrize("model", [LINEAR, STRINGS, STATEFUL])
def test_metadata_is_the_catalogs(triton: Triton, model: str, variant: str) -> None:
    told = triton.told("get_model_metadata", f"{model}@{variant}")
    assert told["versions"] == [str(version) for version in CATALOG[model].versions]
    assert told["platform"].startswith(variant)
    for kind in ("inputs", "outputs"):
        found = {one["name"]: (one["datatype"], [int(size) for size in one["shape"]]) for one in told[kind]}
        assert found == {one.name: (one.datatype, list(one.shape)) for one in getattr(CATALOG[model], kind)}


@BOTH
def test_the_configuration_declares_one_row(triton: Triton, variant: str) -> None:
    """As Triton's: the batch is no dimension, and ``max_batch_size`` says that there is one."""
    told = triton.told("get_model_config", f"{LINEAR}@{variant}")
    config = told["config"] if triton.over_grpc else told
    assert config["max_batch_size"] > 0
    assert [(one["name"], one["data_type"], int(one["dims"][0])) for one in config["input"]] == [("x", "TYPE_FP32", 1)]


def test_the_index_lists_every_version_of_every_model(triton: Triton) -> None:
    told = triton.told("get_model_repository_index")
    found = {(one["name"], one["version"]): one["state"] for one in (told["models"] if triton.over_grpc else told)}
    assert found == {(name, str(version)): "READY" for name, spec in CATALOG.items() for version in spec.versions}


@BOTH
@pytest.mark.parametrize("model", [LINEAR, STRINGS, STATEFUL])
def test_an_answer_is_the_canonical_one(triton: Triton, stack: Stack, model: str, variant: str) -> None:
    """One float, strings, several inputs and outputs; as bytes, and over HTTP as JSON too."""
    arrays = examples(model)
    expected = canonical(stack, model, variant, arrays)
    same(triton.infer(f"{model}@{variant}", arrays).as_numpy, expected)
    if not triton.over_grpc:
        wanted = [triton.module.InferRequestedOutput(name, binary_data=False) for name in expected]
        result = triton("infer", f"{model}@{variant}", triton.inputs(arrays, binary=False), outputs=wanted)
        assert all("data" in output for output in result.get_response()["outputs"])
        same(result.as_numpy, expected)


@BOTH
@pytest.mark.parametrize("version", [1, 2])
def test_a_version_of_its_own(triton: Triton, stack: Stack, variant: str, version: int) -> None:
    arrays = examples(LINEAR)
    result = triton.infer(f"{LINEAR}@{variant}", arrays, model_version=str(version), request_id="step 7")
    assert triton.response(result)["model_version"] == str(version)
    assert triton.response(result)["id"] == "step 7"
    same(result.as_numpy, canonical(stack, LINEAR, variant, arrays, version))


@BOTH
@pytest.mark.parametrize(
    "pin",
    [
        lambda variant: (f"{LINEAR}@{variant}", {}),
        lambda variant: (LINEAR, {"headers": {"x-duet-variant": variant}}),
        lambda variant: (LINEAR, {"parameters": {"variant": variant}}),
    ],
    ids=["name", "header", "parameter"],
)
def test_a_pin_chooses_the_framework(triton: Triton, variant: str, pin: Callable[[str], Any]) -> None:
    """The statistics, which any of the clients reads, say who has computed."""
    before = {one: computed(triton, one) for one in VARIANTS}
    model, options = pin(variant)
    triton.infer(model, examples(LINEAR), **options)
    assert {one: computed(triton, one) - before[one] for one in VARIANTS} == {
        one: int(one == variant) for one in VARIANTS
    }


def computed(triton: Triton, variant: str) -> int:
    told = triton.told("get_inference_statistics", f"{LINEAR}@{variant}")
    return sum(int(one.get("inference_count", 0)) for one in told["model_stats"])


@BOTH
def test_only_the_outputs_that_are_asked_for(triton: Triton, variant: str) -> None:
    wanted = [triton.module.InferRequestedOutput("new_cell")]
    result = triton.infer(f"{STATEFUL}@{variant}", examples(STATEFUL), outputs=wanted)
    assert result.as_numpy("new_cell").shape == (1, 128)
    assert result.as_numpy("logits") is None


@BOTH
def test_classes_in_place_of_numbers(triton: Triton, stack: Stack, variant: str) -> None:
    wanted = [triton.module.InferRequestedOutput("probabilities", class_count=1)]
    found = triton.infer(f"{STRINGS}@{variant}", examples(STRINGS), outputs=wanted).as_numpy("probabilities")
    numbers = canonical(stack, STRINGS, variant, examples(STRINGS))["probabilities"]
    assert [text.decode().split(":")[1] for text in found.ravel()] == [str(place) for place in numbers.argmax(axis=1)]


@BOTH
@pytest.mark.parametrize("name", ["serving_default", None])
def test_a_signature_is_named_by_a_parameter(triton: Triton, stack: Stack, variant: str, name: str | None) -> None:
    """The default's own name too; one that is not there is refused with those that are."""
    parameters = {} if name is None else {"parameters": {"signature_name": name}}
    result = triton.infer(f"{LINEAR}@{variant}", examples(LINEAR), **parameters)
    same(result.as_numpy, canonical(stack, LINEAR, variant, examples(LINEAR)))
    inputs = triton.inputs(examples(LINEAR))
    _, text = triton.refusal("infer", f"{LINEAR}@{variant}", inputs, parameters={"signature_name": "nope"})
    assert "no signature 'nope'; the model's signatures are" in text
    assert "serving_default" in text


@BOTH
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compression_both_ways(triton: Triton, stack: Stack, variant: str, coding: str) -> None:
    arrays = examples(STATEFUL)
    chosen = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    result = triton.infer(
        f"{STATEFUL}@{variant}", arrays, **({"compression_algorithm": coding} if triton.over_grpc else chosen)
    )
    same(result.as_numpy, canonical(stack, STATEFUL, variant, arrays))


@BOTH
def test_refusals_say_what_is_wrong(triton: Triton, variant: str) -> None:
    right = triton.inputs(examples(LINEAR))
    wrong = triton.inputs({"x": np.ones((1, 2), np.float32)})
    not_found, invalid, late = (
        ("NOT_FOUND", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED") if triton.over_grpc else ("404", "400", "504")
    )
    for model, inputs, options, status, says in (
        (f"nobody@{variant}", right, {}, not_found, "unknown model 'nobody'"),
        (LINEAR + "@jax", right, {}, not_found, "'jax'"),
        (f"{LINEAR}@{variant}", right, {"model_version": "9"}, not_found, "no version 9; its versions are 1, 2"),
        (f"{LINEAR}@{variant}", wrong, {}, invalid, "input 'x': shape [1, 2]; the model takes [-1, 1]"),
        (f"{LINEAR}@{variant}", right, {"timeout": 1}, late, "before the request's deadline"),
    ):
        found, text = triton.refusal("infer", model, inputs, **options)
        assert (found, says in text) == (status, True), text
    assert triton.refusal("get_model_metadata", f"nobody@{variant}")[0] == not_found


def test_models_are_not_the_clients_to_load(triton: Triton) -> None:
    status, _ = triton.refusal("load_model", LINEAR)
    assert status == ("UNIMPLEMENTED" if triton.over_grpc else "404")


@BOTH
@pytest.mark.parametrize("triton", [HTTP], indirect=True)
def test_calls_over_http_at_once(triton: Triton, variant: str) -> None:
    inputs = triton.inputs(examples(LINEAR))
    pending = [triton("async_infer", f"{LINEAR}@{variant}", inputs, request_id=str(number)) for number in range(8)]
    assert [call.get_result().get_response()["id"] for call in pending] == [str(number) for number in range(8)]


@BOTH
@pytest.mark.parametrize("triton", [GRPC], indirect=True)
def test_calls_over_grpc_at_once(triton: Triton, variant: str) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def answered(result: Any, error: Any) -> None:
        answers.put((result, error))

    inputs = triton.inputs(examples(LINEAR))
    for number in range(8):
        triton("async_infer", f"{LINEAR}@{variant}", inputs, answered, request_id=str(number))
    found = [answers.get(timeout=30) for _ in range(8)]
    assert {error for _, error in found} == {None}
    assert {result.get_response().id for result, _ in found} == {str(number) for number in range(8)}


@pytest.mark.parametrize("triton", [GRPC], indirect=True)
def test_a_stream_of_both_frameworks_keeps_its_order_and_outlives_an_error(triton: Triton, stack: Stack) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    triton("start_stream", lambda result, error: answers.put((result, error)))
    models = [f"{STRINGS}@tensorflow", "nobody", f"{STRINGS}@pytorch"]
    for number, model in enumerate(models):
        triton("async_stream_infer", model, triton.inputs(examples(STRINGS)), request_id=str(number))
    (first, _), (_, error), (last, _) = [answers.get(timeout=30) for _ in models]
    triton("stop_stream")
    assert "unknown model 'nobody'" in error.message()
    for result in (first, last):  # not asked for: Triton marks them all the same
        assert result.get_response().parameters["triton_final_response"].bool_param
    for result, request_id, variant in ((first, "0", "tensorflow"), (last, "2", "pytorch")):
        assert result.get_response().id == request_id
        same(result.as_numpy, canonical(stack, STRINGS, variant, examples(STRINGS)))


@BOTH
@pytest.mark.parametrize("triton", [GRPC_AIO], indirect=True)
def test_a_stream_of_asyncio_steps_on_the_answer_before(triton: Triton, stack: Stack, variant: str) -> None:
    """Each request is made of the answer to the one before, as who generates text does."""
    steps, states = 5, asyncio.Queue[Any]()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for _ in range(steps):
            arrays = {"token": examples(STATEFUL)["token"], **await states.get()}
            yield {"model_name": f"{STATEFUL}@{variant}", "inputs": triton.inputs(arrays)}

    async def run() -> list[Any]:
        states.put_nowait({name: examples(STATEFUL)[name] for name in ("hidden", "cell")})
        cells = []
        async for result, error in triton.client.stream_infer(requests()):
            assert error is None
            # This client has no way to ask for it, and who reads its streams waits for it.
            assert result.get_response().parameters["triton_final_response"].bool_param
            cells.append(result.as_numpy("new_cell"))
            states.put_nowait({"hidden": result.as_numpy("new_hidden"), "cell": cells[-1]})
        return cells

    found = triton.waited(run())
    arrays = examples(STATEFUL)
    for cell in found:
        answer = canonical(stack, STATEFUL, variant, arrays)
        assert cell.tobytes() == answer["new_cell"].tobytes()
        arrays = {**arrays, "hidden": answer["new_hidden"], "cell": answer["new_cell"]}
    assert len(found) == steps

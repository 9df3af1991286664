"""Every front and message that is fuzzed: how it is called, what makes its messages, and where a climb begins."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from grpc_reflection.v1alpha import reflection_pb2

from gateway.protos import health_pb2
from gateway.protos import tfserving_pb2 as tf
from gateway.protos import torchserve_pb2 as torch
from gateway.protos import v2_pb2 as v2
from tests.security.fuzzing import bodies, calls, documents, good
from tests.security.fuzzing.fronts import MODEL, SIGNATURE_NAMES, Call, Fronts
from tests.security.fuzzing.genome import Draw, Genome
from tests.security.fuzzing.measure import Once
from tests.security.fuzzing.protobuf import saturated

#: The longest message that is taken (grpc.max_message_bytes, http.max_body_bytes).
MOST = 16 << 20
_GREAT = 1 << 24

Made = tuple[Once, int]


@dataclass(frozen=True, slots=True)
class Target:
    """``make`` builds the message that a `Draw` tells, and what sends it; the number is its size in bytes.

    ``good`` sends one by the same way that has no fault.
    """

    name: str
    make: Callable[[Fronts, Draw], Made]
    good: Callable[[Fronts], Call]
    seeds: tuple[Genome, ...] = field(default=(), repr=False)

    def message(self, fronts: Fronts, genome: Genome) -> tuple[Once, int, Genome]:
        """What is not in the genome is drawn by dice that it decides: the same genome, the same message."""
        draw = Draw(genome, random.Random(str(sorted(genome.items()))))
        once, size = self.make(fronts, draw)
        return once, size, draw.made


def over_grpc(
    service: str, method: str, message: Any, typical: Callable[[Draw, str, int], bytes], *seeds: Genome
) -> Target:
    def make(fronts: Fronts, draw: Draw) -> Made:
        room = draw.number("room", MOST)
        data = typical(draw, "of", room)
        data = calls.odd(draw, message.DESCRIPTOR, data, room)[:MOST]
        signature = draw.pick("signature", SIGNATURE_NAMES)
        metadata = {"x-duet-signature": signature} if service.startswith("org.pytorch") else {}
        return fronts.grpc(service, method, metadata, data), len(data)

    every = [{"room": MOST, "alone": 0, **genome} for genome in saturated(message.DESCRIPTOR, "odd")]
    own = [{"room": MOST, "alone": 0, "odd.groups": 0, **genome} for genome in seeds]
    name = f"{service.rpartition('.')[2]}/{method}"
    data = good.CALLS[name].SerializeToString()
    return Target(name, make, lambda fronts: fronts.grpc(service, method, {}, data), (*own, *every))


def over_rest(
    name: str,
    path: str,
    body: Callable[[Draw, str, int], bytes | tuple[bytes, int]],
    *seeds: Genome,
    content_type: str = "",
    room: int = MOST,
) -> Target:
    def make(fronts: Fronts, draw: Draw) -> Made:
        made = body(draw, "of", draw.number("room", room))
        headers = {"content-type": content_type} if content_type else {}
        data, length = made if isinstance(made, tuple) else (made, None)
        if length is not None:
            headers["inference-header-content-length"] = str(length)
        signature = draw.pick("signature", SIGNATURE_NAMES)
        if path.startswith(("/predictions", "/v2")):
            headers["x-duet-signature"] = signature
        return fronts.rest(path, headers, data[:room]), len(data[:room])

    def faultless(fronts: Fronts) -> Call:
        more, data = good.bodies(name)
        return fronts.rest(path, {"content-type": content_type} | more if content_type else more, data)

    return Target(name, make, faultless, tuple({"room": room, **genome} for genome in seeds))


def raw(draw: Draw, path: str, room: int) -> tuple[bytes, int]:
    return bodies.plain(draw, path, room), 0


def _elements(path: str, **more: int) -> Iterator[Genome]:
    """As many of each spelling of a value as fit, in rows and bare, even and with a fault at the end."""
    for element in range(len(documents._ELEMENTS)):
        for width in (0, 1):
            for odd in (0, 1):
                yield {
                    f"{path}.element": element,
                    f"{path}.width": width,
                    f"{path}.depth": 1,
                    f"{path}.count": _GREAT,
                    f"{path}.space": 0,
                    f"{path}.odd": odd,
                    f"{path}.last": 4,
                    "of.more": 0,
                    "of.spaces": 0,
                    "of.other": 0,
                    "of.twice": 0,
                    **more,
                }


def _indexed(name: str) -> int:
    return SIGNATURE_NAMES.index(name)


def _of_infer() -> Iterator[Genome]:
    plain = {"of.outputs": 0, "of.parameters": 0, "of.base64": 0, "of.tensor.parameters": 0, "of.tensor.shape": 2}
    plain |= {"of.tensor.off": 0, "of.tensor.within": 0, "of.tensor.single": 0}
    for raw_form in (0, 1):
        for datatype in range(len(calls._DATATYPES)):
            for size, count in ((0, 32768), (500, 32768), (0, _GREAT)):
                yield {
                    **plain,
                    "of.tensors": 1,
                    "of.raw": raw_form,
                    "of.tensor.datatype": datatype,
                    "of.tensor.count": count,
                    "of.tensor.item.size": size,
                    "of.tensor.value": 0,
                    "of.tensor.pieces": 1,
                }
    for what in ("of.outputs", "of.parameters", "of.tensor.parameters", "of.tensors"):
        for parameter in (0, 2):
            yield {**plain, "of.tensors": 1, "of.tensor.count": 1, "of.parameter": parameter, what: 256}


def _of_predict() -> Iterator[Genome]:
    strings = {"of.tensors": 1, "of.filters": 0, "of.tensor.dtype": calls._DTYPES.index(tf.DT_STRING)}
    yield {
        **strings,
        "of.tensor.content": 0,
        "of.tensor.count": _GREAT,
        "of.tensor.within": 1,
        "of.tensor.item.size": 0,
    }
    for dtype in range(len(calls._DTYPES)):
        for content in (0, 1):
            for size, count in ((0, 32768), (100, 32768), (500, 32768), (0, _GREAT)):
                yield {
                    "of.tensors": 1,
                    "of.name": 0,
                    "of.filters": 0,
                    "of.tensor.dtype": dtype,
                    "of.tensor.content": content,
                    "of.tensor.count": count,
                    "of.tensor.within": 0,
                    "of.tensor.item.size": size,
                    "of.tensor.item.fill": 0,
                    "of.tensor.fewer": 0,
                    "of.tensor.off": 0,
                    "of.tensor.shape": 2,
                    "of.tensor.single": 0,
                    "of.tensor.value": 0,
                    "of.tensor.pieces": 1,
                }


def _of_examples(**more: int) -> Iterator[Genome]:
    shared = {"of.shared": 1, "of.examples": 8000, "of.within": 0, "of.example.size": 4, "of.context.size": 1 << 16}
    yield {**shared, "of.signature": _indexed("examples"), **more}
    for shared in (0, 1):
        for count in (32768, 30000, 2000, _GREAT):
            for size in (0, 400):
                yield {
                    "of.shared": shared,
                    "of.examples": count,
                    "of.within": 0,
                    "of.example.size": size,
                    "of.context.size": 100 if count > 2000 else 2000 + 100 * size,
                    "of.signature": _indexed("examples"),
                    **more,
                }


_ESCAPES: Genome = {"of.unit": 4, "of.count": _GREAT, "of.begin": 1}
_PREDICTION, _MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
_V2, _TORCH = "inference.GRPCInferenceService", "org.pytorch.serve.grpc.inference.InferenceAPIsService"
_JSON = "application/json"
_ROWS = [
    seed
    for name in ("FP32", "INT64", "BYTES", "BOOL", "two", "many")
    for seed in _elements("of.data", **{"of.signature": _indexed(name), "of.rows": 0})
]
_LARGE_STRINGS: Genome = {"of.tensors": 1, "of.datatype": 1, "of.count": 32768, "of.within": 0, "of.item.size": 500}


def _over_grpc() -> Iterator[Target]:
    yield over_grpc(_V2, "ModelInfer", v2.ModelInferRequest, calls.infer, *_of_infer())
    yield over_grpc(_V2, "ModelStreamInfer", v2.ModelInferRequest, calls.infer, *_of_infer())
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"):
        yield over_grpc(_V2, method, getattr(v2, f"{method}Request"), calls.named)
    yield over_grpc(_V2, "ServerMetadata", v2.ServerMetadataRequest, calls.nothing)
    yield over_grpc(_PREDICTION, "Predict", tf.PredictRequest, calls.predict, *_of_predict())
    yield over_grpc(_PREDICTION, "Classify", tf.ClassificationRequest, calls.examples, *_of_examples())
    yield over_grpc(_PREDICTION, "Regress", tf.RegressionRequest, calls.examples, *_of_examples())
    tasks = {"of.tasks": 64, "of.distinct": 1, "of.method": 1}
    yield over_grpc(_PREDICTION, "MultiInference", tf.MultiInferenceRequest, calls.multi, *_of_examples(**tasks))
    yield over_grpc(_PREDICTION, "GetModelMetadata", tf.GetModelMetadataRequest, calls.metadata)
    yield over_grpc(_MODEL, "GetModelStatus", tf.GetModelStatusRequest, calls.status)
    for method in ("Predictions", "StreamPredictions", "StreamPredictions2"):
        yield over_grpc(_TORCH, method, torch.PredictionsRequest, calls.predictions, {"of.parts": 1}, {"of.parts": 256})
    for method in ("Check", "Watch"):
        if method == "Check":  # Watch does not end
            yield over_grpc("grpc.health.v1.Health", method, health_pb2.HealthCheckRequest, calls.nothing)
    for version in ("v1", "v1alpha"):
        service = f"grpc.reflection.{version}.ServerReflection"
        yield over_grpc(service, "ServerReflectionInfo", reflection_pb2.ServerReflectionRequest, calls.asked)


def _over_rest() -> Iterator[Target]:
    infer, predictions = f"/v2/models/{MODEL}/infer", f"/predictions/{MODEL}"
    one = {"of.tensors": 1, "of.outputs": 0, "of.off": 0}
    of_json = [
        seed for kind in (9, 8, 0, 13) for seed in _elements("of.data", **one, **{"of.datatype": kind, "of.shape": 0})
    ]
    rows = list(_elements("of.value.values", **{"of.envelope": 0, "of.value.kind": 0}))
    for label, room in ("", bodies.INLINE), (", large", MOST):
        yield over_rest(f"v2 JSON{label}", infer, documents.infer, *of_json, room=room)
        yield over_rest(f"predict{label}", f"/v1/models/{MODEL}:predict", documents.predict, *_ROWS, room=room)
        small = room if room == MOST else room >> 3
        yield over_rest(f"classify{label}", f"/v1/models/{MODEL}:classify", documents.examples, room=small)
        yield over_rest(f"regress{label}", f"/v1/models/{MODEL}:regress", documents.examples, room=small)
        yield over_rest(f"TorchServe JSON{label}", predictions, bodies.document, *rows, content_type=_JSON, room=room)
        yield over_rest(
            f"TorchServe multipart{label}", predictions, bodies.multipart, content_type=_MULTIPART, room=room
        )
        yield over_rest(f"TorchServe form{label}", predictions, bodies.form, _ESCAPES, content_type=_FORM, room=room)
        yield over_rest(f"TorchServe, no type{label}", predictions, bodies.part, room=room)
        yield over_rest(f"TorchServe text{label}", predictions, bodies.part, content_type="text/plain", room=room)
    yield over_rest("v2 binary", infer, bodies.binary, _LARGE_STRINGS)
    yield over_rest("v2 raw", infer, raw)
    yield over_rest("TorchServe binary", predictions, bodies.binary, _LARGE_STRINGS)
    yield over_rest("TorchServe raw", predictions, bodies.plain, content_type="application/octet-stream")
    files = [
        {"of.dtype": dtype, "of.count": _GREAT, "of.odd": 0, "of.shape": 0, "signature": _indexed(name)}
        for dtype in (2, 0, 1, 3, 4, 5, 6, 7)
        for name in ("FP64", "FP32", "INT64", "BOOL")
    ]
    yield over_rest("TorchServe npy", predictions, bodies.npy, *files, content_type="application/x-npy")
    yield over_rest("repository index", "/v2/repository/index", documents.any_body, room=64 << 10)


_MULTIPART = f"multipart/form-data; boundary={bodies.BOUNDARY}"
_FORM = "application/x-www-form-urlencoded"
TARGETS: dict[str, Target] = {target.name: target for target in (*_over_grpc(), *_over_rest())}

"""The descriptors of the services under the names that they have on the wire, in a pool of their own.

Our messages are compiled under packages of our own, so that other packages' stubs live beside them in one process
(`gateway/protos`). Who asks a server for its descriptors wants the names that clients know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType

from google.protobuf import any_pb2, empty_pb2, wrappers_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.protos import health_pb2, tfserving_pb2, torchserve_pb2, v2_pb2


@dataclass(frozen=True, slots=True)
class Method:
    """``request`` and ``response`` are messages of the service's own package, or full names that begin with a dot."""

    request: str
    response: str
    streams_requests: bool = False
    streams_answers: bool = False


def _of(*names: str) -> dict[str, Method]:
    return {name: Method(f"{name}Request", f"{name}Response") for name in names}


_TORCHSERVE, _SERVING = "org.pytorch.serve.grpc.inference", "tensorflow.serving"
_PREDICTION = ("PredictionsRequest", "PredictionResponse")

SERVICES: Mapping[str, Mapping[str, Method]] = {
    "inference.GRPCInferenceService": {
        **_of("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"),
        **_of("ModelConfig", "ModelStatistics", "RepositoryIndex"),
        "ModelStreamInfer": Method("ModelInferRequest", "ModelStreamInferResponse", True, True),
    },
    f"{_SERVING}.PredictionService": {
        **_of("Predict", "MultiInference", "GetModelMetadata"),
        "Classify": Method("ClassificationRequest", "ClassificationResponse"),
        "Regress": Method("RegressionRequest", "RegressionResponse"),
    },
    f"{_SERVING}.ModelService": _of("GetModelStatus"),
    f"{_TORCHSERVE}.InferenceAPIsService": {
        "Ping": Method(".google.protobuf.Empty", "TorchServeHealthResponse"),
        "Predictions": Method(*_PREDICTION),
        "StreamPredictions": Method(*_PREDICTION, streams_answers=True),
        "StreamPredictions2": Method(*_PREDICTION, streams_requests=True, streams_answers=True),
    },
    "grpc.health.v1.Health": {
        "Check": Method("HealthCheckRequest", "HealthCheckResponse"),
        "Watch": Method("HealthCheckRequest", "HealthCheckResponse", streams_answers=True),
    },
}

_TENSORFLOW = """
DataType TensorShapeProto TensorProto ResourceHandleProto VariantTensorDataProto TensorInfo SignatureDef TypeSpecProto
StructuredValue NoneValue ListValue TupleValue DictValue PairValue NamedTupleValue TensorSpecProto
BoundedTensorSpecProto Example Features Feature BytesList FloatList Int64List
"""
#: Messages of each module -> their package on the wire; what is not named has the package that comes first.
_PACKAGES: Mapping[ModuleType, tuple[str, Mapping[str, str]]] = {
    v2_pb2: ("inference", {}),
    health_pb2: ("grpc.health.v1", {}),
    torchserve_pb2: (_TORCHSERVE, {"Empty": "google.protobuf", "Status": "google.rpc"}),
    tfserving_pb2: (
        _SERVING,
        {
            **dict.fromkeys(_TENSORFLOW.split(), "tensorflow"),
            **dict.fromkeys(("Int64Value", "Any"), "google.protobuf"),
        },
    ),
}
#: Messages of protobuf itself come from its own files, which clients have too.
_WELL_KNOWN = {"Any": any_pb2, "Empty": empty_pb2, "Int64Value": wrappers_pb2}


def pool(more: Iterable[FileDescriptorProto] = ()) -> DescriptorPool:
    """All of `SERVICES` with their messages, and the files ``more``."""
    found = DescriptorPool()
    for module in _WELL_KNOWN.values():
        found.Add(_proto(module.DESCRIPTOR))
    for file in (*_files(), *more):
        found.Add(file)
    return found


def renamed(file: FileDescriptor, package: str, name: str) -> FileDescriptorProto:
    """The file under another package and file name."""
    proto = _proto(file)
    for message in proto.message_type:
        _rename(message, {f".{file.package}.{m.name}": f".{package}.{m.name}" for m in proto.message_type})
    for service in proto.service:
        for method in service.method:
            method.input_type = f".{package}.{method.input_type.rpartition('.')[2]}"
            method.output_type = f".{package}.{method.output_type.rpartition('.')[2]}"
    proto.package, proto.name = package, name
    return proto


def _files() -> list[FileDescriptorProto]:
    """One for each package, those first that others need."""
    files: dict[str, FileDescriptorProto] = {}
    for module, (own, others) in _PACKAGES.items():
        proto = _proto(module.DESCRIPTOR)
        kinds = (proto.message_type, proto.enum_type)
        packages = {item.name: others.get(item.name, own) for kind in kinds for item in kind}
        names = {f".{proto.package}.{name}": f".{package}.{name}" for name, package in packages.items()}
        for package in sorted({*packages.values()} - {"google.protobuf"}, key=lambda package: package == own):
            file = files[package] = FileDescriptorProto(name=_path(package), package=package, syntax="proto3")
            file.enum_type.extend(item for item in proto.enum_type if packages[item.name] == package)
            for message in proto.message_type:
                if packages[message.name] == package:
                    _rename(message, names)
                    file.message_type.append(message)
            if package == own:
                file.dependency.extend(_path(other) for other in sorted({*others.values()} - {"google.protobuf"}))
                well_known = {
                    _WELL_KNOWN[name].DESCRIPTOR.name for name, of in others.items() if of == "google.protobuf"
                }
                file.dependency.extend(sorted(well_known))
    for service, methods in SERVICES.items():
        _declare(service, methods, files[service.rpartition(".")[0]])
    return list(files.values())


def _declare(service: str, methods: Mapping[str, Method], file: FileDescriptorProto) -> None:
    package, _, name = service.rpartition(".")
    declared = file.service.add(name=name)
    for method, of in methods.items():
        declared.method.add(
            name=method,
            input_type=of.request if of.request.startswith(".") else f".{package}.{of.request}",
            output_type=of.response if of.response.startswith(".") else f".{package}.{of.response}",
            client_streaming=of.streams_requests,
            server_streaming=of.streams_answers,
        )


def _rename(message: DescriptorProto, names: Mapping[str, str]) -> None:
    """The types of all fields, those of nested messages too. ``names`` are of messages that are not nested."""
    for field in message.field:
        for ours, theirs in names.items():
            if field.type_name == ours or field.type_name.startswith(f"{ours}."):
                field.type_name = theirs + field.type_name.removeprefix(ours)
                break
    for nested in message.nested_type:
        _rename(nested, names)


def _proto(file: FileDescriptor) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


def _path(package: str) -> str:
    return f"{package.replace('.', '/')}.proto"

"""Messages that TensorFlow Serving's Python package does not carry.

Fields and numbers: config/ssl_config.proto, config/monitoring_config.proto,
servables/tensorflow/session_bundle_config.proto; tsl/profiler/protobuf/{profiler_service,profiler_options,
xplane}.proto.
"""

from __future__ import annotations

from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from google.protobuf.message import Message

_PACKAGE = "tensorflow.serving"
_BOOL, _STRING, _MESSAGE, _BYTES, _UINT32, _UINT64 = 8, 9, 11, 12, 13, 4
_INT64 = ".google.protobuf.Int64Value"
_OPTIONAL, _REPEATED = 1, 3
#: name -> (number, type or message type, repeated)
_MESSAGES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "SSLConfig": {
        "server_key": (1, _STRING, False),
        "server_cert": (2, _STRING, False),
        "custom_ca": (3, _STRING, False),
        "client_verify": (4, _BOOL, False),
    },
    "PrometheusConfig": {"enable": (1, _BOOL, False), "path": (2, _STRING, False)},
    "MonitoringConfig": {"prometheus_config": (1, f".{_PACKAGE}.PrometheusConfig", False)},
    "BatchingParameters": {
        "max_batch_size": (1, _INT64, False),
        "batch_timeout_micros": (2, _INT64, False),
        "max_enqueued_batches": (3, _INT64, False),
        "num_batch_threads": (4, _INT64, False),
        "thread_pool_name": (5, ".google.protobuf.StringValue", False),
        "allowed_batch_sizes": (6, 3, True),
        "pad_variable_length_inputs": (7, _BOOL, False),
        "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue", False),
        "max_execution_batch_size": (9, _INT64, False),
    },
    # Of package tensorflow there; on the wire a package's name is not seen.
    "ProfileOptions": {
        "host_tracer_level": (2, _UINT32, False),
        "device_tracer_level": (3, _UINT32, False),
        "python_tracer_level": (4, _UINT32, False),
        "duration_ms": (9, _UINT64, False),
    },
    "ProfileRequest": {
        "opts": (4, f".{_PACKAGE}.ProfileOptions", False),
        "repository_root": (5, _STRING, False),
        "session_id": (6, _STRING, False),
        "host_name": (7, _STRING, False),
    },
    "ProfileResponse": {"empty_trace": (7, _BOOL, False)},
    # Events are not looked into, only counted.
    "XSpace": {"planes": (1, f".{_PACKAGE}.XPlane", True)},
    "XPlane": {"lines": (3, f".{_PACKAGE}.XLine", True)},
    "XLine": {"events": (4, _BYTES, True)},
    "TerminateRequest": {"session_id": (1, _STRING, False)},
    "TerminateResponse": {},
}


def message(name: str) -> Message:
    """
    >>> message("PrometheusConfig").DESCRIPTOR.full_name
    'tensorflow.serving.PrometheusConfig'
    """
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))()


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """Of its own, so that it cannot collide with a package that does carry them."""
    file = descriptor_pb2.FileDescriptorProto(name="embedded_config.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in _MESSAGES.items():
        entry = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = _REPEATED if repeated else _OPTIONAL
            made = entry.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                made.type, made.type_name = _MESSAGE, kind
            else:
                made.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool

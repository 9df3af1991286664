"""What TensorFlow Serving's batching parameters allow: how many rows one call may have."""

from __future__ import annotations

from google.protobuf import text_format

from gateway.errors import InvalidArgument
from gateway.protos import batching_parameters_pb2 as pb

#: What the server takes where the file gives no max_batch_size (tensorflow/core/kernels/batching_util/
#: shared_batch_scheduler.h, QueueOptions::input_batch_size_limit).
_DEFAULT_MAX_BATCH_SIZE = 1000


def max_batch_size(text: str) -> int:
    """The rows that the server takes in one call.

    A call of more is refused, unless the file enables large batch splitting. The other parameters (timeouts, threads,
    sizes that batches are padded to) change how the server works and not what may be sent to it.

    >>> max_batch_size("max_batch_size { value: 32 } batch_timeout_micros { value: 500 }")
    32
    >>> max_batch_size("")
    1000

    Raises InvalidArgument for what is no text-format BatchingParameters.
    """
    try:
        message = text_format.Parse(text, pb.BatchingParameters(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise InvalidArgument(f"it is no text-format BatchingParameters: {error}") from error
    if not message.HasField("max_batch_size"):
        return _DEFAULT_MAX_BATCH_SIZE
    size = message.max_batch_size.value
    if size < 1:
        raise InvalidArgument(f"max_batch_size is {size}; it must be at least 1")
    return size

"""The models in TensorFlow Serving's configuration file, and the labels of their versions."""

from __future__ import annotations

from google.protobuf import text_format

from gateway.errors import InvalidArgument
from gateway.protos import model_config_pb2 as pb


def labels(text: str) -> dict[str, tuple[str, ...]]:
    """The labels of each model, which has none mostly.

    >>> labels('model_config_list { config { name: "m" base_path: "/m" model_version_policy { all {} } } }')
    {'m': ()}

    Raises InvalidArgument for what is no text-format ModelServerConfig.
    """
    try:
        message = text_format.Parse(text, pb.ModelServerConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise InvalidArgument(f"no ModelServerConfig: {error}") from error
    return {entry.name: tuple(sorted(entry.version_labels)) for entry in message.model_config_list.config}

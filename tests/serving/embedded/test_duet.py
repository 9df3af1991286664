"""What Duet knows of a model: the server reports it, and obeys what it says of rows."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

from serving.embedded.flags import Flags
from serving.embedded.loading import Loader
from serving.embedded.metrics import Metrics
from tests.serving.embedded import savedmodels
from tests.serving.embedded.conftest import DUET
from tests.serving.embedded.process import Server

pytestmark = pytest.mark.usefixtures("embedded_only")
DEPENDENT = '{"rows": "dependent"}'


def metadata(
    server: Server, model: str, *fields: str, version: int | None = None
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    asked.model_spec.name = model
    if version is not None:
        asked.model_spec.version.value = version
    return server.prediction.GetModelMetadata(asked, timeout=20)


def duet(answer: get_model_metadata_pb2.GetModelMetadataResponse) -> bytes:
    value = wrappers_pb2.BytesValue()
    assert answer.metadata["duet"].Unpack(value)
    return value.value


def test_it_is_reported_as_it_lies_in_the_artifact(server: Server) -> None:
    """Alone or beside the signatures, of the version that was asked for; nothing is known of version 1 and `sums`."""
    answer = metadata(server, "half", "duet")
    assert list(answer.metadata) == ["duet"]
    assert duet(answer) == DUET
    both = metadata(server, "half", "signature_def", "duet")
    assert sorted(both.metadata) == ["duet", "signature_def"]
    assert duet(both) == DUET
    assert duet(metadata(server, "half", "duet", version=1)) == b""
    assert duet(metadata(server, "sums", "duet")) == b""


@pytest.mark.parametrize("field", ["Duet", "duet ", "", "rows", "signature_defs"])
def test_every_other_field_is_refused_as_the_real_server_does(server: Server, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        metadata(server, "half", "duet", field)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"Metadata field {field} is not supported"


def centred() -> Mapping[str, savedmodels.Signature]:
    """Each row less the mean of all: of a row by itself that is 0."""
    x = tf.compat.v1.placeholder(tf.float32, [None, 1], name="x")
    return {"serving_default": ({"x": x}, {"y": x - tf.reduce_mean(x, 0)}, savedmodels.PREDICT)}


@pytest.mark.parametrize(
    ("told", "joined", "per_model"),
    [
        (DEPENDENT, False, False),
        (DEPENDENT, False, True),
        ('{"rows": "unknown"}', True, True),
        ('{"rows": ["dependent"]}', True, False),
        ("[" * 50_000, True, False),
        ("dependent", True, False),
        (None, True, True),
    ],
    ids=["dependent", "dependent, own parameters", "unknown", "a list", "too deep", "no JSON", "no file"],
)
def test_enable_batching_does_not_join_rows_that_depend_on_each_other(
    tmp_path: Path, told: str | None, joined: bool, per_model: bool
) -> None:
    """Nor pad them, which `allowed_batch_sizes` asks for. The kind: any way in which the server adds rows to a call's.

    Where nothing is known the operator's flags decide, as in the real server.
    """
    parameters = (
        "max_batch_size { value: 4 } batch_timeout_micros { value: 100000 } num_batch_threads { value: 2 } "
        "allowed_batch_sizes: 4"
    )
    version = savedmodels.save(tmp_path / "centred" / "1", centred)
    (tmp_path / "shared.pbtxt").write_text(parameters)
    (version / "batching_params.pbtxt").write_text(parameters)
    if told is not None:
        (version / "assets.extra").mkdir()
        (version / "assets.extra" / "duet.json").write_text(told)
    flags = Flags(
        enable_batching=True,
        batching_parameters_file=str(tmp_path / "shared.pbtxt"),
        enable_per_model_batching_parameters=per_model,
    )
    servable = Loader(flags, Metrics())("centred", 1, version)
    names = (
        [servable.signatures["serving_default"].inputs["x"].name],
        [servable.signatures["serving_default"].outputs["y"].name],
    )

    def ask(*values: float) -> list[float]:
        rows = np.array([[value] for value in values], np.float32)
        return servable.run(names[0], [rows], names[1])[0].ravel().tolist()

    try:
        with ThreadPoolExecutor(2) as pool:
            met = [pool.submit(ask, value) for value in (0.0, 100.0)]
            answers = [one.result(20)[0] for one in met]
        lone = ask(0, 3)
    finally:
        servable.retire()
    assert (answers != [0, 0]) is joined
    assert (lone != [-1.5, 1.5]) is joined, "two rows, padded to four with the first"

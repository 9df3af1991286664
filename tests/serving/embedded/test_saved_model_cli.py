"""What `saved_model_cli show --all` tells of a model, the server's metadata tell too, in REST and gRPC."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from tensorflow.core.framework import types_pb2
from tensorflow.python.tools import saved_model_cli
from tensorflow_serving.apis import get_model_metadata_pb2

from models.catalog import CATALOG
from models.weights import draw_all
from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server, config_text

MODULE = "tensorflow.python.tools.saved_model_cli"
#: Graphs of the older kind, with classify and regress signatures, several inputs, strings, every type.
MADE = {
    "half": savedmodels.half_plus(2),
    "sums": savedmodels.sums,
    "text": savedmodels.text,
    "types": savedmodels.types,
}


def save_documented(folder: Path) -> None:
    """As they are exported after training, of which a signature knows nothing."""
    from models.frameworks import tensorflow

    for name, model in CATALOG.items():
        tensorflow.twin(model, draw_all(model.weights, seed=1)).save(folder / name / "1")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    save_documented(folder)
    for name, build in MADE.items():
        savedmodels.save(folder / name / "1", build)
    return folder


@pytest.fixture(scope="module")
def shown(saved: Path, tmp_path_factory: pytest.TempPathFactory, command: str) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("shown-server")
    (folder / "models.config").write_text(config_text({name: saved / name for name in (*MADE, *CATALOG)}))
    running = Server(folder, [f"--model_config_file={folder / 'models.config'}"], command=command)
    yield running.ready(120)
    running.close()


def told_by_grpc(server: Server, name: str) -> Mapping[str, Any]:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = name
    signatures = get_model_metadata_pb2.SignatureDefMap()
    server.prediction.GetModelMetadata(request, 20).metadata["signature_def"].Unpack(signatures)
    return signatures.signature_def


def told_by_rest(server: Server, name: str) -> Mapping[str, Any]:
    answer = httpx.get(f"http://127.0.0.1:{server.rest_port}/v1/models/{name}/metadata", timeout=20)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    json_format.ParseDict(answer.json()["metadata"]["signature_def"], signatures)
    return signatures.signature_def


def as_shown(signatures: Mapping[str, Any]) -> list[str]:
    """The lines of `saved_model_cli show --all` for these signatures."""
    lines = ["MetaGraphDef with tag-set: 'serve' contains the following SignatureDefs:"]
    for key, signature in sorted(signatures.items()):
        lines.append(f"signature_def['{key}']:")
        for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
            lines.append(f"The given SavedModel SignatureDef contains the following {kind}(s):")
            for name, tensor in sorted(tensors.items()):
                sizes = ", ".join(str(dim.size) for dim in tensor.tensor_shape.dim)
                lines += [
                    f"{kind}s['{name}'] tensor_info:",
                    f"dtype: {types_pb2.DataType.Name(tensor.dtype)}",
                    "shape: " + ("unknown_rank" if tensor.tensor_shape.unknown_rank else f"({sizes})"),
                    f"name: {tensor.name}",
                ]
        lines.append(f"Method name is: {signature.method_name}".strip())
    return lines


def signatures_of(printed: str) -> list[str]:
    """The command's lines up to the list of operations, without their indentation."""
    signatures, _, _ = printed.partition("The MetaGraph with tag set")
    lines = [line.strip() for line in signatures.splitlines()]
    return lines[next(at for at, line in enumerate(lines) if line.startswith("MetaGraphDef")) :]


@pytest.mark.parametrize("name", [*MADE, *CATALOG])
def test_the_metadata_are_what_saved_model_cli_shows(saved: Path, shown: Server, name: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        saved_model_cli._show_all(str(saved / name / "1"))
    expected = [line for line in signatures_of(printed.getvalue()) if line]
    assert as_shown(told_by_grpc(shown, name)) == expected
    assert as_shown(told_by_rest(shown, name)) == expected


def test_the_command_itself_shows_the_same(saved: Path, shown: Server) -> None:
    """As a user calls it, of a model with predict, classify and regress signatures."""
    command = [sys.executable, "-m", MODULE, "show", "--dir", str(saved / "half" / "1"), "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    expected = [line for line in signatures_of(done.stdout) if line]
    methods = {line.rpartition("/")[2] for line in expected if line.startswith("Method name is: ")}
    assert methods == {"predict", "classify", "regress"}
    assert as_shown(told_by_grpc(shown, "half")) == expected

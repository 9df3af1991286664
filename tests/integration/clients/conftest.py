from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def torchserve_stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated as the documentation says, from the protos in the installed TorchServe."""
    folder = tmp_path_factory.mktemp("stubs")
    package = importlib.util.find_spec("ts")
    assert package is not None
    assert package.origin is not None
    with zipfile.ZipFile(Path(package.origin).parent / "frontend" / "model-server.jar") as jar:
        for name in ("proto/inference.proto", "google/rpc/status.proto"):
            jar.extract(name, folder)
    arguments = [f"--proto_path={folder}/proto", f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments, "inference.proto", "google/rpc/status.proto"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return folder

"""TensorFlow's server on this machine: the real `tensorflow_model_server` where there is one, else serving/embedded.

Both take the same flags and the same configuration file. The real one listens on all addresses of the machine and has
no flag to change that; where others can reach the machine, close its port with a firewall. The embedded one listens
on 127.0.0.1.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.children import Launch
from serving.failures import Failure


class NoServer(Failure):
    """The binary that was asked for cannot be run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFlowServing:
    """One TensorFlow server for `models`, each in `<model_store>/<name>/<version>/`; `folder` is for what it writes."""

    port: int
    model_store: Path
    models: Sequence[str]
    folder: Path
    binary: Path | None = None
    threads: int = 1

    @property
    def config_file(self) -> Path:
        return self.folder / "models.config"

    def launch(self, log: Path) -> Launch:
        """Write the configuration and say how to start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(render_models_config(self.model_store, self.models))
        program = [str(self.binary)] if self.binary else [sys.executable, "-m", "serving.embedded"]
        flags = [
            f"--port={self.port}",
            f"--model_config_file={self.config_file}",
            "--file_system_poll_wait_seconds=1",
            f"--tensorflow_intra_op_parallelism={self.threads}",
            f"--tensorflow_inter_op_parallelism={self.threads}",
            # Otherwise answers come as lists of numbers, which cost far more than bytes on both sides.
            "--enable_serialization_as_tensor_content=true",
            "--enable_profiler=false",  # on by default, and open to every caller of the port
            *self._lite(),
        ]
        return Launch(
            name="tensorflow",
            command=(*program, *flags),
            folder=self.folder,
            log=log,
            grace_seconds=1 if self.binary else 10,  # the real server does not react to SIGTERM
        )

    def _lite(self) -> list[str]:
        """Only where a model is TF Lite: the flag holds for every model, and only a `model.tflite` answers to it."""
        found = any(any((self.model_store / name).glob("*/model.tflite")) for name in self.models)
        return ["--prefer_tflite_model=true"] if found else []


def find_binary(asked: str | None) -> Path | None:
    """The real server: the one asked for, else the one on PATH, else None. Raises NoServer."""
    found = shutil.which(asked or "tensorflow_model_server")
    if asked and not found:
        raise NoServer(f"--tf-serving-binary {asked}: there is no such program that can be run")
    return Path(found).absolute() if found else None


def render_models_config(model_store: Path, names: Sequence[str]) -> str:
    """TF Serving's ModelServerConfig as protobuf text; every version that lies there is served."""
    entries = "".join(
        f"  config {{\n"
        f"    name: {quote(name)}\n"
        f"    base_path: {quote(str(model_store / name))}\n"
        f'    model_platform: "tensorflow"\n'
        f"    model_version_policy {{ all {{}} }}\n"
        f"  }}\n"
        for name in names
    )
    return f"model_config_list {{\n{entries}}}\n"


def quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

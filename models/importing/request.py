"""What the user says about a model that is to be imported."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from models.spec import Rows, TensorSpec

WHOLE = [f"{sign}INT{bits}" for sign in ("U", "") for bits in (8, 16, 32, 64)]
DATATYPES = ["BOOL", *WHOLE, "FP16", "BF16", "FP32", "FP64", "BYTES"]
"""The Open Inference Protocol's."""
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
TENSOR_NAME = re.compile(r"[^\s:]{1,128}")
SHAPE = re.compile(r"(-1|\d+)(,(-1|\d+))*")


class ImportRefusedError(ValueError):
    """The model cannot be served as it is; the text says why, and which flag or change would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`source` is a path, or `package.module:name` of an nn.Module or of what makes one.

    `rows` is what the user knows of them, in place of an analysis.
    """

    source: str
    name: str | None = None
    version: int | None = None
    description: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    signature: str | None = None
    example: Path | None = None
    weights: Path | None = None
    force: bool = False
    rows: Rows | None = None

    @property
    def path(self) -> Path:
        return Path(self.source)


def tensor_spec(text: str) -> TensorSpec:
    """A `NAME:DATATYPE:SHAPE` flag. Raises argparse.ArgumentTypeError.

    >>> tensor_spec("image:FP32:-1,3,224,224")
    TensorSpec(name='image', datatype='FP32', shape=(-1, 3, 224, 224))
    """
    name, datatype, shape = (*text.rsplit(":", 2), "", "")[:3]
    if not TENSOR_NAME.fullmatch(name) or not (shape == "" or SHAPE.fullmatch(shape)) or text.count(":") != 2:
        raise argparse.ArgumentTypeError(f"must be NAME:DATATYPE:SHAPE as in image:FP32:-1,3,224,224, not {text!r}")
    if datatype not in DATATYPES:
        raise argparse.ArgumentTypeError(f"no datatype {datatype!r}; there are {', '.join(DATATYPES)}")
    return TensorSpec(name, datatype, tuple(map(int, shape.split(","))) if shape else ())


def tensor_name(text: str) -> str:
    if not TENSOR_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be a name without spaces and colons, not {text!r}")
    return text


def model_name(text: str) -> str:
    if not MODEL_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be of letters, digits, '_', '-' and '.', not {text!r}")
    return text


def name_and_version(request: Request) -> tuple[str, int]:
    """As asked; else from the path: `resnet/3` is version 3 of resnet, `my net.pt` version 1 of my_net.

    >>> name_and_version(Request(source="exported/resnet/3"))
    ('resnet', 3)
    """
    attribute = request.source.rpartition(":")[2] if is_import_path(request.source) else ""
    path = Path(attribute) if attribute else request.path.absolute()
    is_version = path.name.isdecimal() and int(path.name) > 0
    stem = path.parent.name if is_version else path.name if path.is_dir() else path.stem
    version = int(path.name) if is_version else 1
    name = request.name or re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("_.-")
    if not MODEL_NAME.fullmatch(name):
        raise ImportRefusedError(f"{request.source} gives no usable name; give one with --name NAME")
    return name, request.version or version


def is_import_path(source: str) -> bool:
    """
    >>> is_import_path("shop.nets:ranker"), is_import_path("nets/ranker.pt")
    (True, False)
    """
    module, colon, attribute = source.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts) and not Path(source).exists()

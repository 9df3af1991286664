"""Sizes of a TorchScript graph's results that are those of its weights, whatever it is asked."""

from __future__ import annotations

from typing import Any

from models.importing.forward import Path
from models.importing.state import frozen

#: Their result has the shape of their first input.
KEEP_SHAPE = frozenset(
    f"aten::{name}{suffix}"
    for suffix in ("", "_")
    for name in (
        *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardtanh", "hardswish"),
        *("hardsigmoid", "sigmoid", "logsigmoid", "log_sigmoid", "tanh", "softplus", "softsign", "exp", "log"),
        *("softmax", "log_softmax", "dropout", "feature_dropout", "alpha_dropout", "neg", "abs", "sqrt", "square"),
        *("layer_norm", "batch_norm", "instance_norm", "group_norm", "contiguous", "detach", "round", "floor", "ceil"),
    )
)
CONVOLUTIONS = {"aten::conv1d": 1, "aten::conv2d": 2, "aten::conv3d": 3}


def fixed_axes(module: Any) -> dict[Path, int]:
    """For each tensor in the result, by its path: the axis, counted from the end, that has a weight's size."""
    return dict(of_result(next(frozen(module).outputs()), ()))


def of_result(value: Any, path: Path) -> list[tuple[Path, int]]:
    node = value.node()
    if node.kind() in ("prim::TupleConstruct", "prim::ListConstruct"):
        return [pair for place, one in enumerate(node.inputs()) for pair in of_result(one, (*path, place))]
    if node.kind() == "prim::DictConstruct":
        both = list(node.inputs())
        keys = [key.toIValue() for key in both[::2]]
        return [pair for key, one in zip(keys, both[1::2], strict=True) for pair in of_result(one, (*path, key))]
    axis = of_weight(value)
    return [] if axis is None else [(path, axis)]


def of_weight(value: Any) -> int | None:
    node = value.node()
    inputs = list(node.inputs())
    if node.kind() in KEEP_SHAPE:
        return of_weight(inputs[0])
    if node.kind() == "aten::linear" and is_matrix(inputs[1]):
        return -1
    if node.kind() == "aten::addmm" and is_matrix(inputs[2]):
        return -1
    if node.kind() == "aten::embedding" and is_matrix(inputs[0]):
        return -1
    if node.kind() in CONVOLUTIONS and inputs[1].node().kind() == "prim::Constant":
        return -1 - CONVOLUTIONS[node.kind()]
    if node.kind() == "prim::If":
        place = list(node.outputs()).index(value)
        found = {of_weight(list(block.outputs())[place]) for block in node.blocks()}
        return found.pop() if len(found) == 1 and not any(ends(block) for block in node.blocks()) else None
    return None


def is_matrix(value: Any) -> bool:
    """A constant whose size is known: after freezing, a weight that nobody writes."""
    sizes = value.type().sizes() if value.type().kind() == "TensorType" else None
    return value.node().kind() == "prim::Constant" and sizes is not None and len(sizes) == 2


def ends(block: Any) -> bool:
    return any(node.kind() == "prim::RaiseException" for node in block.nodes())

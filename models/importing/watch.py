"""Whether a PyTorch model reads values of its inputs to find sizes, or to choose its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.importing.state import frozen

#: Operations of other libraries may do anything.
KNOWN_LIBRARIES = ("aten", "prims", "quantized", "mkldnn", "mkldnn_prepacked", "prepacked")
#: Their results' sizes follow from values, and PyTorch does not mark them so.
SIZED_BY_VALUES = frozenset(
    f"aten::{name}"
    for name in (
        *("_pack_padded_sequence", "_pad_packed_sequence", "segment_reduce", "linalg_lstsq", "set_"),
        *("_nested_tensor_from_mask", "_nested_from_padded", "to_padded_tensor", "nested_to_padded_tensor"),
    )
)
#: As they are called in a graph: these read values by themselves, or go on in other threads.
UNSEEN = ("prim::tolist", "prim::fork", "aten::tensor_split.tensor_indices_or_sections")
CHOOSE = tuple(
    f"aten::{name}"
    for name in (
        *("nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount", "_unique", "_unique2", "unique_dim"),
        *("unique_consecutive", "unique_dim_consecutive"),
    )
)
READS = torch.Tag.data_dependent_output
SIZES = torch.Tag.dynamic_output_shape
MARK = "_duet_follows"
BY_VALUE, BY_SIZE = "values", "sizes"


class Watch(TorchDispatchMode):
    """Follows what is computed from the inputs' values, operation by operation, in the thread that enters it.

    A size of a tensor that `sized` knows nothing of, while `branched` is False, is the same for any values of the
    inputs that have these sizes. `branched`: a number was read out of such a tensor, on which loops, branches and sizes
    can depend.
    """

    def __init__(self, inputs: Iterable[Any]) -> None:
        super().__init__()
        self.branched = False
        self._written: dict[int, tuple[Any, str]] = {}  # storages into which something of the inputs was written
        for one in tree_leaves(list(inputs)):
            if is_tensor(one):
                mark(one, BY_VALUE)

    def sized(self, tensor: Any) -> bool:
        """Whether this result, or what it was made of, has a size that was found from values."""
        return self.branched or self._mark(tensor) == BY_SIZE

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [one for one in tree_leaves((args, kwargs or {})) if is_tensor(one)]
        marks = {self._mark(one) for one in given} - {""}
        if marks:
            self._note(func, given, result, marks)
        return result

    def _note(self, func: Any, given: Sequence[torch.Tensor], result: Any, marks: set[str]) -> None:
        name = func.name().partition(".")[0]
        self.branched = self.branched or (READS in func.tags and SIZES not in func.tags)
        is_known = func.namespace in KNOWN_LIBRARIES and name not in SIZED_BY_VALUES
        by_size = BY_SIZE in marks or not is_known or (SIZES in func.tags and not is_gather(name, given))
        word = BY_SIZE if by_size else BY_VALUE
        for one in tree_leaves(result):
            if is_tensor(one):
                mark(one, word)
        for one in changed(func, given):
            self._written[storage(one)] = (one, word)

    def _mark(self, tensor: torch.Tensor) -> str:
        own = getattr(tensor, MARK, "")
        written = self._written.get(storage(tensor), (None, ""))[1]
        return BY_SIZE if BY_SIZE in (own, written) else own or written


def mark(tensor: torch.Tensor, word: str) -> None:
    """The mark stays for as long as the tensor does, also while only TorchScript's interpreter holds it."""
    if getattr(tensor, MARK, "") != BY_SIZE:
        setattr(tensor, MARK, word)


def is_blind(module: Any) -> bool:
    """Whether the graph does what no watch sees: it reads a whole tensor at once, or goes on in other threads.

    Or it chooses by values in a branch, which the calls at hand may not come to.
    """
    graph = frozen(module)
    blocks = (block for node in graph.nodes() for block in node.blocks())
    return has_kind(graph, UNSEEN) or any(has_kind(block, CHOOSE) for block in blocks)


def has_kind(block: Any, kinds: Sequence[str]) -> bool:
    """By an operation's name, or by that of one of its overloads."""
    return any(
        node.kind() in kinds
        or node.schema().partition("(")[0] in kinds
        or any(has_kind(inner, kinds) for inner in node.blocks())
        for node in block.nodes()
    )


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def storage(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # sparse and other tensors without one
        return id(tensor)


def is_gather(name: str, given: Sequence[torch.Tensor]) -> bool:
    """`x[i]` with whole numbers gives as many elements as `i` has; with truth values, as many as are true."""
    return name == "aten::index" and not any(one.dtype in (torch.bool, torch.uint8) for one in given[1:])


def changed(func: Any, given: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The tensors that the operation writes to; of several, all that it was given."""
    if any(one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments):
        first = func._schema.arguments[0]
        is_first = first.alias_info is not None and first.alias_info.is_write and str(first.type) == "Tensor"
        yield from given[:1] if is_first else given

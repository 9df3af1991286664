"""All operations of PyTorch of which it is known when they keep rows apart, and how one is run on what is known."""

from __future__ import annotations

from collections.abc import Mapping

from models.importing.independence import (
    torch_joins,
    torch_layers,
    torch_lists,
    torch_pointwise,
    torch_scalars,
    torch_views,
)
from models.importing.independence.torch_call import Call, Operation
from models.importing.independence.torch_values import (
    DoubtError,
    Mixed,
    MixesError,
    Regions,
    Tensor,
    Tupled,
    Value,
    leaves,
)

TENSORS: dict[str, Operation] = {
    **torch_layers.TABLE,
    **torch_pointwise.TABLE,
    **torch_views.TABLE,
    **torch_joins.TABLE,
}
PYTHON: dict[str, Operation] = {**torch_scalars.TABLE, **torch_lists.TABLE}


def run(operation: str, arguments: Mapping[str, Value], regions: Regions, *, writes: bool, results: int) -> Value:
    """Raises DoubtError, with the operation in its text, where it is not known to keep rows apart.

    `writes` where the schema says that it changes an argument. A result in which rows meet is `Mixed`: the analysis
    goes on, since only what reaches an output matters.
    """
    try:
        return checked(Call(operation, arguments, regions), writes=writes, results=results)
    except DoubtError as error:
        raise DoubtError(f"{operation}: {error}") from error


def checked(call: Call, *, writes: bool, results: int) -> Value:
    if call.operation in PYTHON:
        return PYTHON[call.operation](call)
    if call.operation not in TENSORS:
        raise DoubtError("of this operation it is not known whether it keeps rows apart")
    mixed = [leaf for value in call.arguments.values() for leaf in leaves(value) if isinstance(leaf, Mixed)]
    if mixed and writes:
        raise DoubtError(f"it writes values in which rows may have met: {mixed[0].reason}")
    if mixed:
        return repeated(mixed[0], results)
    try:
        found = TENSORS[call.operation](call)
    except MixesError as error:
        reason = f"{call.operation}: {error}"
        if writes:
            raise DoubtError(str(error)) from error
        return repeated(Mixed(reason, error.certain and has_rows(call)), results)
    check_unread(call)
    if call.operation in torch_views.PERHAPS_COPIES:
        call.regions.shared.update(*(leaf.memory for leaf in leaves(found) if isinstance(leaf, Tensor)))
    return found


def repeated(mixed: Mixed, results: int) -> Value:
    return mixed if results == 1 else Tupled((mixed,) * results)


def has_rows(call: Call) -> bool:
    """Whether rows that can differ come in."""
    return any(
        isinstance(leaf, Tensor) and leaf.row_axis is not None and not leaf.uniform
        for value in call.arguments.values()
        for leaf in leaves(value)
    )


def check_unread(call: Call) -> None:
    """What the table does not look at must not depend on rows."""
    for name, value in call.arguments.items():
        if name in call.read:
            continue
        for leaf in leaves(value):
            if torch_scalars.dependence(leaf) and not is_plain(leaf):
                raise DoubtError(f"what its {name} does is not known")


def is_plain(leaf: Value) -> bool:
    return isinstance(leaf, Tensor) and leaf.row_axis is None

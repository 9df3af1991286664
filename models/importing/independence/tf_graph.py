"""Whether a SavedModel answers each row of its batch by that row alone, concluded from its graph.

`independent` is a proof from the table of operations (tf_elementwise, tf_layout, tf_layers, tf_flow): each operation on
the way from an input to an output is in the table and fulfils the condition that stands there. What the table does not
know gives `unknown`. So do inputs and outputs that do not hold rows along their first axis, and kept state.

The gateway joins requests whose inner shapes are equal and whose inputs all have the same number of rows. A batch that
fails is asked again in halves, down to single requests: that one row makes a batch fail is therefore no dependence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from models.importing.independence.finding import Finding
from models.importing.independence.tf_facts import Fact, Mixed, Rows, Shared, UnsureError
from models.importing.independence.tf_facts import rows as rows_of
from models.importing.independence.tf_sizes import ONE, ROWS, Atom, Size
from models.importing.independence.tf_walk import RESOURCE, VARIANT, Evaluation, Frame, TooLargeError

SERVED_TAG = "serve"


def analyse(saved: Path, signature: str = "serving_default") -> Finding:
    """Never raises for what stands in the folder: what cannot be read is `unknown`."""
    try:
        graph = served_graph(saved)
        described = graph.signature_def.get(signature)
        if described is None:
            return Finding("unknown", f"the SavedModel has no signature {signature!r}")
        return _concluded(graph.graph_def, described)
    except (OSError, DecodeError) as error:
        return Finding("unknown", f"the SavedModel cannot be read: {error}")
    except UnsureError as error:
        return Finding("unknown", str(error))
    except (LookupError, TypeError, ValueError) as error:
        return Finding("unknown", f"the graph is not put together as TensorFlow does it: {error}")
    except (TooLargeError, RecursionError):
        return Finding("unknown", "the graph is too large to be looked through")


def served_graph(saved: Path) -> Any:
    """Raises OSError, DecodeError and UnsureError."""
    from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-untyped]

    proto = saved_model_pb2.SavedModel.FromString((saved / "saved_model.pb").read_bytes())
    for graph in proto.meta_graphs:
        if set(graph.meta_info_def.tags) == {SERVED_TAG}:
            return graph
    raise UnsureError(f"the SavedModel has no graph with the tag {SERVED_TAG!r} alone, which the server loads")


def _concluded(graph: Any, signature: Any) -> Finding:
    given = _inputs(signature)
    outputs = {name: _edge(name, info, "output") for name, info in sorted(signature.outputs.items())}
    if not outputs:
        raise UnsureError("the signature has no outputs")
    evaluation = Evaluation({function.signature.name: function for function in graph.library.function})
    frame = Frame(evaluation, graph.node, given, "")
    facts = dict(zip(outputs, frame.facts(outputs.values()), strict=True))
    frame.run(frame.reached(outputs.values()))
    for name, fact in facts.items():
        if isinstance(fact, Mixed) and fact.certain:
            return Finding("dependent", f"output {name}: {fact.reason}")
    if evaluation.problems:
        return Finding("unknown", evaluation.problems[0])
    for name, fact in facts.items():
        _check_output(name, fact)
    return Finding("independent", "every operation between the inputs and the outputs keeps the rows of a batch apart")


def _inputs(signature: Any) -> Mapping[str, Fact]:
    """Each input holds rows along its first axis. Raises UnsureError where one does not."""
    if not signature.inputs:
        raise UnsureError("the signature has no inputs, and so no rows")
    given: dict[str, Fact] = {}
    for place, (name, info) in enumerate(sorted(signature.inputs.items())):
        edge = _edge(name, info, "input")
        dims = [dim.size for dim in info.tensor_shape.dim]
        if info.tensor_shape.unknown_rank or not dims:
            raise UnsureError(f"input {name} has no first dimension that is known to hold the rows")
        if dims[0] != -1:
            raise UnsureError(f"input {name} has {dims[0]} entries whatever the batch: no row of it for each row")
        if name in signature.defaults:
            raise UnsureError(f"input {name} may be left out: its default has no row for each row of the batch")
        if edge in given:
            raise UnsureError(f"input {name} is the same tensor as another input")
        called = name if name.isidentifier() else f"input {place}"  # sizes are told apart by their names
        shape = [ROWS, *(_size(called, axis, size) for axis, size in enumerate(dims[1:], 1))]
        given[edge] = rows_of(shape, 0)
    return given


def _size(name: str, axis: int, size: int) -> Size:
    return Size.of(Atom(f"{name}.{axis}")) if size < 0 else Size.of(size)


def _edge(name: str, info: Any, what: str) -> str:
    if not info.name or info.WhichOneof("encoding") != "name":
        raise UnsureError(f"{what} {name} is a sparse or composite tensor")
    if info.dtype in (VARIANT, RESOURCE):
        raise UnsureError(f"{what} {name} is a handle")
    return str(info.name) if ":" in info.name else f"{info.name}:0"


def _check_output(name: str, fact: Fact) -> None:
    """Raises UnsureError unless the output holds one entry for each row along its first axis."""
    if isinstance(fact, Mixed):
        raise UnsureError(f"output {name}: {fact.reason}")
    if isinstance(fact, Shared):
        raise UnsureError(f"output {name} is the same for every batch, and has no rows")
    if not isinstance(fact, Rows):
        raise UnsureError(f"output {name} follows from the number of rows")
    if fact.axis or (fact.outer, fact.inner) != (ONE, ONE):
        shape = ", ".join(map(str, fact.shape))
        raise UnsureError(f"output {name} has the shape [{shape}]: not one entry for each row along its first axis")

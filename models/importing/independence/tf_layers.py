"""Operations of layers: products, convolutions, pooling, normalisation, reductions, lookups."""

from __future__ import annotations

from collections.abc import Sequence

from models.importing.independence.tf_elementwise import (
    Rule,
    broadcast,
    elements_of_own,
    needs_rows,
    needs_shape,
    needs_shape_or_none,
    wider,
)
from models.importing.independence.tf_facts import (
    Fact,
    Mixed,
    MixesError,
    Resource,
    Rows,
    Shape,
    Shared,
    UnsureError,
    constants,
    reshaped,
    rows,
    same_layout,
    shared,
    without_values,
)
from models.importing.independence.tf_layout import axis_from, normal, sizes
from models.importing.independence.tf_node import Node
from models.importing.independence.tf_sizes import ONE, ROWS, Size, product


def reduction(node: Node, x: Fact, along: Fact) -> Fact:
    if isinstance(x, Shared) and (x.shape is None or constants(along) is None):
        if isinstance(along, Shared):
            return Shared()
        raise UnsureError("reduces axes that follow from the batch")
    shape, axes = needs_shape(x), constants(along)
    if axes is None:
        raise UnsureError("takes its axes from the graph instead of a constant")
    gone = {normal(axis, len(shape)) for axis in axes}
    keeps = node.flag("keep_dims")
    kept = [ONE if axis in gone else size for axis, size in enumerate(shape) if keeps or axis not in gone]
    if isinstance(x, Shared):
        return shared(kept)
    held = needs_rows(x)
    if held.axis in gone:
        if node.op == "All":
            return Mixed(f"{node.op} ({node.name}) asks whether something holds for every row", all_rows=True)
        raise MixesError(f"reduces axis {held.axis}, which holds the rows")
    return reshaped(held, kept, held.axis - (0 if keeps else sum(axis < held.axis for axis in gone)))


def extreme_place(node: Node, x: Fact, along: Fact) -> Fact:
    """ArgMax and ArgMin."""
    if isinstance(x, Shared) and (x.shape is None or constants(along) is None):
        if isinstance(along, Shared):
            return Shared()
        raise UnsureError("reduces axes that follow from the batch")
    shape = needs_shape(x)
    axis = axis_from(along, len(shape))
    kept = [*shape[:axis], *shape[axis + 1 :]]
    if isinstance(x, Shared):
        return shared(kept)
    held = needs_rows(x)
    if held.axis == axis:
        raise MixesError(f"searches axis {axis}, which holds the rows")
    return reshaped(held, kept, held.axis - (axis < held.axis))


def running(_node: Node, x: Fact, along: Fact) -> Fact:
    """Cumsum and its kind."""
    if isinstance(x, Shared):
        if isinstance(along, Shared):
            return without_values(x)
        raise UnsureError("adds up along an axis that follows from the batch")
    held = needs_rows(x)
    if axis_from(along, len(held.shape)) == held.axis:
        raise MixesError(f"adds up along axis {held.axis}, which holds the rows")
    return held


def not_last(count: int) -> Rule:
    """The last `count` axes are worked on together, the others one by one; the shape stays."""

    def rule(_node: Node, x: Fact, *parameters: Fact) -> Fact:
        own_weights(*parameters)
        if isinstance(x, Shared):
            return without_values(x)
        held = needs_rows(x)
        if held.axis >= len(held.shape) - count:
            raise MixesError(f"works on axis {held.axis}, which holds the rows, as a whole")
        return held

    return rule


def top(node: Node, x: Fact, *count: Fact) -> tuple[Fact, Fact]:
    if any(not isinstance(fact, Shared) for fact in count):
        raise UnsureError("takes as many entries as follows from the batch")
    if isinstance(x, Shared) and x.shape is None:
        return Shared(), Shared()
    shape = needs_shape(x)
    number = sizes(node, count[0], 1)[0] if count and count[0].values else node.fresh("count")  # type: ignore[union-attr]
    found = (*shape[:-1], number if count else Size.of(node.integer("k")))
    if isinstance(x, Shared):
        return shared(found), shared(found)
    held = needs_rows(x)
    if held.axis == len(shape) - 1:
        raise MixesError("sorts along the axis that holds the rows")
    result = reshaped(held, found, held.axis)
    return result, result


def matmul(node: Node, a: Fact, b: Fact) -> Fact:
    left = "ki" if node.flag("transpose_a") else "ik"
    right = "jk" if node.flag("transpose_b") else "kj"
    return contraction(node, (left, right), "ij", (a, b), "")


def batch_matmul(node: Node, a: Fact, b: Fact) -> Fact:
    shapes = [needs_shape_or_none(fact) for fact in (a, b)]
    if None in shapes:
        if isinstance(a, Shared) and isinstance(b, Shared):
            return Shared()
        raise UnsureError("takes a tensor of unknown rank")
    ranks = [len(shape) for shape in shapes if shape is not None]
    names = batch_labels(max(ranks) - 2)
    left, right = (names[max(ranks) - rank :] for rank in ranks)
    adjoint = [node.flag(name) for name in ("adj_x", "adj_y")]
    labels = (left + ("ki" if adjoint[0] else "ik"), right + ("jk" if adjoint[1] else "kj"))
    return contraction(node, labels, names + "ij", (a, b), names if node.op != "BatchMatMul" else "")


def batch_labels(count: int) -> str:
    """Characters that no equation uses."""
    return "".join(chr(0x2460 + place) for place in range(count))


def einsum(node: Node, *facts: Fact) -> Fact:
    equation = node.text("equation").replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    if not arrow or len(terms) != len(facts):
        raise UnsureError(f"has the equation {equation!r}, which is not understood")
    names = ""
    if "..." in equation:
        shapes = [needs_shape_or_none(fact) for fact in facts]
        if None in shapes:
            raise UnsureError("takes a tensor of unknown rank")
        extra = [
            len(shape) - len(term.replace("...", ""))
            for term, shape in zip(terms, shapes, strict=True)
            if shape is not None and "..." in term
        ]
        names = batch_labels(max(extra, default=0))
        widths = iter(extra)
        terms = [term.replace("...", names[len(names) - next(widths) :]) if "..." in term else term for term in terms]
        output = output.replace("...", names)
    return contraction(node, terms, output, facts, names)


def contraction(node: Node, terms: Sequence[str], output: str, facts: Sequence[Fact], spread: str) -> Fact:
    """Of Einstein's notation; the labels in `spread` broadcast. Raises UnsureError unless rows meet their own row."""
    shapes = [
        _label_sizes(node, place, term, fact) for place, (term, fact) in enumerate(zip(terms, facts, strict=True))
    ]
    held = [(term, fact) for term, fact in zip(terms, facts, strict=True) if isinstance(fact, Rows)]
    found: dict[str, Size] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            if label not in found or (label in spread and not found[label].rows):
                found[label] = size if label not in found else _spread(node, label, found[label], size)
    if not held:
        return shared([found[label] for label in output])
    if any(len(set(term)) < len(term) for term, _ in held) or len(set(output)) < len(output):
        raise UnsureError("takes a diagonal")
    labels = {term[fact.axis] for term, fact in held}
    label = labels.pop()
    if labels:
        raise MixesError("multiplies rows with other rows")
    if label not in output:
        raise MixesError("adds up over the rows")
    if not same_layout([fact for _, fact in held]):
        raise UnsureError("pairs rows that lie in different order")
    _check_shared_label(label, terms, shapes, facts, spread)
    first = held[0][1]
    result = [first.shape[first.axis] if name == label else found[name] for name in output]
    return rows(result, output.index(label), first.outer, first.inner, any(fact.varies for _, fact in held))


def _check_shared_label(
    label: str, terms: Sequence[str], shapes: Sequence[Shape], facts: Sequence[Fact], spread: str
) -> None:
    for term, shape, fact in zip(terms, shapes, facts, strict=True):
        if isinstance(fact, Shared) and label in term:
            size = shape[term.index(label)]
            if size.number != 1 or label not in spread:
                raise UnsureError(f"meets the rows with a dimension of size {size}, which no other batch has")


def _label_sizes(node: Node, place: int, term: str, fact: Fact) -> Shape:
    shape = needs_shape_or_none(fact)
    if shape is None:
        return tuple(node.fresh(f"{place}.{axis}") for axis in range(len(term)))
    if len(shape) != len(term):
        raise UnsureError("takes a tensor with another number of axes than its equation says")
    return shape


def _spread(node: Node, label: str, left: Size, right: Size) -> Size:
    return right if right.rows else wider(node, ord(label), left, right)


def diagonal(node: Node, x: Fact, *parameters: Fact) -> Fact:
    """A matrix of each vector, or a vector of each matrix: of the last axes alone."""
    own_weights(*parameters)
    taken, made = (1, 2) if node.op.startswith("MatrixDiagV") or node.op == "MatrixDiag" else (2, 1)
    if isinstance(x, Shared):
        return Shared()
    held = needs_rows(x)
    kept = len(held.shape) - taken
    if held.axis >= kept:
        raise UnsureError("makes a diagonal of the rows")
    if parameters and constants(parameters[0]) != [0]:
        raise UnsureError("takes more than one diagonal, or another one")
    return reshaped(held, (*held.shape[:kept], *(node.fresh(axis) for axis in range(made))), held.axis)


def bias_add(node: Node, x: Fact, bias: Fact) -> Fact:
    if not isinstance(bias, Shared):
        raise UnsureError("adds a bias that follows from the batch")
    if isinstance(x, Shared):
        return without_values(x)
    held = needs_rows(x)
    channel = 1 if node.text("data_format") == "NCHW" else len(held.shape) - 1
    if held.axis == channel:
        raise UnsureError("adds a bias for each row of a fixed number")
    return held


def batched(x: Fact) -> Rows:
    """Of operations that treat each entry of axis 0 by itself. Raises UnsureError where other axes hold the rows."""
    held = needs_rows(x)
    if held.axis:
        raise UnsureError("works along the axis that holds the rows")
    return held


def own_weights(*facts: Fact) -> None:
    for fact in facts:
        if not isinstance(fact, Shared):
            raise UnsureError("takes its weights from the batch")


def needs_single_step(node: Node, *names: str) -> None:
    """Windows must not reach over the batch's axis."""
    for name in names:
        if node.integers(name)[:1] not in ([], [1]):
            raise UnsureError(f"has {name} {node.integers(name)}, which reach over the batch")


def places(node: Node, rank: int) -> tuple[list[int], int]:
    """The axes of space, and that of channels. Raises UnsureError for formats that are packed otherwise."""
    layout = node.text("data_format") or "NHWC"
    if layout in ("NHWC", "NDHWC"):
        return list(range(1, rank - 1)), rank - 1
    if layout in ("NCHW", "NCDHW"):
        return list(range(2, rank)), 1
    raise UnsureError(f"has the data format {layout}")


def convolution(node: Node, x: Fact, weights: Fact) -> Fact:
    own_weights(weights)
    if isinstance(x, Shared):
        return Shared()
    held = batched(x)
    needs_single_step(node, "strides", "dilations")
    if any(node.integers("explicit_paddings")[:2]):
        raise UnsureError("pads the batch")
    filters = needs_shape_or_none(weights)
    space, channel = places(node, len(held.shape))
    strides = node.integers("strides")
    shape = list(held.shape)
    for axis in space:
        same = node.text("padding") == "SAME" and strides[axis] == 1
        shape[axis] = shape[axis] if same else _steps(node, held.shape[axis], strides[axis], axis)
    if filters is None:
        shape[channel] = node.fresh("channel")
    elif node.op == "DepthwiseConv2dNative":
        shape[channel] = filters[-1] * filters[-2]
    else:
        shape[channel] = filters[-1]
    if node.text("padding") == "VALID" and filters is not None:
        _valid(node, held, space, filters[: len(space)], shape)
    return reshaped(held, shape, 0)


def _steps(node: Node, size: Size, stride: int, axis: int) -> Size:
    if size.number is not None and node.text("padding") == "SAME":
        return Size.of(-(-size.number // stride))
    return node.fresh(f"space{axis}")


def _valid(node: Node, held: Rows, space: Sequence[int], windows: Sequence[Size], shape: list[Size]) -> None:
    strides = node.integers("strides")
    dilations = node.integers("dilations") or [1] * len(strides)
    for axis, window in zip(space, windows, strict=True):
        size, reach = held.shape[axis].number, window.number
        if size is not None and reach is not None:
            reach = (reach - 1) * dilations[axis] + 1
            shape[axis] = Size.of(max(0, (size - reach) // strides[axis] + 1))


def transposed_convolution(node: Node, target: Fact, weights: Fact, x: Fact) -> Fact:
    own_weights(weights)
    if isinstance(x, Shared) and isinstance(target, Shared):
        return Shared()
    held = batched(x)
    needs_single_step(node, "strides", "dilations")
    if any(node.integers("explicit_paddings")[:2]):
        raise UnsureError("pads the batch")
    wanted = sizes(node, target, len(held.shape))
    if len(wanted) != len(held.shape) or wanted[0] != held.shape[0]:
        raise UnsureError("gives the batch another size")
    return reshaped(held, wanted, 0)


def pooling(node: Node, x: Fact) -> Fact:
    if isinstance(x, Shared):
        return Shared()
    held = batched(x)
    needs_single_step(node, "ksize", "strides")
    if any(node.integers("explicit_paddings")[:2]):
        raise UnsureError("pads the batch")
    space, channel = places(node, len(held.shape))
    windows, strides = node.integers("ksize"), node.integers("strides")
    if windows[channel] != 1 or strides[channel] != 1:
        return reshaped(held, [size if axis == 0 else node.fresh(axis) for axis, size in enumerate(held.shape)], 0)
    shape = list(held.shape)
    for axis in space:
        shape[axis] = _steps(node, held.shape[axis], strides[axis], axis)
        size = held.shape[axis].number
        if node.text("padding") == "VALID" and size is not None:
            shape[axis] = Size.of(max(0, (size - windows[axis]) // strides[axis] + 1))
    return reshaped(held, shape, 0)


def pooling_by_inputs(node: Node, x: Fact, window: Fact, stride: Fact) -> Fact:
    """MaxPoolV2."""
    if isinstance(x, Shared) and isinstance(window, Shared) and isinstance(stride, Shared):
        return Shared()
    for fact in (window, stride):
        found = constants(fact)
        if found is None or found[0] != 1:
            raise UnsureError("has a window that is not known, or reaches over the batch")
    held = batched(x)
    places(node, len(held.shape))
    return reshaped(held, [size if axis == 0 else node.fresh(axis) for axis, size in enumerate(held.shape)], 0)


def image(node: Node, x: Fact, *parameters: Fact) -> Fact:
    """Each entry of axis 0 is an image by itself; sizes other than the batch's may change."""
    if any(not isinstance(fact, Shared) for fact in parameters):
        raise UnsureError("takes its parameters from the batch")
    if isinstance(x, Shared):
        return Shared()
    held = batched(x)
    return reshaped(held, [size if axis == 0 else node.fresh(axis) for axis, size in enumerate(held.shape)], 0)


def resize(node: Node, x: Fact, target: Fact) -> Fact:
    found = image(node, x, target)
    if not isinstance(found, Rows):
        return found
    height, width = sizes(node, target, 2)
    return reshaped(found, (found.shape[0], height, width, needs_shape(x)[3]), 0)


def patches(node: Node, x: Fact) -> Fact:
    needs_single_step(node, "ksizes", "strides", "rates")
    return image(node, x)


def local_response(_node: Node, x: Fact) -> Fact:
    if isinstance(x, Shared):
        return without_values(x)
    return batched(x)


def fused_batch_norm(node: Node, x: Fact, *statistics: Fact) -> tuple[Fact, ...]:
    """In training it normalises each channel by all else: the rows stay apart only where they are the channels.

    So it is in Keras 2's LayerNormalization, which lays the batch along the channels for this.
    """
    count = node.output_count
    if isinstance(x, Shared):
        own_weights(*statistics)
        return (Shared(),) * count
    held = needs_rows(x)
    _, channel = places(node, len(held.shape))
    if not node.flag("is_training"):
        own_weights(*statistics)
        if held.axis == channel:
            raise UnsureError("has statistics for each row of a fixed number")
        return held, *((Shared(),) * (count - 1))
    if held.axis != channel:
        raise MixesError("normalises over the batch: is_training is true")
    for fact in statistics[:2]:
        if not isinstance(fact, Rows) or fact.axis or len(fact.shape) != 1 or not same_layout([held, fact]):
            raise UnsureError("has statistics for each row of a fixed number")
    for fact in statistics[2:]:
        if not isinstance(fact, Shared) or fact.shape is None or fact.shape[0].number != 0:
            raise UnsureError("keeps running statistics")
    hidden = Mixed(f"{node.op} ({node.name}) hands out statistics of its training")
    return held, *((hidden,) * (count - 1))


def gather(node: Node, params: Fact, indices: Fact, *along: Fact) -> Fact:
    batch = node.integer("batch_dims")
    shapes = [needs_shape_or_none(fact) for fact in (params, indices)]
    if isinstance(params, Shared) and isinstance(indices, Shared):
        if any(not isinstance(fact, Shared) for fact in along):
            raise UnsureError("takes its axis from the batch")
        if shapes[0] is None or shapes[1] is None or (along and constants(along[0]) is None):
            return Shared()
    given, taken = needs_shape(params), needs_shape(indices)
    axis = axis_from(along[0], len(given)) if along else 0
    batch = batch + len(taken) if batch < 0 else batch
    if batch > axis or batch > len(taken):
        raise UnsureError("has more batch dimensions than it can have")
    found = (*given[:axis], *taken[batch:], *given[axis + 1 :])
    if not isinstance(params, Rows) and not isinstance(indices, Rows):
        return shared(found)
    return _gathered(params, indices, found, axis, batch)


def _gathered(params: Fact, indices: Fact, shape: Shape, axis: int, batch: int) -> Fact:
    taken = len(needs_shape(indices))
    if isinstance(params, Rows) and isinstance(indices, Rows):
        if params.axis != indices.axis or params.axis >= batch or not same_layout([params, indices]):
            raise UnsureError("takes from the batch what rows of the batch name")
        return rows(shape, params.axis, params.outer, params.inner, params.varies or indices.varies)
    if isinstance(indices, Rows):
        if indices.axis < batch:
            raise UnsureError("meets the rows with a dimension of fixed size")
        return reshaped(indices, shape, axis + indices.axis - batch)
    held = needs_rows(params)
    if held.axis == axis:
        raise UnsureError("takes rows of the batch by their places")
    if held.axis < batch:
        raise UnsureError("meets the rows with a dimension of fixed size")
    return reshaped(held, shape, held.axis if held.axis < axis else held.axis - 1 + taken - batch)


def gather_nd(_node: Node, params: Fact, indices: Fact) -> Fact:
    if not isinstance(params, Shared):
        raise UnsureError("takes from the batch by places in it")
    if isinstance(indices, Shared):
        return Shared()
    held = needs_rows(indices)
    depth = held.shape[-1].number
    if params.shape is None or depth is None or held.axis == len(held.shape) - 1:
        raise UnsureError("takes places along the rows' axis, or of unknown rank")
    return reshaped(held, (*held.shape[:-1], *params.shape[depth:]), held.axis)


def resource_gather(node: Node, table: Fact, indices: Fact) -> Fact:
    if not isinstance(table, Resource) or table.table:
        raise UnsureError("takes from something that is no variable")
    return gather(node, Shared(table.shape), indices)


def reverse_sequence(node: Node, x: Fact, lengths: Fact) -> Fact:
    if isinstance(x, Shared) and isinstance(lengths, Shared):
        return without_values(x)
    held, counted = needs_rows(x), needs_rows(lengths)
    rank = len(held.shape)
    if normal(node.integer("seq_dim"), rank) == held.axis or normal(node.integer("batch_dim"), rank) != held.axis:
        raise UnsureError("turns the batch round")
    if counted.axis or not same_layout([held, counted]):
        raise UnsureError("pairs rows that lie in different order")
    return held


def space_to_batch(node: Node, x: Fact, block: Fact, paddings: Fact) -> Fact:
    """The batch of the result is (block, rows): as in the operation's documentation."""
    if isinstance(x, Shared) and isinstance(block, Shared) and isinstance(paddings, Shared):
        return Shared()
    held, blocks = batched(x), _known_block(block)
    own_weights(paddings)
    outer = product(map(Size.of, blocks)) * held.outer
    shape = [node.fresh(axis) if 0 < axis <= len(blocks) else size for axis, size in enumerate(held.shape)]
    shape[0] = outer * ROWS * held.inner
    return rows(shape, 0, outer, held.inner, held.varies)


def batch_to_space(node: Node, x: Fact, block: Fact, crops: Fact) -> Fact:
    if isinstance(x, Shared) and isinstance(block, Shared) and isinstance(crops, Shared):
        return Shared()
    held, blocks = batched(x), _known_block(block)
    own_weights(crops)
    outer = held.outer.over(product(map(Size.of, blocks)))
    if outer is None:
        raise UnsureError("makes space of the rows")
    shape = [node.fresh(axis) if 0 < axis <= len(blocks) else size for axis, size in enumerate(held.shape)]
    shape[0] = outer * ROWS * held.inner
    return rows(shape, 0, outer, held.inner, held.varies)


def _known_block(block: Fact) -> list[int]:
    found = constants(block)
    if found is None:
        raise UnsureError("has a block that is not known before the call")
    return found


def fake_quant_by_channel(_node: Node, x: Fact, low: Fact, high: Fact) -> Fact:
    own_weights(low, high)
    if isinstance(x, Shared):
        return without_values(x)
    held = needs_rows(x)
    if held.axis == len(held.shape) - 1:
        raise UnsureError("has a range for each row of a fixed number")
    return held


def quantize(node: Node, x: Fact, low: Fact, high: Fact, *rest: Fact) -> Fact:
    """QuantizeAndDequantize: without a range of its own it takes the batch's."""
    if isinstance(x, Rows) and not node.flag("range_given"):
        raise MixesError("takes its range from the batch: range_given is false")
    if node.integer("axis") != -1:
        raise UnsureError("has a range for each entry of an axis")
    return elements_of_own(node, x, low, high, *rest)


def cross_entropy(node: Node, logits: Fact, labels: Fact) -> tuple[Fact, Fact]:
    """The loss of each row, and its gradient."""
    if isinstance(logits, Shared) and isinstance(labels, Shared):
        return Shared(), Shared()
    held, others = needs_rows(logits), needs_rows(labels)
    if held.axis or others.axis or not same_layout([held, others]):
        raise UnsureError("pairs rows that lie along different axes")
    if len(held.shape) != 2 or others.shape not in (held.shape, held.shape[:1]):
        raise UnsureError("takes shapes that may not go together")
    return reshaped(held, held.shape[:1], 0), held


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Sum", "Mean", "Prod", "Max", "Min", "All", "Any", "EuclideanNorm"), reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), extreme_place),
    **dict.fromkeys(("Cumsum", "Cumprod", "CumulativeLogsumexp"), running),
    **dict.fromkeys(("Softmax", "LogSoftmax", "FFT", "IFFT"), not_last(1)),
    **dict.fromkeys(("FFT2D", "IFFT2D", "MatrixInverse", "Cholesky", "MatrixBandPart"), not_last(2)),
    **dict.fromkeys(("TopK", "TopKV2"), top),
    "MatMul": matmul,
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), batch_matmul),
    "Einsum": einsum,
    **dict.fromkeys(("MatrixDiag", "MatrixDiagV2", "MatrixDiagV3"), diagonal),
    **dict.fromkeys(("MatrixDiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3"), diagonal),
    "BiasAdd": bias_add,
    "BiasAddV1": bias_add,
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative"), convolution),
    **dict.fromkeys(
        ("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput"), transposed_convolution
    ),
    **dict.fromkeys(("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"), pooling),
    "MaxPoolV2": pooling_by_inputs,
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), fused_batch_norm),
    "LRN": local_response,
    **dict.fromkeys(("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"), resize),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), image),
    **dict.fromkeys(("RGBToHSV", "HSVToRGB", "AdjustHue", "AdjustSaturation"), not_last(1)),
    "AdjustContrastv2": not_last(3),
    "ExtractImagePatches": patches,
    **dict.fromkeys(("GatherV2", "Gather"), gather),
    "GatherNd": gather_nd,
    "ResourceGather": resource_gather,
    "ReverseSequence": reverse_sequence,
    "SpaceToBatchND": space_to_batch,
    "BatchToSpaceND": batch_to_space,
    "FakeQuantWithMinMaxVarsPerChannel": fake_quant_by_channel,
    **dict.fromkeys(("QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4"), quantize),
    **dict.fromkeys(("SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"), cross_entropy),
    "Substr": broadcast,
}

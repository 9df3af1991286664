"""Layers and reductions: each with the condition under which rows stay apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from models.importing.independence import torch_shapes as shapes
from models.importing.independence.torch_call import Call, Operation
from models.importing.independence.torch_values import (
    ONE,
    Dim,
    DoubtError,
    Known,
    MixesError,
    RowDim,
    Size,
    Tensor,
    Tupled,
    Value,
    Varies,
    derived,
)
from models.importing.independence.torch_views import named


def linear(call: Call) -> Tensor:
    source = call.first()
    weight = call.constant("weight")
    call.constant("bias")
    if weight is None or weight.rank != 2:
        raise DoubtError("its weight has not two axes")
    dims = shapes.multiplied(source.dims, weight.dims[::-1])
    return shapes.fresh(dims, source)


def product_of_two(call: Call) -> Tensor:
    """matmul, mm, bmm, mv, dot: the axis of rows may be neither summed over nor meet itself."""
    one, other = (call.tensor(name) for name in list(call.arguments)[:2])
    return shapes.fresh(shapes.multiplied(one.dims, other.dims), one, other)


def product_added(call: Call) -> Tensor:
    """addmm, baddbmm, addmv"""
    names = list(call.arguments)
    added, one, other = (call.tensor(name) for name in names[:3])
    for name in names[3:]:
        call.scalar(name)
    dims = shapes.multiplied(one.dims, other.dims)
    return shapes.fresh(shapes.broadcast(added.dims, dims), added, one, other)


def einsum(call: Call) -> Tensor:
    """An index that runs over rows must be in the result, and only one may."""
    equation = call.known("equation").replace(" ", "")
    operands = call.tensors("tensors")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != len(operands):
        raise DoubtError(f"the equation {equation} is not written out")
    found: dict[str, list[Dim]] = {}
    for term, operand in zip(terms, operands, strict=True):
        if len(term) != operand.rank or (operand.row_axis is not None and term.count(term[operand.row_axis]) > 1):
            raise DoubtError(f"the equation {equation} does not fit, or takes a diagonal of rows")
        for label, dim in zip(term, operand.dims, strict=True):
            found.setdefault(label, []).append(dim)
    dims = {label: shapes.met(places) for label, places in found.items()}
    shapes.fixed([dim for label, dim in dims.items() if label not in right], "what it sums over", certain=True)
    found_dims = shapes.checked([dims[label] for label in right])
    memory = frozenset().union(*(operand.memory for operand in operands))  # of one operand it may be a view
    return replace(shapes.fresh(found_dims, *operands), writable=False, memory=memory)


def embedding(call: Call) -> Tensor:
    weight, indices = call.constant("weight"), call.tensor("indices")
    if weight is None or weight.rank != 2:
        raise DoubtError("its table has not two axes")
    return shapes.fresh([*indices.dims, weight.dims[1]], indices)


def batched(source: Tensor, axes: int) -> Tensor:
    """Raises DoubtError where axis 0 is no batch: without one it is the channels."""
    if source.rank != axes + 2:
        raise DoubtError(f"of {source.rank} axes the first is no batch, where {axes + 2} have one")
    if source.row_axis not in (0, None):
        raise MixesError(f"the rows are on axis {source.row_axis}, and not on its batch")
    return source


def convolution(axes: int) -> Operation:
    def run(call: Call) -> Tensor:
        source = batched(call.first(), axes)
        weight = call.constant("weight")
        call.constant("bias")
        if weight is None or weight.rank != axes + 2:
            raise DoubtError("its weight does not fit")
        stride, dilation = (call.per_axis(name, axes, [1]) for name in ("stride", "dilation"))
        padding = call.known("padding")
        sides = [padding] * axes if isinstance(padding, str) else call.per_axis("padding", axes, [0])
        spatial = []
        for place in range(axes):
            length, kernel = shapes.size(source.dims[2 + place]), shapes.size(weight.dims[2 + place])
            if sides[place] == "same":
                spatial.append(length)
                continue
            side = 0 if sides[place] == "valid" else sides[place]
            spatial.append(shapes.windowed(length, kernel.known, stride[place], side, dilation[place]))
        return shapes.fresh([source.dims[0], weight.dims[0], *spatial], source)

    return run


def transposed_convolution(axes: int) -> Operation:
    def run(call: Call) -> Tensor:
        source = batched(call.first(), axes)
        weight = call.constant("weight")
        call.constant("bias")
        groups = call.known("groups")
        if weight is None or weight.rank != axes + 2:
            raise DoubtError("its weight does not fit")
        names = ("stride", "padding", "output_padding", "dilation")
        settings = [call.per_axis(name, axes, [int(name in ("stride", "dilation"))]) for name in names]
        channels = shapes.size(weight.dims[1])
        spatial = []
        for place in range(axes):
            length, kernel = shapes.size(source.dims[2 + place]), shapes.size(weight.dims[2 + place])
            stride, padding, extra, dilation = (values[place] for values in settings)
            if kernel.known is None:
                raise DoubtError("the size of its kernel is not constant")
            more = dilation * (kernel.known - 1) + extra + 1 - stride - 2 * padding
            longer = length.times(Size(stride))
            known = None if longer.known is None else Size(longer.known + more)
            spatial.append(longer if more == 0 else known or derived("grown", longer, more))
        return shapes.fresh([source.dims[0], channels.times(Size(groups)), *spatial], source)

    return run


def any_convolution(call: Call) -> Value:
    """aten::convolution, as exported programs have it."""
    axes = call.first().rank - 2
    if axes not in (1, 2, 3):
        raise DoubtError("it has no batch, or no axes to move along")
    return transposed_convolution(axes)(call) if call.known("transposed") else convolution(axes)(call)


def pooling(axes: int) -> Operation:
    def run(call: Call) -> Tensor:
        source = batched(call.first(), axes)
        kernel = call.per_axis("kernel_size", axes)
        stride = call.per_axis("stride", axes, kernel)
        padding = call.per_axis("padding", axes, [0])
        dilation = call.per_axis("dilation", axes) if "dilation" in call.arguments else [1] * axes
        ceil = call.known("ceil_mode")
        spatial: list[Dim] = []
        for place, length in enumerate(shapes.fixed(source.dims[2:], "what it moves along")):
            whole = length.over(Size(stride[place]))
            if stride[place] == kernel[place] and not padding[place] and dilation[place] == 1 and whole:
                spatial.append(whole)
            else:
                spatial.append(
                    shapes.windowed(length, kernel[place], stride[place], padding[place], dilation[place], ceil)
                )
        return shapes.fresh([*source.dims[:2], *spatial], source)

    return run


def adaptive_pooling(axes: int) -> Operation:
    def run(call: Call) -> Tensor:
        source = batched(call.first(), axes)
        wanted = call.items("output_size")
        wanted = list(wanted) * axes if len(wanted) == 1 else wanted
        spatial = [
            old if value == Known(None) else fixed_size(call.as_size(value))
            for value, old in zip(wanted, source.dims[2:], strict=True)
        ]
        return shapes.fresh([*source.dims[:2], *spatial], source)

    return run


def fixed_size(size: Size) -> Size:
    if size.rows:
        raise DoubtError("a size follows from the number of rows")
    return size


def with_places(operation: Operation) -> Operation:
    """Also where each maximum stood, counted within its own row."""

    def run(call: Call) -> Value:
        result = cast(Tensor, operation(call))
        return Tupled((result, shapes.fresh(result.dims, result, kind="i")))

    return run


def resized(axes: int) -> Operation:
    def run(call: Call) -> Tensor:
        source = batched(call.first(), axes)
        sizes = call.value("output_size")
        if sizes != Known(None):
            spatial: list[Dim] = [fixed_size(size) for size in call.sizes("output_size")]
            return shapes.fresh([*source.dims[:2], *spatial], source)
        if "scale_factors" not in call.arguments:
            raise DoubtError("it has neither sizes nor factors")
        factors = call.known("scale_factors")
        lengths = shapes.fixed(source.dims[2:], "what it resizes")
        spatial = [scaled(length, factor) for length, factor in zip(lengths, factors, strict=True)]
        return shapes.fresh([*source.dims[:2], *spatial], source)

    return run


def scaled(length: Size, factor: float) -> Size:
    if factor == int(factor):
        return length.times(Size(int(factor)))
    return derived("scaled", length, factor) if length.known is None else Size(int(length.known * factor))


def layer_norm(call: Call) -> Value:
    source = call.first()
    axes = len(call.items("normalized_shape"))
    for name in ("weight", "bias"):
        call.constant(name)
    if axes > source.rank:
        raise DoubtError("it normalises over more axes than there are")
    shapes.fixed(source.dims[source.rank - axes :], "what it normalises over", certain=True)
    return shapes.fresh(source.dims, source)


def group_norm(call: Call) -> Tensor:
    source = call.first()
    for name in ("weight", "bias"):
        call.constant(name)
    if source.row_axis not in (0, None) or source.rank < 2:
        raise MixesError("what it normalises over holds the rows")
    return shapes.fresh(source.dims, source)


def instance_norm(call: Call) -> Tensor:
    source = call.first()
    for name in ("weight", "bias", "running_mean", "running_var"):
        call.constant(name)
    if source.rank < 3 or source.row_axis not in (0, None):
        raise MixesError("its first axis is no batch")
    if call.known("use_input_stats"):
        if call.value("running_mean") != Known(None):
            raise DoubtError("it keeps statistics between calls")
    elif call.value("running_mean") == Known(None):
        raise DoubtError("it has no statistics")
    return shapes.fresh(source.dims, source)


def batch_norm(call: Call) -> Tensor:
    """In inference it scales and shifts each channel by constants."""
    source = call.first()
    for name in ("weight", "bias", "running_mean", "running_var"):
        call.constant(name)
    trained = "training" in call.arguments and call.known("training")
    if trained or call.value("running_mean") == Known(None):
        raise MixesError("it normalises over the batch, not by statistics from training", certain=source.row_axis != 1)
    if source.rank < 2 or source.row_axis not in (0, None):
        raise MixesError("its channels are the rows")
    return shapes.fresh(source.dims, source)


def several(operation: Operation, others: int) -> Operation:
    """With more results, of which none may be used: they are statistics."""

    def run(call: Call) -> Value:
        unused = [Varies("statistics of a normalisation are used") for _ in range(others)]
        return Tupled((operation(call), *unused))

    return run


def along_axis(call: Call) -> Tensor:
    """softmax, cumsum, ...: each value from those along one axis."""
    source = call.first()
    axis = call.axis(source)
    if axis == source.row_axis:
        raise MixesError("it runs over the axis of rows", certain=True)
    return shapes.fresh(source.dims, source)


def sorted_along(call: Call) -> Value:
    found = along_axis(call)
    return Tupled((found, shapes.fresh(found.dims, found, kind="i")))


def argsorted(call: Call) -> Tensor:
    return replace(along_axis(call), kind="i")


def greatest(call: Call) -> Value:
    """topk"""
    found = along_axis(call)
    axis = call.axis(found)
    count = fixed_size(call.size("k"))
    dims = [*found.dims[:axis], count, *found.dims[axis + 1 :]]
    return Tupled((shapes.fresh(dims, found), shapes.fresh(dims, found, kind="i")))


def axes_of(call: Call) -> list[int] | None:
    """None: all. An empty list says so too."""
    name = "dim" if "dim" in call.arguments else "axis"
    if name not in call.arguments or call.value(name) == Known(None):
        return None
    return call.integers(name) or None


def reduced(kind: str = "") -> Operation:
    def run(call: Call) -> Tensor:
        source = call.first()
        keep = bool(call.known("keepdim")) if "keepdim" in call.arguments else False
        what = call.operation.removeprefix("aten::").partition(".")[0]
        return shapes.fresh(shapes.reduced(source, axes_of(call), keep=keep, what=what), source, kind=kind)

    return run


def with_index(call: Call) -> Value:
    """max, min, median along an axis: the values, and where they stand."""
    found = cast(Tensor, reduced()(call))
    return Tupled((found, shapes.fresh(found.dims, found, kind="i")))


def attention(call: Call) -> Value:
    """Queries and keys of one row meet; those of different rows must not."""
    query, key, value = (call.tensor(name) for name in ("query", "key", "value"))
    mask = call.optional("attn_mask")
    if call.known("dropout_p") != 0:
        raise DoubtError("it drops values by chance")
    ranks = {tensor.rank for tensor in (query, key, value)}
    if len(ranks) > 1 or min(ranks) < 3:
        raise DoubtError("its query, key and value differ in rank, or have no batch")
    for tensor in (query, key, value, mask):
        if tensor is not None:
            shapes.fixed(tensor.dims[-2:], "what attention looks along", certain=True)
    heads = [query.dims[:-2], key.dims[:-2], value.dims[:-2]]
    if call.arguments.get("enable_gqa", Known(False)) != Known(False):
        shapes.fixed([dim for dims in heads for dim in dims[-1:]], "its heads")
        batch = (*shapes.broadcast(*(dims[:-1] for dims in heads)), query.dims[-3])
    else:
        batch = shapes.broadcast(*heads)
    if mask is not None:
        batch = shapes.broadcast(batch, mask.dims[:-2])
    return shapes.fresh(shapes.checked([*batch, query.dims[-2], value.dims[-1]]), query, key, value, mask)


def encoder_layer(call: Call) -> Tensor:
    """The fused nn.TransformerEncoderLayer, batch first."""
    return shapes.fresh(fused(call, "src").dims, fused(call, "src"))


def fused(call: Call, name: str) -> Tensor:
    source = call.tensor(name)
    if source.rank != 3 or source.row_axis not in (0, None):
        raise MixesError("its first axis is no batch, or not of the rows")
    for weight in call.arguments:
        if weight.endswith(("weight", "bias", "_1", "_2")):
            call.constant(weight)
    mask, kind = call.optional("mask"), call.value("mask_type")
    if mask is not None:
        rows_first = mask.row_axis == 0 and source.row_axis == 0 and mask.dims[0] == source.dims[0]
        padding = rows_first and mask.rank == 2 and kind == Known(1)
        causal = mask.row_axis is None and mask.rank == 2 and kind == Known(0)
        if not padding and not causal:
            raise DoubtError("its mask is of a form that is not known to keep rows apart")
    return source


def fused_attention(call: Call) -> Tupled:
    sources = [fused(call, name) for name in ("query", "key", "value")]
    if len({tensor.row_axis for tensor in sources}) > 1 or len({tensor.dims[0] for tensor in sources}) > 1:
        raise MixesError("query, key and value do not have the same rows")
    found = shapes.fresh(sources[0].dims, *sources)
    weights: Value = Known(None)
    if call.known("need_weights"):
        if not call.known("average_attn_weights"):
            raise DoubtError("it gives the weights of each head")
        weights = shapes.fresh([found.dims[0], found.dims[1], sources[1].dims[1]], found)
    return Tupled((found, weights))


def recurrent(states: int) -> Operation:
    """lstm (two states), gru, rnn_tanh, rnn_relu (one): rows must lie on the axis of the batch."""

    def run(call: Call) -> Value:
        source = call.tensor("input")
        hidden = call.tensors("hx") if states > 1 else [call.tensor("hx")]
        weights = call.tensors("params")
        if source.rank != 3 or any(tensor.row_axis is not None for tensor in weights):
            raise DoubtError("its input has no three axes, or its weights have rows")
        if call.known("train") and call.known("dropout") != 0:
            raise DoubtError("it drops values by chance: the model is in training mode")
        batch = 0 if call.known("batch_first") else 1
        if source.row_axis is not None and source.row_axis != batch:
            raise MixesError(
                "it runs along the axis of rows: its batch is axis 1 (batch_first is False)"
                if batch
                else "it runs along the axis of rows",
                certain=source.row_axis == 1 - batch,
            )
        if any(state.rank != 3 or state.dims[1] != source.dims[batch] for state in hidden):
            raise MixesError("its state is not known to have the same rows as its input")
        if any(state.row_axis != (None if source.row_axis is None else 1) for state in hidden):
            raise MixesError("its state does not have the rows on axis 1")
        width = hidden[0].dims[2].times(Size(2 if call.known("bidirectional") else 1))  # type: ignore[union-attr]
        parts = [source, *hidden]
        results = [shapes.fresh([*source.dims[:2], width], *parts)]
        results += [shapes.fresh(state.dims, *parts) for state in hidden]
        return Tupled(tuple(replace(result, writable=False) for result in results))

    return run


def channel_wise(call: Call) -> Tensor:
    """prelu: one weight for all, or one for each place of axis 1."""
    source, weight = call.first(), call.constant("weight")
    if weight is None or weight.rank > 1:
        raise DoubtError("its weight does not fit")
    if weight.dims not in ((), (ONE,)) and (source.rank < 2 or source.row_axis == 1):
        raise MixesError("its channels are the rows")
    return shapes.fresh(source.dims, source)


def halved(call: Call) -> Tensor:
    """glu"""
    source = call.first()
    axis = call.axis(source)
    [length] = shapes.fixed([source.dims[axis]], "what it halves")
    half = length.over(Size(2)) or derived("half", length)
    return shapes.fresh([*source.dims[:axis], half, *source.dims[axis + 1 :]], source)


def shuffled(call: Call) -> Tensor:
    """pixel_shuffle: channels become pixels."""
    source, factor = call.first(), call.known("upscale_factor")
    if source.rank < 3:
        raise DoubtError("it has no channels")
    channels, *lengths = shapes.fixed(source.dims[-3:], "what it shuffles")
    fewer = channels.over(Size(factor * factor)) or derived("fewer", channels, factor * factor)
    larger = [length.times(Size(factor)) for length in lengths]
    return replace(shapes.fresh([*source.dims[:-3], fewer, *larger], source), writable=False)


def unshuffled(call: Call) -> Tensor:
    source, factor = call.first(), call.known("downscale_factor")
    if source.rank < 3:
        raise DoubtError("it has no channels")
    channels, *lengths = shapes.fixed(source.dims[-3:], "what it shuffles")
    smaller = [length.over(Size(factor)) or derived("fewer", length, factor) for length in lengths]
    dims = [*source.dims[:-3], channels.times(Size(factor * factor)), *smaller]
    return replace(shapes.fresh(dims, source), writable=False)


def channels_shuffled(call: Call) -> Tensor:
    source = call.first()
    if source.rank < 3 or source.row_axis not in (0, None):
        raise MixesError("what it shuffles holds the rows")
    return source.perhaps_copied(source.dims)


def alike(call: Call) -> Tensor:
    """cosine_similarity"""
    one, other = call.tensor("x1"), call.tensor("x2")
    dims = shapes.broadcast(one.dims, other.dims)
    both = shapes.fresh(dims, one, other)
    return shapes.fresh(shapes.reduced(both, [call.known("dim")], keep=False, what="cosine_similarity"), both)


def mixing(reason: str) -> Operation:
    def run(call: Call) -> Value:
        raise MixesError(reason, certain=True)

    return run


def chance(call: Call) -> Value:
    raise DoubtError("it draws by chance")


def uninitialised(call: Call) -> Value:
    raise DoubtError("it makes values that are not set")


def by_axes(names: str, make: Callable[[int], Operation]) -> dict[str, Operation]:
    """Names with a digit that is their number of axes."""
    return {f"aten::{name}": make(int(next(letter for letter in name if letter.isdigit()))) for name in names.split()}


def quantised(axes: int) -> Operation:
    """Layers of int8 with scales from calibration; their weights are packed into an object."""

    def run(call: Call) -> Tensor:
        source = call.first()
        for name in list(call.arguments)[2:]:
            call.scalar(name)
        if axes:
            source = batched(source, axes)
            rest: Sequence[Dim] = [call.regions.fresh() for _ in range(axes + 1)]
            return shapes.fresh([source.dims[0], *rest], source)
        if source.rank < 2 or isinstance(source.dims[-1], RowDim):
            raise MixesError("what a matrix product sums over is the axis of rows", certain=True)
        return shapes.fresh([*source.dims[:-1], call.regions.fresh()], source)

    return run


DYNAMIC = "it has one scale for all values of the batch"
REDUCTIONS = """
sum sum.dim_IntList mean mean.dim prod prod.dim_int logsumexp amax amin max min median nanmedian nansum nanmean
var var.dim var.correction std std.dim std.correction norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype
norm.ScalarOpt_dtype linalg_vector_norm
"""
TABLE: dict[str, Operation] = {
    **named("linear", linear),
    **named("matmul mm bmm mv dot inner_product", product_of_two),
    **named("addmm baddbmm addmv", product_added),
    **named("einsum", einsum),
    **named("embedding", embedding),
    **by_axes("conv1d conv2d conv3d conv1d.padding conv2d.padding conv3d.padding", convolution),
    **by_axes("conv_transpose1d conv_transpose2d.input conv_transpose3d.input", transposed_convolution),
    **named("convolution _convolution", any_convolution),
    **by_axes("max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d", pooling),
    **by_axes(
        "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices",
        lambda axes: with_places(pooling(axes)),
    ),
    **by_axes("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", adaptive_pooling),
    **by_axes("_adaptive_avg_pool2d _adaptive_avg_pool3d", adaptive_pooling),
    **by_axes(
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", lambda axes: with_places(adaptive_pooling(axes))
    ),
    **by_axes(
        """upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec
        upsample_bilinear2d.vec upsample_trilinear3d.vec upsample_bicubic2d.vec _upsample_nearest_exact1d.vec
        _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec _upsample_bilinear2d_aa.vec
        _upsample_bicubic2d_aa.vec upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
        upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d""",
        resized,
    ),
    **named("layer_norm rms_norm", layer_norm),
    **named("native_layer_norm", several(layer_norm, 2)),
    **named("group_norm", group_norm),
    **named("instance_norm", instance_norm),
    **named("batch_norm", batch_norm),
    **named("_native_batch_norm_legit_no_training native_batch_norm", several(batch_norm, 2)),
    **named("softmax.int log_softmax.int _softmax _log_softmax cumsum cumprod logcumsumexp", along_axis),
    **named("sort sort.stable cummax cummin", sorted_along),
    **named("argsort argsort.stable", argsorted),
    **named("topk", greatest),
    **named(REDUCTIONS, reduced()),
    **named("argmax argmin count_nonzero count_nonzero.dim_IntList", reduced("i")),
    **named("all any all.dim any.dim all.dims any.dims", reduced("b")),
    **named("max.dim min.dim median.dim nanmedian.dim mode kthvalue", with_index),
    **named("scaled_dot_product_attention", attention),
    **named("_transformer_encoder_layer_fwd", encoder_layer),
    **named("_native_multi_head_attention", fused_attention),
    **named("lstm.input", recurrent(2)),
    **named("gru.input rnn_tanh.input rnn_relu.input", recurrent(1)),
    **named("prelu _prelu_kernel", channel_wise),
    **named("glu", halved),
    **named("pixel_shuffle", shuffled),
    **named("pixel_unshuffle", unshuffled),
    **named("channel_shuffle", channels_shuffled),
    **named("cosine_similarity", alike),
    **named("quantize_per_tensor_dynamic quantized_lstm.input quantized_gru.input", mixing(DYNAMIC)),
    **named("fused_moving_avg_obs_fake_quant _fused_moving_avg_obs_fq_helper", mixing(DYNAMIC)),
    **named(
        """bernoulli bernoulli.p bernoulli_.float bernoulli_.Tensor rand randn randint randint.low rand_like randn_like
        randint_like normal normal_ uniform_ random_ exponential_ multinomial poisson randperm native_dropout rrelu
        _sample_dirichlet geometric_ cauchy_ log_normal_""",
        chance,
    ),
    **named("empty.memory_format empty_like new_empty empty_strided new_empty_strided resize_", uninitialised),
    "quantized::linear": quantised(0),
    "quantized::linear_relu": quantised(0),
    "quantized::conv2d.new": quantised(2),
    "quantized::conv2d_relu.new": quantised(2),
    "quantized::linear_dynamic": mixing(DYNAMIC),
    "quantized::linear_relu_dynamic": mixing(DYNAMIC),
    "quantized::linear_dynamic_fp16": quantised(0),
}

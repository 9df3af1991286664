"""Operations that compute each value from those in the same place, with the usual broadcasting."""

from __future__ import annotations

from models.importing.independence import torch_shapes as shapes
from models.importing.independence.torch_call import Call, Operation, in_place
from models.importing.independence.torch_scalars import computed_number
from models.importing.independence.torch_values import (
    SCALARS,
    Counted,
    DoubtError,
    Fixed,
    Known,
    MixesError,
    Number,
    Tensor,
    Value,
    Varies,
)
from models.importing.independence.torch_views import named

COMPUTED = """
abs acos acosh asin asinh atan atan2 atanh ceil cos cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 floor frac
gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu lgamma log log10 log1p log2 log_sigmoid logit mish
nan_to_num neg negative rad2deg reciprocal relu relu6 round round.decimals rsqrt selu celu sigmoid sign sgn silu sin
sinc sinh softplus softshrink sqrt square tan tanh threshold trunc fix bitwise_not special_expit special_erf
special_log1p special_expm1 special_entr special_gammaln special_digamma clip clamp clamp.Tensor clip.Tensor
clamp_min clamp_max clamp_min.Tensor clamp_max.Tensor
add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar subtract.Tensor subtract.Scalar
mul.Tensor mul.Scalar multiply.Tensor multiply.Scalar div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode
divide.Tensor divide.Scalar true_divide.Tensor true_divide.Scalar floor_divide floor_divide.Scalar
pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar float_power.Tensor_Scalar float_power.Tensor_Tensor
remainder.Tensor remainder.Scalar remainder.Scalar_Tensor fmod.Tensor fmod.Scalar
maximum minimum fmax fmin max.other min.other hypot logaddexp logaddexp2 copysign.Tensor xlogy.Tensor special_xlog1py
bitwise_and.Tensor bitwise_and.Scalar bitwise_or.Tensor bitwise_or.Scalar bitwise_xor.Tensor bitwise_xor.Scalar
__and__.Tensor __and__.Scalar __or__.Tensor __or__.Scalar __xor__.Tensor __xor__.Scalar
bitwise_left_shift.Tensor bitwise_right_shift.Tensor bitwise_left_shift.Tensor_Scalar bitwise_right_shift.Tensor_Scalar
__lshift__.Tensor __lshift__.Scalar __rshift__.Tensor __rshift__.Scalar
lerp.Scalar lerp.Tensor addcmul addcdiv masked_fill.Scalar masked_fill.Tensor where.self where.ScalarOther
where.ScalarSelf heaviside quantize_per_tensor fake_quantize_per_tensor_affine
fake_quantize_per_tensor_affine.tensor_qparams
"""
JUDGED = """
eq.Tensor eq.Scalar ne.Tensor ne.Scalar not_equal.Tensor not_equal.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar
gt.Tensor gt.Scalar ge.Tensor ge.Scalar less.Tensor less.Scalar less_equal.Tensor less_equal.Scalar greater.Tensor
greater.Scalar greater_equal.Tensor greater_equal.Scalar logical_not logical_and logical_or logical_xor isnan isinf
isfinite isposinf isneginf isclose signbit
"""
IN_PLACE = """
abs_ ceil_ clamp_ clamp_min_ clamp_max_ clip_ cos_ elu_ erf_ exp_ expm1_ floor_ hardsigmoid_ hardswish_ hardtanh_
leaky_relu_ log_ log1p_ logit_ mish_ neg_ reciprocal_ relu_ relu6_ round_ rsqrt_ selu_ celu_ sigmoid_ sign_ silu_ sin_
sqrt_ square_ tan_ tanh_ threshold_ trunc_ nan_to_num_ gelu_ bitwise_not_ logical_not_
add_.Tensor add_.Scalar sub_.Tensor sub_.Scalar mul_.Tensor mul_.Scalar div_.Tensor div_.Scalar div_.Tensor_mode
floor_divide_.Tensor floor_divide_.Scalar pow_.Scalar pow_.Tensor remainder_.Tensor remainder_.Scalar
lerp_.Scalar lerp_.Tensor addcmul_ addcdiv_ masked_fill_.Scalar masked_fill_.Tensor logical_and_ logical_or_
bitwise_and_.Tensor bitwise_or_.Tensor __iand__.Tensor __ior__.Tensor copy_ fill_.Scalar fill_.Tensor zero_
"""


def computed(call: Call, kind: str = "") -> Tensor:
    """Scalars must be the same for each batch."""
    found = []
    call.read.update(call.arguments)
    for name, value in call.arguments.items():
        if isinstance(value, (Tensor, Counted)):
            found.append(call.tensor(name))
        elif isinstance(value, Varies) or (isinstance(value, Number) and value.size.rows):
            raise MixesError(value.reason if isinstance(value, Varies) else "it computes with the number of rows")
        elif not isinstance(value, SCALARS):
            raise DoubtError(f"its {name} is not known to be a tensor or a number")
    return shapes.fresh(shapes.broadcast(*(tensor.dims for tensor in found)), *found, kind=kind)


def judged(call: Call) -> Tensor:
    return computed(call, "b")


def whole(call: Call) -> Tensor:
    """Sums and products of integers are integers; of others it does not matter which they are."""
    result = computed(call)
    kinds = {value.kind for value in call.arguments.values() if isinstance(value, Tensor)}
    plain = all(
        isinstance(value, (Tensor, Number)) or (isinstance(value, Known) and type(value.value) is int)
        for value in call.arguments.values()
    )
    return shapes.fresh(result.dims, result, kind="i") if kinds == {"i"} and plain else result


def sized(call: Call) -> Value:
    """Traced graphs compute sizes in tensors of rank 0; with others, an operation like any."""
    call.read.update(call.arguments)
    values = list(call.arguments.values())
    if any(isinstance(value, Counted) for value in values) and all(
        isinstance(value, (Counted, Known, Number, Fixed, Varies)) for value in values
    ):
        return Counted(computed_number(call))
    return whole(call)


SIZED = """
add.Tensor add.Scalar sub.Tensor sub.Scalar mul.Tensor mul.Scalar floor_divide floor_divide.Scalar div.Tensor_mode
div.Scalar_mode remainder.Tensor remainder.Scalar
"""
TABLE: dict[str, Operation] = {
    **named(COMPUTED, computed),
    **named(JUDGED, judged),
    **named(SIZED, sized),
    **named(IN_PLACE, in_place(computed)),
}

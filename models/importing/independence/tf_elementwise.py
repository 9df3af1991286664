"""Operations that work element by element, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

from models.importing.independence.tf_facts import (
    Counts,
    Fact,
    Resource,
    Rows,
    Shape,
    Shared,
    UnsureError,
    rows,
    same_layout,
    shared,
    without_values,
)
from models.importing.independence.tf_node import Node
from models.importing.independence.tf_sizes import Size

Rule = Callable[..., "Fact | tuple[Fact, ...]"]

UNARY = """
Identity StopGradient PreventGradient Snapshot DeepCopy CheckNumerics CheckNumericsV2 Print Abs Neg Sign Reciprocal Inv
Square Sqrt Rsqrt Exp Expm1 Log Log1p Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Erf Erfc Erfinv Ndtri
Lgamma Digamma BesselI0 BesselI1 BesselI0e BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK1 BesselK0e BesselK1e BesselY0
BesselY1 Dawsn Expint FresnelCos FresnelSin Spence Ceil Floor Round Rint IsFinite IsInf IsNan Sigmoid Softplus Softsign
Relu Relu6 Elu Selu LeakyRelu LogicalNot Invert PopulationCount Cast Conj Real Imag Angle ComplexAbs
Bucketize FakeQuantWithMinMaxArgs StringLower StringUpper StringStrip StringLength StaticRegexFullMatch
StaticRegexReplace AsString StringToNumber StringToHashBucket StringToHashBucketFast StringToHashBucketStrong
EncodeBase64 DecodeBase64 UnicodeTranscode UnicodeScript
"""

#: Of any number of inputs that TensorFlow broadcasts against each other (those of equal shape are no more than that).
BROADCAST = """
Add AddV2 Sub Mul Div DivNoNan RealDiv FloorDiv FloorMod Mod TruncateDiv TruncateMod Xdivy Xlogy Xlog1py MulNoNan Pow
Atan2 NextAfter SquaredDifference Maximum Minimum Less LessEqual Greater GreaterEqual LogicalAnd LogicalOr BitwiseAnd
BitwiseOr BitwiseXor LeftShift RightShift Complex Betainc Igamma Igammac Zeta Polygamma SelectV2 AddN AccumulateNV2
StringJoin ApproximateEqual ClipByValue SigmoidGrad TanhGrad ReluGrad EluGrad SoftplusGrad RsqrtGrad SqrtGrad
"""


def unary(_node: Node, x: Fact, *_control: Fact) -> Fact:
    if isinstance(x, Shared):
        return without_values(x)
    return needs_rows(x)


def broadcast(node: Node, *facts: Fact) -> Fact:
    """Raises UnsureError where rows would meet anything but their own row."""
    held = [fact for fact in facts if isinstance(fact, Rows)]
    if not held:
        return shared(broadcast_shape(node, [needs_shape_or_none(fact) for fact in facts]))
    shapes = [needs_shape(fact) for fact in facts]
    rank = max(map(len, shapes))
    axes = {rank - len(fact.shape) + fact.axis for fact in held}
    if len(axes) != 1 or not same_layout(held):
        raise UnsureError("pairs each row with every other: its inputs hold their rows along different axes")
    axis = axes.pop()
    for fact, shape in zip(facts, shapes, strict=True):
        place = axis - (rank - len(shape))
        if not isinstance(fact, Rows) and place >= 0 and shape[place].number != 1:
            raise UnsureError(f"meets the rows with a dimension of size {shape[place]}, which no other batch has")
    found = broadcast_shape(node, shapes, axis)
    changed = list(found or ())
    changed[axis] = held[0].shape[held[0].axis]
    return rows(changed, axis, held[0].outer, held[0].inner, any(fact.varies for fact in held))


def broadcast_shape(node: Node, shapes: Sequence[Shape | None], skipped: int | None = None) -> Shape | None:
    """`skipped` is an axis whose size the caller sets."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    rank = max(map(len, known), default=0)
    found = []
    for axis in range(rank):
        sizes = [shape[axis - rank + len(shape)] for shape in known if axis - rank + len(shape) >= 0]
        found.append(sizes[0] if axis == skipped else reduce(lambda a, b: wider(node, axis, a, b), sizes))
    return tuple(found)


def wider(node: Node, axis: int, left: Size, right: Size) -> Size:
    if left == right or right.number == 1:
        return left
    if left.number == 1:
        return right
    if left.number is not None or right.number is not None:
        return left if left.number is not None else right  # the other is 1 or the same, or the call fails
    return node.fresh(f"broadcast{axis}")


def like(_node: Node, x: Fact) -> Fact:
    if isinstance(x, Shared):
        return without_values(x)
    return replace(needs_rows(x), varies=False)


def equality(node: Node, left: Fact, right: Fact) -> Fact:
    """`==` in Python: where shapes do not go together the answer is one False for all."""
    found = broadcast(node, left, right)
    if node.flag("incompatible_shape_error") or not isinstance(found, Shared | Rows):
        return found
    if found.shape is not None and all(_fits(found.shape, needs_shape(fact)) for fact in (left, right)):
        return found
    if isinstance(found, Shared):
        return Shared()
    raise UnsureError("compares shapes that may not go together")


def _fits(found: Shape, shape: Shape) -> bool:
    pairs = zip(reversed(found), reversed(shape), strict=False)
    return all(size == result or size.number == 1 for result, size in pairs)


def select(node: Node, condition: Fact, left: Fact, right: Fact) -> Fact:
    """The older Select takes a condition of the shape of its values, one truth, or one for each entry of axis 0."""
    shapes = [needs_shape_or_none(fact) for fact in (condition, left, right)]
    if not any(isinstance(fact, Rows) for fact in (condition, left, right)):
        return shared(shapes[1])
    if shapes[0] is not None and shapes[1] is not None and 1 == len(shapes[0]) < len(shapes[1]):
        return _select_rows(node, condition, left, right)
    if isinstance(left, Rows) != isinstance(right, Rows):
        raise UnsureError("chooses between rows and a tensor of fixed size")
    return broadcast(node, condition, left, right)


def _select_rows(node: Node, condition: Fact, left: Fact, right: Fact) -> Fact:
    held = [fact for fact in (condition, left, right) if isinstance(fact, Rows)]
    if len(held) < 3 or any(fact.axis for fact in held) or not same_layout(held):
        raise UnsureError("chooses whole entries of axis 0 by a condition that is not one truth for each row")
    both = needs_rows(broadcast(node, left, right))
    return rows(both.shape, 0, both.outer, both.inner, any(fact.varies for fact in held))


def elements_of_own(node: Node, x: Fact, *others: Fact) -> Fact:
    """Element by element, by parameters that must not follow from the batch."""
    for fact in others:
        if not isinstance(fact, Shared):
            raise UnsureError("takes its parameters from the batch")
    return unary(node, x)


def lookup(node: Node, table: Fact, keys: Fact, default: Fact) -> Fact:
    """Of tables whose values are scalars: a default for each key would have another shape."""
    if not isinstance(table, Resource) or not table.table or not isinstance(default, Shared):
        raise UnsureError("looks up in something that is no fixed table")
    if default.shape != ():
        raise UnsureError("looks up values that are not known to be scalars")
    return unary(node, keys)


def needs_rows(fact: Fact) -> Rows:
    if isinstance(fact, Rows):
        return fact
    if isinstance(fact, Counts):
        raise UnsureError("computes with the number of rows")
    raise UnsureError("takes a handle that is not known here")


def needs_shape_or_none(fact: Fact) -> Shape | None:
    return fact.shape if isinstance(fact, Shared) else needs_rows(fact).shape


def needs_shape(fact: Fact) -> Shape:
    shape = needs_shape_or_none(fact)
    if shape is None:
        raise UnsureError("takes a tensor of unknown rank")
    return shape


RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY.split(), unary),
    **dict.fromkeys(BROADCAST.split(), broadcast),
    "ZerosLike": like,
    "OnesLike": like,
    "Equal": equality,
    "NotEqual": equality,
    "Select": select,
    "FakeQuantWithMinMaxVars": elements_of_own,
    "RegexReplace": elements_of_own,
    "RegexFullMatch": elements_of_own,
    "LookupTableFind": lookup,
    "LookupTableFindV2": lookup,
}

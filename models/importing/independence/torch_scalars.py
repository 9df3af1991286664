"""Python's side of a graph: numbers, lists, dicts, tuples, and what is asked of tensors without their values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from models.importing.independence.torch_call import Call, Operation, as_tensor
from models.importing.independence.torch_shapes import axis_of, size
from models.importing.independence.torch_values import (
    NONE,
    SCALARS,
    Counted,
    DoubtError,
    Entries,
    Fixed,
    Instance,
    Items,
    Known,
    Mixed,
    Number,
    Scalar,
    Size,
    Tensor,
    Tupled,
    Value,
    Varies,
    derived,
    leaves,
    number,
    product,
)

COMPUTES_ROWS = "it computes with the number of rows"


def truncated(value: float) -> int:
    return int(value)


def divided(one: int, other: int) -> int:
    return int(one / other) if isinstance(one, float) else abs(one) // abs(other) * (1 if one * other >= 0 else -1)


def derived_index(index: int, start: int, step: int) -> int:
    return start + index * step


def range_length(low: int, high: int, step: int) -> int:
    return len(range(low, high, step))


PYTHON: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "mod": operator.mod,
    "fmod": math.fmod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__not__": operator.not_,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "Int": truncated,
    "Float": float,
    "Bool": bool,
    "str": str,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "max": max,
    "min": min,
    "sum": sum,
    "trunc": math.trunc,
    "lower": str.lower,
    "upper": str.upper,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "len": len,
    "any": any,
    "all": all,
    "trunc_div": divided,
    "__derive_index": derived_index,
    "__range_length": range_length,
}


def plain(call: Call) -> str:
    """aten::add.int -> add"""
    return call.operation.partition("::")[2].partition(".")[0]


def operands(call: Call) -> list[Scalar]:
    found: list[Scalar] = []
    for value in call.arguments.values():
        value = value.number if isinstance(value, Counted) else value
        if isinstance(value, Items):
            constants = constant_list(value)
            value = Known(constants) if constants is not None else listed_scalar(value)
        if not isinstance(value, SCALARS):
            raise DoubtError("it takes what is not known to be a number")
        found.append(value)
    return found


def constant_list(items: Items) -> list[Any] | None:
    if items.values is None or not all(isinstance(value, Known) for value in items.values):
        return None
    return [value.value for value in items.values if isinstance(value, Known)]


def listed_scalar(items: Items) -> Scalar:
    return next((doubtful for leaf in leaves(items) if (doubtful := dependence(leaf))), Fixed())


def dependence(value: Value) -> Varies | None:
    """Whether a scalar may differ between the runs."""
    if isinstance(value, Counted):
        value = value.number
    if isinstance(value, Varies):
        return value
    if isinstance(value, Number) and value.size.rows:
        return Varies(COMPUTES_ROWS)
    if isinstance(value, (Tensor, Mixed)):
        return Varies("it depends on values" if isinstance(value, Tensor) else value.reason)
    return None


def computed_number(call: Call) -> Scalar:
    name, values = plain(call), operands(call)
    if name in ("add", "sub") and len(values) == 3:  # a tensor's: with alpha
        if values[2] != Known(1):
            return next((found for value in values if (found := dependence(value))), Fixed())
        values = values[:2]
    if name == "div" and len(values) == 3:
        name, values = ("floordiv" if values[2] == Known("floor") else "trunc_div"), values[:2]
    if all(isinstance(value, Known) for value in values):
        return of_constants(name, [value.value for value in values if isinstance(value, Known)])
    sizes = [whole(value) for value in values]
    if len(values) == 2 and all(one is not None for one in sizes):
        result = of_sizes(name, *[one for one in sizes if one is not None])
        if result is not None:
            return result
    if name in ("Int", "neg") and len(values) == 1 and sizes[0] is not None:
        return number(sizes[0] if name == "Int" else sizes[0].times(Size(-1)))
    if name in ("Bool", "len", "__not__") and is_truthy(values[0]):
        return Fixed(True) if name == "len" else Known(name == "Bool")
    if name in ("eq", "ne", "gt") and is_truthy(values[0]) and values[1] == Known(0):
        return Known(name != "eq")
    return next((found for value in values if (found := dependence(value))), Fixed())


def is_truthy(value: Scalar) -> bool:
    return (isinstance(value, Number) and positive(value.size)) or (isinstance(value, Fixed) and value.truthy)


def of_constants(name: str, values: Sequence[Any]) -> Scalar:
    if name not in PYTHON:
        return Fixed()
    try:
        return Known(PYTHON[name](*values))
    except Exception as error:  # as it would raise in the model
        raise DoubtError(f"it raises {type(error).__name__} ({error})") from error


def whole(value: Scalar) -> Size | None:
    if isinstance(value, Number):
        return value.size
    return Size(value.value) if isinstance(value, Known) and type(value.value) is int else None


def positive(size: Size) -> bool:
    """Whether it is at least 1 whatever the number of rows is (at least one)."""
    return size.factor > 0 and not size.symbols


def of_sizes(name: str, one: Size, other: Size) -> Scalar | None:
    """None where nothing is known of the result but what it depends on."""
    if name == "mul":
        return number(one.times(other)) if one.rows + other.rows < 2 else None
    if name in ("floordiv", "floor_divide", "trunc_div"):
        exact = one.over(other)
        if exact is not None:
            return number(exact)
        return None if one.rows or other.rows else Number(derived(name, one, other))
    if name in ("add", "sub"):
        return summed(one, other if name == "add" else other.times(Size(-1)))
    if name in ("remainder", "mod") and one.over(other) is not None:
        return Known(0)
    if name in ("eq", "ne", "le", "ge", "lt", "gt"):
        return compared(name, one, other)
    if name in ("min", "max") and not one.rows and not other.rows:
        return Number(derived(name, *sorted([one, other], key=str)))
    return None


def summed(one: Size, other: Size) -> Scalar | None:
    if (one.symbols, one.rows) == (other.symbols, other.rows):
        total = one.factor + other.factor
        return number(Size(total, one.symbols, one.rows) if total else Size(0))
    if other == Size(0) or one == Size(0):
        return number(one if other == Size(0) else other)
    return None if one.rows or other.rows else Number(derived("sum", *sorted([one, other], key=str)))


def compared(name: str, one: Size, other: Size) -> Scalar | None:
    if one == other:
        return Known(name in ("eq", "le", "ge"))
    if other.known is not None and positive(one) and other.known < one.factor:
        return Known(name in ("ne", "ge", "gt"))
    if one.known is not None and positive(other) and one.known < other.factor:
        return Known(name in ("ne", "le", "lt"))
    return None if one.rows or other.rows else Fixed()


def numbers(call: Call) -> Value:
    """Arithmetic and comparison of Python's numbers and texts."""
    return computed_number(call)


def lists_compared(call: Call) -> Value:
    """eq and ne of lists of numbers."""
    one, other = (call.items(name) for name in list(call.arguments)[:2])
    equal = plain(call) == "eq"
    if len(one) != len(other):
        return Known(not equal)
    verdicts: list[Scalar] = []
    for a, b in zip(one, other, strict=True):
        verdicts.append(computed_number(Call("aten::eq", {"a": a, "b": b}, call.regions)))
    if Known(False) in verdicts:
        return Known(not equal)
    if all(verdict == Known(True) for verdict in verdicts):
        return Known(equal)
    return next((verdict for verdict in verdicts if isinstance(verdict, Varies)), Fixed())


def identical(call: Call) -> Value:
    """`is` and `is not`: of None, or of two tensors."""
    one, other = list(call.arguments.values())
    wanted = plain(call) == "__is__"
    if isinstance(one, Known) and isinstance(other, Known):
        return Known((one.value is other.value) == wanted)
    definite = (Tensor, Mixed, Items, Entries, Tupled, Instance, Number, Counted)
    if (one == NONE and isinstance(other, definite)) or (other == NONE and isinstance(one, definite)):
        return Known(not wanted)
    if isinstance(one, Tensor) and isinstance(other, Tensor) and may_compare(one, other):
        return Fixed()
    raise DoubtError("whether two values are the same one is not known")


def may_compare(one: Tensor, other: Tensor) -> bool:
    """Whether being the same value follows from the graph alone: not of what may be a copy, by the number of rows."""
    return one is other or not one.memory & other.memory or (one.writable and other.writable)


def formatted(call: Call) -> Value:
    for value in call.arguments.values():
        for leaf in leaves(value):
            if doubt := dependence(leaf):
                return doubt
    template = next(iter(call.arguments.values()))
    return Fixed(isinstance(template, Known) and bool(template.value.replace("{}", "")))


def tensor_of(call: Call) -> Tensor | Varies:
    value = as_tensor(next(iter(call.arguments.values())))
    if isinstance(value, Mixed):
        return Varies(value.reason)
    if not isinstance(value, Tensor):
        raise DoubtError("it is asked of what is not known to be a tensor")
    return value


def rank(call: Call) -> Value:
    found = tensor_of(call)
    return found if isinstance(found, Varies) else Known(found.rank)


def size_asked(call: Call) -> Value:
    found = tensor_of(call)
    if isinstance(found, Varies):
        return found
    if "dim" in call.arguments:
        return number(size(found.dims[axis_of(call.known("dim"), found.rank)]))
    return Items([number(size(dim)) for dim in found.dims], region=call.regions.tip)


def count_of_values(call: Call) -> Value:
    found = tensor_of(call)
    return found if isinstance(found, Varies) else number(product([size(dim) for dim in found.dims]))


def content(call: Call) -> Value:
    """item, int(tensor), bool(tensor), ...: of a batch's values, something that varies."""
    [value, *_] = call.arguments.values()
    if isinstance(value, Counted):
        return (
            computed_number(Call(f"aten::{plain(call)}", {"a": value}, call.regions))
            if plain(call) in ("Int", "Float", "Bool")
            else value.number
        )
    found = tensor_of(call)
    if isinstance(found, Varies):
        return found
    if found.row_axis is not None:
        return Varies("it reads the values of a batch as one number")
    return Fixed()


def fixed(call: Call) -> Value:
    """What follows from datatypes, devices and settings."""
    del call
    return Fixed()


def laid_out(call: Call) -> Value:
    """Strides of an axis of a single row say nothing, so that one row is contiguous where several are not."""
    found = tensor_of(call)
    if isinstance(found, Varies):
        return found
    return Fixed() if found.row_axis is None else Varies("it asks how a batch lies in memory")


def never(call: Call) -> Value:
    del call
    return Known(False)


def nothing(call: Call) -> Value:
    del call
    return NONE


def counted(call: Call) -> Value:
    value = next(iter(call.arguments.values()))
    if not isinstance(value, SCALARS):
        raise DoubtError("it takes what is not known to be a number")
    return Counted(value)


def itself(call: Call) -> Value:
    return next(iter(call.arguments.values()))


def named(names: str, operation: Operation) -> dict[str, Operation]:
    return {f"aten::{name}": operation for name in names.split()}


def overloads(names: str, kinds: str, operation: Operation) -> dict[str, Operation]:
    return {
        f"aten::{name}.{kind}" if kind != "-" else f"aten::{name}": operation
        for name in names.split()
        for kind in kinds.split()
    }


NUMBERS = "int float int_float float_int str bool Scalar_Scalar"
TABLE: dict[str, Operation] = {
    **{f"python::{name}": numbers for name in PYTHON},
    **overloads("add sub mul div floordiv remainder pow mod fmod eq ne lt le gt ge", NUMBERS, numbers),
    **overloads("neg floor ceil round sqrt exp log abs", "int float Scalar", numbers),
    **overloads("Int", "Scalar bool str float int", numbers),
    **overloads("Float", "Scalar int bool str float", numbers),
    **overloads("Bool", "int float", numbers),
    **named("__and__.bool __and__.int __or__.bool __or__.int __xor__.bool __not__ str lower upper startswith", numbers),
    **named(
        "endswith any.bool any.int any.float all.bool all.int all.float len.str sum.int sum.float pow.int_to_int",
        numbers,
    ),
    **named("__derive_index __range_length Bool.str", numbers),
    **named("eq.device ne.device eq.enum ne.enum", fixed),
    **{
        f"prim::{name}": numbers
        for name in (
            "max.int",
            "min.int",
            "max.float",
            "min.float",
            "abs.Scalar",
            "max.int_float",
            "min.int_float",
            "max.self_int",
            "min.self_int",
        )
    },
    **named("eq.int_list ne.int_list eq.str_list ne.str_list eq.float_list ne.float_list", lists_compared),
    **named("__is__ __isnot__", identical),
    **named("format", formatted),
    **named("dim", rank),
    **named("size size.int sym_size.int sym_size", size_asked),
    "prim::shape": size_asked,
    **named("numel sym_numel", count_of_values),
    **named("item Int.Tensor Float.Tensor Bool.Tensor IntImplicit FloatImplicit ScalarImplicit", content),
    **named("Int Float Bool _local_scalar_dense is_nonzero", content),
    **named("is_floating_point is_complex is_signed is_grad_enabled is_autocast_enabled", fixed),
    **named("is_autocast_cpu_enabled get_device element_size", fixed),
    **named("is_contiguous", laid_out),
    **{
        f"prim::{name}": fixed
        for name in (
            "dtype",
            "device",
            "layout",
            "requires_grad",
            "type",
            "index",
            "is_cuda",
            "itemsize",
            "is_quantized",
            "is_mkldnn",
        )
    },
    **{f"prim::{name}": never for name in ("is_nested", "is_sparse", "is_sparse_csr")},
    **named("warn", nothing),
    "prim::NumToTensor.Scalar": counted,
    "prim::NumToTensor.bool": counted,
    "prim::NumToTensor": counted,
    "prim::ImplicitTensorToNum": content,
    "prim::unchecked_cast": itself,
    "prim::unchecked_unwrap_optional": itself,
    "aten::_unwrap_optional": itself,
}

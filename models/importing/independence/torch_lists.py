"""Lists, dicts and tuples of a graph, which code changes as it goes."""

from __future__ import annotations

from models.importing.independence.torch_call import Call, Operation
from models.importing.independence.torch_scalars import computed_number, constant_list, dependence, named, tensor_of
from models.importing.independence.torch_shapes import size
from models.importing.independence.torch_values import (
    ONE,
    SCALARS,
    Counted,
    DoubtError,
    Entries,
    Fixed,
    Items,
    Known,
    Mixed,
    Scalar,
    Tensor,
    Tupled,
    Value,
    Varies,
    forgotten,
    joined_optional,
    leaves,
    number,
    recalled,
    same,
    summary,
)


def length(call: Call) -> Value:
    value = next(iter(call.arguments.values()))
    if isinstance(value, Items):
        return Fixed() if value.values is None else Known(len(value.values))
    if isinstance(value, Entries):
        return Known(len(value.values))
    if isinstance(value, Tupled):
        return Known(len(value.values))
    if isinstance(value, (Tensor, Mixed)):
        found = tensor_of(call)
        return found if isinstance(found, Varies) else number(size(found.dims[0]) if found.dims else ONE)
    return computed_number(call)


def item_at(items: Items, place: Scalar, call: Call) -> Value:
    if doubt := dependence(place):
        raise DoubtError(f"it takes an item of a list, and {doubt.reason}")
    if items.values is not None and isinstance(place, Known):
        if not -len(items.values) <= place.value < len(items.values):
            raise DoubtError("it takes an item that a list does not have")
        return recalled(items.values[place.value], call.regions)
    each = summary(items)
    if each is None:
        raise DoubtError("it takes an item of an empty list")
    return recalled(each, call.regions)


def entry(call: Call) -> Value:
    holder, key = list(call.arguments.values())[:2]
    key = key.number if isinstance(key, Counted) else key
    if isinstance(holder, Mixed):
        return holder
    if isinstance(holder, Items) and isinstance(key, SCALARS):
        return item_at(holder, key, call)
    if isinstance(holder, Tupled) and isinstance(key, Known):
        found: Value = holder.values[key.value]
        return found
    if isinstance(holder, Entries) and isinstance(key, Known) and key.value in holder.values:
        return recalled(holder.values[key.value], call.regions)
    raise DoubtError("which item it takes is not known")


def writable(holder: Items | Entries) -> None:
    if not holder.writable:
        raise DoubtError("it changes a list or dict that the model keeps, or that may be shared")


def appended(call: Call) -> Value:
    """In a loop or branch that may or may not run, a list from outside is known by one item that stands for all."""
    items, value = list(call.arguments.values())[:2]
    if not isinstance(items, Items):
        raise DoubtError("it appends to what is not known to be a list")
    writable(items)
    if items.region == call.regions.tip and items.values is not None:
        items.values.append(value)
        return items
    before = summary(items)
    after = joined_optional(before, forgotten(value, items.region))
    if items.values is not None or before is None or after is None or not same(before, after):
        call.regions.changes += 1
    items.values, items.each = None, after
    return items


def extended(call: Call) -> Value:
    items, more = list(call.arguments.values())[:2]
    if not isinstance(items, Items) or not isinstance(more, Items) or more.values is None:
        raise DoubtError("it extends by a list of unknown length")
    for value in list(more.values):
        appended(Call(call.operation, {"self": items, "el": value}, call.regions))
    return items


def item_set(call: Call) -> Value:
    holder, key, value = list(call.arguments.values())[:3]
    if isinstance(holder, (Items, Entries)) and isinstance(key, Known) and holder.values is not None:
        writable(holder)
        if holder.region != call.regions.tip:
            raise DoubtError("it sets an item in a loop or branch that may or may not run")
        holder.values[key.value] = value
        return holder
    raise DoubtError("which item it sets is not known")


def list_sliced(call: Call) -> Value:
    items, start, end, step = list(call.arguments.values())[:4]
    if not isinstance(items, Items):
        raise DoubtError("it cuts what is not known to be a list")
    parts = [start, end, step]
    if doubt := next((found for part in parts if (found := dependence(part))), None):
        raise DoubtError(f"it cuts a list, and {doubt.reason}")
    if items.values is not None and all(isinstance(part, Known) for part in parts):
        cut = slice(*(part.value for part in parts if isinstance(part, Known)))
        return Items(list(items.values[cut]), region=call.regions.tip)
    return Items(None, summary(items), region=call.regions.tip)


def list_copied(call: Call) -> Value:
    value = next(iter(call.arguments.values()))
    if isinstance(value, Tupled):
        return Items(list(value.values), region=call.regions.tip)
    if not isinstance(value, Items):
        raise DoubtError("it copies what is not known to be a list")
    return Items(None if value.values is None else list(value.values), value.each, call.regions.tip)


def lists_added(call: Call) -> Value:
    one, other = list(call.arguments.values())[:2]
    if isinstance(one, Items) and isinstance(other, Items) and (one.values is None or other.values is None):
        return Items(None, joined_optional(summary(one), summary(other)), region=call.regions.tip)
    parts = [call.items(name) for name in list(call.arguments)[:2]]
    return Items([*parts[0], *parts[1]], region=call.regions.tip)


def list_repeated(call: Call) -> Value:
    what, count = list(call.arguments)[:2]
    items, times = call.items(what), call.known(count)
    return Items(list(items) * times, region=call.regions.tip)


def contained(call: Call) -> Value:
    holder, key = list(call.arguments.values())[:2]
    if isinstance(holder, Entries) and isinstance(key, Known):
        return Known(key.value in holder.values)
    constants = constant_list(holder) if isinstance(holder, Items) else None
    if constants is not None and isinstance(key, Known):
        return Known(key.value in constants)
    return next((found for leaf in [*leaves(holder), key] if (found := dependence(leaf))), Fixed())


def entries_of(call: Call) -> Entries:
    value = next(iter(call.arguments.values()))
    if not isinstance(value, Entries):
        raise DoubtError("it is asked of what is not known to be a dict")
    return value


def keys(call: Call) -> Value:
    return Items([Known(key) for key in entries_of(call).values], region=call.regions.tip)


def values_of(call: Call) -> Value:
    return Items(list(entries_of(call).values.values()), region=call.regions.tip)


def pairs(call: Call) -> Value:
    found = entries_of(call).values.items()
    return Items([Tupled((Known(key), value)) for key, value in found], region=call.regions.tip)


def got(call: Call) -> Value:
    """dict.get"""
    entries, key = entries_of(call), call.known("key")
    return recalled(entries.values.get(key, call.value("default_value")), call.regions)


TABLE: dict[str, Operation] = {
    **named("len.t len.Tensor len.Dict_str len.Dict_int", length),
    **named("__getitem__.t __getitem__.Dict_str __getitem__.Dict_int", entry),
    "prim::TupleIndex": entry,
    **named("append.t", appended),
    **named("extend.t", extended),
    **named("_set_item.t _set_item.str _set_item.int", item_set),
    **named("slice.t", list_sliced),
    **named("list.t list copy.t", list_copied),
    **named("add.t", lists_added),
    **named("mul.left_t", list_repeated),
    **named(
        "__contains__.int_list __contains__.str_list __contains__.str __contains__.int __contains__.float_list",
        contained,
    ),
    **named("__contains__.Dict_str", contained),
    **named("keys.str keys.int", keys),
    **named("values.str values.int", values_of),
    **named("items.str items.int", pairs),
    **named("get.default_str get.str", got),
}

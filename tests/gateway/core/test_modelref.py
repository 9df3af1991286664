from __future__ import annotations

import pytest

from gateway.core.modelref import ModelRef
from gateway.errors import InvalidArgument


def test_a_name_and_pins_make_one_ref() -> None:
    assert ModelRef.parse("m") == ModelRef("m")
    assert ModelRef.parse("m@v", "v", None, version=3) == ModelRef("m", "v", 3)
    assert ModelRef.parse("m", "v", label="stable", signature="f") == ModelRef("m", "v", None, "stable", "f")
    for name, pin, says in (("m@", None, "no variant after the @"), ("m@v", "w", "several variants: v, w")):
        with pytest.raises(InvalidArgument, match=says):
            ModelRef.parse(name, pin)


def test_what_comes_later_must_agree_and_changes_nothing_else() -> None:
    ref = ModelRef("m", None, None, "stable", "f")
    assert ref.pinned(None) is ref.calling("f") is ref
    assert ref.pinned("v") == ModelRef("m", "v", None, "stable", "f")
    assert ref.calling("g") == ModelRef("m", None, None, "stable", "g")
    with pytest.raises(InvalidArgument, match="several variants: v, w"):
        ref.pinned("v").pinned("w")


def test_a_version_floats_unless_its_number_is_named() -> None:
    assert ModelRef("m").floats
    assert ModelRef("m", "v", label="stable").floats
    assert not ModelRef("m", version=1).floats


def test_it_cannot_be_changed_and_has_no_room_for_more() -> None:
    ref = ModelRef("m")
    with pytest.raises(AttributeError):
        ref.model = "n"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        ref.more = 1  # type: ignore[attr-defined]

from __future__ import annotations

import pytest

from gateway.core.modelref import agree, split_pin
from gateway.errors import InvalidArgument


def test_a_name_may_pin_its_variant() -> None:
    assert split_pin("convnet@pytorch") == ("convnet", "pytorch")
    assert split_pin("convnet") == ("convnet", None)
    with pytest.raises(InvalidArgument, match="no variant after the @"):
        split_pin("convnet@")


def test_pins_must_agree() -> None:
    assert agree(None, None) is None
    assert agree("pytorch", None, "pytorch") == "pytorch"
    with pytest.raises(InvalidArgument, match="several variants: pytorch, tensorflow"):
        agree("pytorch", "tensorflow")

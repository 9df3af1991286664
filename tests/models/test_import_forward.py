"""What `forward` takes and returns: dicts, lists, tuples and optional arguments in, and the same and None out.

The kind: a signature that is not "tensors in their order, a tensor or a tuple of tensors back". Names come from the
dict's keys or the tuple's fields; an argument that has a default, or may be None, can be left out by a client where the
user makes it an input.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gateway.errors import InvalidArgument
from models.__main__ import main
from models.frameworks.pytorch import torchscript
from tests.models.imports import Imported, bring, imported

X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


class OfDict(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sum": batch["left"] + batch["right"], "first": batch["left"][:, 0]}


class OfDictAndMore(nn.Module):
    def forward(self, x: Tensor, extra: dict[str, Tensor]) -> Tensor:
        for value in extra.values():
            x = x * value
        return x


class OfList(nn.Module):
    def forward(self, pages: list[Tensor]) -> list[Tensor]:
        return [page * (place + 1) for place, page in enumerate(pages)]


class OfTuple(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        return pair[0] - pair[1] * x


class Found(NamedTuple):
    scores: Tensor
    places: Tensor


class OfFields(nn.Module):
    def forward(self, x: Tensor) -> Found:
        return Found(x * 2, x.argmax(1))


class OfNesting(nn.Module):
    """As a detector answers: losses, of which there are none, and a dict for each image."""

    def forward(self, images: list[Tensor]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        losses: dict[str, Tensor] = {}
        return losses, [{"boxes": (image > 1).nonzero(), "score": image.sum()} for image in images]


class OfNone(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return x + 1, None, x + 2


class OfTexts(nn.Module):
    def forward(self, texts: list[str]) -> dict[str, list[str]]:
        return {"loud": [text + "!" for text in texts]}


@pytest.mark.parametrize(
    ("module", "flags", "asked", "expected"),
    [
        (OfDict(), ["left:FP32:-1,2", "right:FP32:-1,2"], {"left": X, "right": X}, {"sum": X + X, "first": X[:, 0]}),
        (OfDictAndMore(), ["x:FP32:-1,2", "extra.a:FP32:-1,1", "extra.b.c:FP32:1"],
         {"x": X, "extra.a": X[:, :1], "extra.b.c": X[0, 1:]}, {"output": X * X[:, :1] * 2}),
        (OfList(), ["front:FP32:-1,2", "back:FP32:-1,2"], {"front": X, "back": X}, {"output_0": X, "output_1": 2 * X}),
        (OfTuple(), ["a:FP32:-1,2", "b:FP32:-1,2", "c:FP32:-1,2"], {"a": X, "b": X, "c": X}, {"output": X - X * X}),
        (OfTuple(), ["x:FP32:-1,2", "pair.1:FP32:-1,2", "pair.0:FP32:-1,2"], {"pair.0": X, "pair.1": X, "x": X * 2},
         {"output": X - X * X * 2}),
        (OfFields(), ["x:FP32:-1,2"], {"x": X}, {"scores": X * 2, "places": np.array([1, 1])}),
        (OfNesting(), ["image:FP32:-1,2"], {"image": X},
         {"output_1.0.boxes": np.array([[0, 1], [1, 0], [1, 1]]), "output_1.0.score": np.float32(10)}),
        (OfNone(), ["x:FP32:-1,2"], {"x": X}, {"output_0": X + 1, "output_2": X + 2}),
        (OfTexts(), ["texts:BYTES:-1"], {"texts": ["a", "b"]}, {"loud": np.array([b"a!", b"b!"], object)}),
    ],
    ids=["dict", "dict beside a tensor", "list", "tuple", "tuple by names", "fields", "nested", "None", "texts"],
)  # fmt: skip
def test_it_is_called_and_answers_by_names(
    tmp_path: Path, module: nn.Module, flags: list[str], asked: dict[str, object], expected: dict[str, np.ndarray]
) -> None:
    """Through the handler, and held against the declared signature; one row where the import saw one, and two."""
    model = imported(tmp_path, module, *(word for flag in flags for word in ("--input", flag)))
    answered = model.ask(**asked)
    assert list(answered) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(answered[name], value)


def test_an_example_names_the_keys_of_a_dict(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", right=X[:1], left=X[:1])
    model = imported(tmp_path, OfDict(), "--example", str(tmp_path / "rows.npz"), "--output", "both", "--output", "one")
    assert sorted(model.inputs) == ["left", "right"]
    np.testing.assert_array_equal(model.ask(left=X, right=2 * X)["both"], 3 * X)


class Scaled(nn.Module):
    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, power: float = 1.0
    ) -> Tensor:
        if scale is not None:
            x = x * scale
        if shift is not None:
            x = x + shift
        return x**power


class Masked(nn.Module):
    """TorchScript must be given the mask, and it may be None."""

    def forward(self, x: Tensor, mask: Tensor | None, scale: Tensor = torch.ones(1)) -> Tensor:  # noqa: B008
        return (x if mask is None else x * mask) * scale


class OfOptionalDict(nn.Module):
    def forward(self, x: Tensor, gain: Tensor, extra: dict[str, Tensor] | None = None) -> Tensor:
        made = x * gain
        return made if extra is None else made + extra["bias"]


def test_optional_arguments_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by itself and both: what stands behind a gap goes by its name."""
    flags = ["--input", "x:FP32:-1,2", "--input", "scale:FP32:1", "--input", "shift:FP32:1"]
    model = imported(tmp_path, Scaled(), *flags)
    assert {one["name"]: one.get("optional", False) for one in model.signature["inputs"]} == {
        "x": False,
        "scale": True,
        "shift": True,
    }
    assert "note: requests may leave out scale" in capsys.readouterr().out
    three = np.float32([3])
    for given, expected in (
        ({}, X),
        ({"scale": three}, X * 3),
        ({"shift": three}, X + 3),
        ({"shift": three, "scale": three}, X * 3 + 3),
    ):
        np.testing.assert_array_equal(model.ask(x=X, **given)["output"], expected)
    with pytest.raises(InvalidArgument, match=r"\['scale', 'shift'\] can be left out; got \['scale'\]"):
        model.ask(scale=three)


def test_inputs_for_all_arguments_may_have_any_names_in_their_order(tmp_path: Path) -> None:
    flags = ["--input", "image:FP32:-1,2", "--input", "factor:FP32:1", "--input", "bias:FP32:1"]
    model = imported(tmp_path, Scaled(), *flags)
    assert [one.get("optional", False) for one in model.signature["inputs"]] == [False, True, True]
    np.testing.assert_array_equal(model.ask(image=X, bias=np.float32([3]))["output"], X + 3)


def test_an_optional_argument_that_no_flag_names_keeps_its_default_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = imported(tmp_path, Scaled(), "--input", "image:FP32:-1,2")
    said = capsys.readouterr().out
    assert "note: scale: Optional[Tensor] keeps its default; --input scale:DATATYPE:SHAPE beside the others" in said
    np.testing.assert_array_equal(model.ask(image=X)["output"], X)


def test_what_may_be_none_is_none_where_it_is_left_out(tmp_path: Path) -> None:
    """Also before an argument that has a tensor for its default."""
    flags = ["--input", "x:FP32:-1,2", "--input", "mask:FP32:-1,2", "--input", "scale:FP32:1"]
    model = imported(tmp_path, Masked(), *flags)
    np.testing.assert_array_equal(model.ask(x=X)["output"], X)
    np.testing.assert_array_equal(model.ask(x=X, mask=0 * X)["output"], 0 * X)
    np.testing.assert_array_equal(model.ask(x=X, scale=np.float32([2]))["output"], 2 * X)
    assert imported(tmp_path, Masked(), "--input", "x:FP32:-1,2").inputs == {"x": [-1, 2]}


def test_the_keys_of_an_optional_dict_can_be_left_out(tmp_path: Path) -> None:
    flags = ["--input", "x:FP32:-1,2", "--input", "gain:FP32:1", "--input", "extra.bias:FP32:1"]
    model = imported(tmp_path, OfOptionalDict(), *flags)
    two = np.float32([2])
    np.testing.assert_array_equal(model.ask(x=X, gain=two)["output"], 2 * X)
    np.testing.assert_array_equal(model.ask(**{"x": X, "gain": two, "extra.bias": two})["output"], 2 * X + 2)


class OfOptionalList(nn.Module):
    """TorchScript must be given the pages, and they may be None."""

    def forward(self, x: Tensor, pages: list[Tensor] | None) -> Tensor:
        if pages is not None:
            for page in pages:
                x = x + page
        return x


def test_a_list_that_may_be_none_is_none_or_what_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(tmp_path, OfOptionalList(), "--input", "x:FP32:-1,2").ask(x=X)["output"].tolist() == X.tolist()
    assert "note: pages: Optional[List[Tensor]] is None; --input pages.0:DATATYPE:SHAPE" in capsys.readouterr().out
    flags = [f"--input={name}:FP32:-1,2" for name in ("x", "pages.0", "pages.1")]
    model = imported(tmp_path, OfOptionalList(), *flags)
    for given, expected in (([], X), (["pages.0"], 2 * X), (["pages.0", "pages.1"], 3 * X)):
        np.testing.assert_array_equal(model.ask(x=X, **dict.fromkeys(given, X))["output"], expected)


class Needs(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is not None, "a mask, please"
        return x * mask


def test_an_optional_argument_without_which_the_model_fails_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = imported(tmp_path, Needs(), "--input", "x:FP32:-1,2", "--input", "mask:FP32:-1,2")
    assert "note: mask must be given: the model fails without it" in capsys.readouterr().out
    assert not any(one.get("optional") for one in model.signature["inputs"])


class Attends(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return x, None if mask is None else mask * 2


class Sometimes(nn.Module):
    """No import sees a request with a nine."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = {"same": x}
        if bool((x == 9).any()):
            found["nine"] = x
        if bool((x == 8).any()):
            found.clear()
        return found


class Counted(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, x.size(0)


class OfListOfLists(nn.Module):
    def forward(self, x: list[list[Tensor]]) -> Tensor:
        return x[0][0]


class Clash(nn.Module):
    def forward(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        return {"a.b": {"c": x}, "a": {"b.c": x}}


class Unasked(nn.Module):
    def forward(self) -> Tensor:
        return torch.ones(1)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


REFUSED = {
    "now None": (Attends(), ["x:FP32:-1,2", "mask:FP32:-1,2"], "its result has result[1] in some calls and not"),
    "a number": (Counted(), ["x:FP32:-1,2"], "it returns int as result[1]; to be served its result must be made of"),
    "lists of lists": (OfListOfLists(), ["x:FP32:-1,2"], "its forward takes x: List[List[Tensor]], which is no tensor"),
    "one name twice": (
        Clash(),
        ["x:FP32:-1,2"],
        "two of its outputs would have one name (a.b.c, a.b.c): give --output",
    ),
    "no arguments": (Unasked(), [], "its forward takes no tensors, and a request has one at least"),
    "nothing": (Nothing(), ["x:FP32:-1,2"], "it returns None, in which there is no tensor"),
    "a stray": (Scaled(), ["x:FP32:-1,2", "scael:FP32:1"], "scale may be left out, and is an input where one is named"),
    "no keys": (OfDictAndMore(), ["x:FP32:-1,2", "a:FP32:1"], "each key of extra is an input named extra.KEY"),
    "no question": (OfDictAndMore(), [], "--input x:DATATYPE:SHAPE --input extra.KEY:DATATYPE:SHAPE"),
    "texts for a tensor": (OfDict(), ["a:BYTES:-1"], "takes batch: Dict[str, Tensor], so --input a cannot be BYTES"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_says_why_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    module, flags, sentence = REFUSED[case]
    assert bring(tmp_path, module, *(word for flag in flags for word in ("--input", flag))) == 1
    complaint = capsys.readouterr().err
    assert sentence in complaint
    assert complaint.count("\n") == 1


def test_an_answer_with_other_parts_than_at_import_is_an_error_that_names_them(tmp_path: Path) -> None:
    """Neither a part that is not promised is dropped, nor a promised one made up."""
    model = imported(tmp_path, Sometimes(), "--input", "x:FP32:-1,2")
    np.testing.assert_array_equal(model.ask(x=X)["same"], X)
    with pytest.raises(InvalidArgument, match=r"503: the model gave more than its signature tells .*'nine'"):
        model.ask(x=np.full((1, 2), 9, np.float32))
    with pytest.raises(InvalidArgument, match=r"503: the model gave no same for this request"):
        model.ask(x=np.full((1, 2), 8, np.float32))


PYTHON = """
import torch
from torch import Tensor, nn

class Base(nn.Module):
    def again(self, x):
        return {**{"x": x}}["x"]  # TorchScript reads no such display

class OfDict(Base):
    def forward(self, batch: dict[str, Tensor]):
        return {"sum": self.again(batch["left"]) + batch["right"]}

class OfList(Base):
    def forward(self, pages: list[Tensor]):
        return [self.again(page) for page in pages]

class OfOptional(Base):
    def forward(self, x, mask=None, scale=None, power=1.0):
        x = self.again(x) if mask is None else self.again(x) * mask
        return {"y": x if scale is None else x * scale}

class OfKeywords(Base):
    def forward(self, x, *, gain):
        return self.again(x) * gain

class OfAny(Base):
    def forward(self, *tensors):
        return self.again(tensors[0])

class Remembers(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        self.seen.add_(x.sum(0) * 0)
        return self.again(x) + self.seen

@torch.jit.script
def function(x: Tensor):
    return x + 1
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of modules that TorchScript cannot compile, so that they are traced."""
    monkeypatch.chdir(tmp_path)
    name = f"traced_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(PYTHON)
    return name


def of_python(nets: str, name: str, *flags: str) -> int:
    return main(
        ["import", f"{nets}:{name}", *(w for f in flags for w in ("--input", f)), "--out", "artifacts", "--force"]
    )


@pytest.mark.parametrize(
    ("name", "flags", "asked", "expected"),
    [
        ("OfDict", ["left:FP32:-1,2", "right:FP32:-1,2"], {"left": X, "right": 2 * X}, {"sum": 3 * X}),
        ("OfList", ["a:FP32:-1,2", "b:FP32:-1,2"], {"a": X, "b": 2 * X}, {"output_0": X, "output_1": 2 * X}),
        ("OfOptional", ["x:FP32:-1,2"], {"x": X}, {"y": X}),
        ("OfOptional", ["x:FP32:-1,2", "scale:FP32:1"], {"x": X, "scale": X[0, 1:]}, {"y": 2 * X}),
        ("OfOptional", ["x:FP32:-1,2", "mask:FP32:-1,2"], {"x": X, "mask": X}, {"y": X * X}),
    ],
)  # fmt: skip
def test_a_traced_module_takes_and_gives_the_same(
    nets: str, name: str, flags: list[str], asked: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    """A trace has no optional arguments: those that the user names are needed from then on."""
    assert of_python(nets, name, *flags) == 0
    answered = Imported(Path("artifacts") / "pytorch" / f"{name}-1.mar").ask(**asked)
    assert list(answered) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(answered[key], value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("OfAny", "its forward takes *tensors, and TorchScript needs to know each argument; put a module around it"),
        ("OfKeywords", "its forward takes gain by its name alone, and a trace takes arguments by their places"),
        ("Remembers", "its forward writes its attribute seen"),
        ("function", "is a scripted function; put it into the forward of a torch.nn.Module, or save it with"),
    ],
)
def test_a_module_that_cannot_be_served_says_why(
    nets: str, name: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert of_python(nets, name, "x:FP32:-1,2") == 1
    assert sentence in capsys.readouterr().err


def test_a_saved_function_is_served_as_a_module_is(tmp_path: Path) -> None:
    with torchscript():
        torch.jit.save(torch.jit.script(doubled), str(tmp_path / "own.pt"))
    assert (
        main(["import", str(tmp_path / "own.pt"), "--input", "x:FP32:-1,2", "--out", str(tmp_path / "artifacts")]) == 0
    )
    np.testing.assert_array_equal(Imported(tmp_path / "artifacts/pytorch/own-1.mar").ask(x=X)["output"], 2 * X)


def doubled(x: Tensor) -> Tensor:
    return x * 2

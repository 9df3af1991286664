"""The report: every figure in place, needing nothing but itself, and the same whenever the facts are the same."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from models.__main__ import main
from models.artifacts import Artifact, Store
from models.report import facts, page, picture, plot

Copied = Callable[[str], Store]
MODEL = "dense_classifier"
VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline"}


class Outline(HTMLParser):
    """Raises AssertionError at a tag that is not closed where it must be; keeps text, classes and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.classes: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "class":
                self.classes += (value or "").split()
            if name in ("src", "href"):
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def report(store: Store, *names: str) -> tuple[str, dict[str, Any]]:
    assert main(["report", *names, "--out", str(store.root)]) == 0
    folder = store.root / "report"
    return (folder / "report.html").read_text("utf-8"), json.loads((folder / "report.json").read_text("utf-8"))


def test_the_page_has_every_figure_and_asks_no_network(trained: Store) -> None:
    html, data = report(trained)
    outline = Outline(html)
    said = " ".join(outline.text)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in outline.addresses)
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html
    plots = re.findall(r'<svg class="plot".*?</svg>', html)
    assert len(plots) == len(data["models"])
    for drawn in plots:  # a line for each framework, or a dot after one epoch
        assert len(re.findall(r'class="(?:line )?(tensorflow|pytorch)"', drawn)) == 2
    for model in data["models"]:
        assert model["name"] in said
        assert model["samples"], model["name"]
        assert model["parity"]["2"]["difference"]["within_tolerance"]
        for record in model["versions"]["1"].values():
            assert record["seconds_per_epoch"] > 0
            assert f"{record['parameters']:,}" in said
    for name, version in data["libraries"].items():
        assert f"{name} {version}" in said
    assert "fails" not in said


def test_the_report_is_the_same_bytes_again(copied: Copied) -> None:
    store = copied(MODEL)
    report(store, MODEL)
    before = {path.name: path.read_bytes() for path in (store.root / "report").iterdir()}
    report(store, MODEL)
    assert {path.name: path.read_bytes() for path in (store.root / "report").iterdir()} == before


def test_the_samples_are_what_the_artifacts_answer(copied: Copied) -> None:
    _, data = report(copied(MODEL), MODEL)
    samples = data["models"][0]["samples"]
    assert len(samples) == 8
    right = sum(sample["answer"][framework] == sample["truth"] for sample in samples for framework in sample["answer"])
    assert right >= 12
    for sample in samples:
        assert np.shape(sample["pixels"]) == (8, 8)
        assert abs(sum(sample["scores"]["pytorch"]) - 1) < 1e-3


def test_a_model_that_is_not_trained_is_named_as_such(copied: Copied) -> None:
    html, data = report(copied(MODEL), "mlp")
    assert "not trained" in html
    assert data["models"][0]["versions"]["1"] == {"tensorflow": None, "pytorch": None}
    Outline(html)


def test_what_is_wrong_with_an_artifact_stands_in_the_page(copied: Copied) -> None:
    store = copied(MODEL)
    store.path(Artifact(MODEL, 1, "pytorch")).write_bytes(b"no archive")
    html, data = report(store, MODEL)
    assert f"{MODEL} 1 pytorch is not in" in html
    assert {"tensorflow"} == set(data["models"][0]["samples"][0]["answer"])


def test_what_comes_from_models_and_data_cannot_be_markup(copied: Copied) -> None:
    found = facts.collect(copied(MODEL), [])
    sample = {"kind": "text", "text": "<b>&", "truth": "<i>", "answer": {"pytorch": "<i>"}, "score": {"pytorch": 1.0}}
    assert "&lt;b&gt;&amp;" in page.shown([sample])
    assert "<i>" not in page.shown([sample])
    Outline(page.render(found))


def test_numbers_that_json_has_not_become_null() -> None:
    text = facts.as_json({"a": float("inf"), "b": [1.5, {"c": float("nan")}], "d": {}})
    assert json.loads(text) == {"a": None, "b": [1.5, {"c": None}], "d": {}}


def test_a_picture_is_a_png_with_ink_black() -> None:
    """PNG (3rd edition) 5.2 and 11.2: signature, then chunks of length, type, content, checksum."""
    content = picture.png(np.array([[0, 0.5, 1], [2, -1, np.nan]]))
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        assert int.from_bytes(content[place + 8 + size : place + 12 + size], "big") == zlib.crc32(kind + body)
        chunks[kind], place = body, place + 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[b"IHDR"] == bytes([0, 0, 0, 3, 0, 0, 0, 2, 8, 0, 0, 0, 0])
    assert zlib.decompress(chunks[b"IDAT"]) == bytes([0, 255, 128, 0, 0, 0, 255, 255])


def points(svg: str, name: str) -> list[tuple[float, float]]:
    (found,) = re.findall(rf'<polyline class="line {name}" points="([^"]+)"', svg)
    return [tuple(map(float, pair.split(","))) for pair in found.split()]  # type: ignore[misc]


@pytest.mark.parametrize("losses", [[3.0, 2.0, 1.0], [3.0, 0.1, 1e-6]], ids=["linear", "logarithmic"])
def test_a_falling_loss_is_a_falling_line_inside_the_plot(losses: list[float]) -> None:
    drawn = points(plot.curves({"pytorch": losses}, title="loss"), "pytorch")
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
    assert [y for _, y in drawn] == sorted(y for _, y in drawn)  # downwards in SVG
    assert all(plot.LEFT <= x <= plot.WIDTH and plot.TOP <= y <= plot.HEIGHT - plot.BOTTOM for x, y in drawn)


def test_values_of_many_sizes_get_a_logarithmic_axis() -> None:
    drawn = points(plot.curves({"pytorch": [1.0, 0.1, 0.01]}, title="loss"), "pytorch")
    first, second, third = (y for _, y in drawn)
    assert second - first == pytest.approx(third - second, abs=0.2)


@pytest.mark.parametrize("losses", [[0.5], [0.5, 0.5], [0.0, 0.0], [1.0, float("nan"), 2.0], [-1.0, 1.0]], ids=str)
def test_any_curve_can_be_drawn(losses: list[float]) -> None:
    Outline(plot.curves({"tensorflow": losses}, title='a "title" & more'))


def test_a_long_curve_keeps_its_ends_and_is_thinned_out() -> None:
    losses = [1000.0 - epoch for epoch in range(1000)]
    drawn = points(plot.curves({"pytorch": losses}, title="loss"), "pytorch")
    assert len(drawn) == plot.MOST_POINTS + 1
    assert (drawn[0][0], drawn[-1][0]) == (plot.LEFT, plot.WIDTH - plot.RIGHT)

"""That both frameworks find the same words in any text, and learn what the words mean."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from models import export, frameworks, sentences
from models.__main__ import main
from models.artifacts import Artifact, Store
from models.catalog import CATALOG
from models.datasets import DatasetUnavailableError
from models.spec import FRAMEWORKS, Array
from models.text_classifier import PAIR, PRIME, ROWS, SPREAD

SPEC = CATALOG["text_classifier"]
ODD_TEXTS = [
    "",
    " ",
    "not good",
    "NOT GOOD",
    "not  \t\n- good",
    "don't",
    "zero\0byte",
    "é",
    "É",
    "naïve café",
    "İstanbul ǅ ß",
    "不好看",
    "🙂🙃 good 👩‍👩‍👧",
    "a" * 10_000,
    "not good " * 1_111,
    "ж" * 10_000,
    "." * 10_000,
]


@pytest.fixture(params=FRAMEWORKS)
def ask(request: pytest.FixtureRequest, trained: Store, tmp_path: Path) -> Callable[[list[str]], Array]:
    """Version 2 as it lies on disk: texts -> probabilities [n, 2]."""
    path = export.framework_file(trained, Artifact(SPEC.name, 2, request.param), tmp_path)
    predict = frameworks.load(request.param).load_predictor(path, SPEC)
    return lambda texts: predict((sentences.as_texts(texts),))[0]


def rows_of(text: bytes) -> list[int]:
    """The documented recipe, in Python's own whole numbers."""
    small = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in text)
    is_letter = [chr(byte) in "abcdefghijklmnopqrstuvwxyz0123456789'" or byte >= 128 for byte in small]
    words = bytes(byte if letter else 32 for byte, letter in zip(small, is_letter, strict=True)).split(b" ")
    hashes = [
        sum(byte * pow(PRIME, place, 2**64) for place, byte in enumerate(word, start=1)) for word in words if word
    ]
    hashes += [first * PAIR + second for first, second in pairwise(hashes)]
    return [(number * SPREAD % 2**64 >> 32) % ROWS for number in hashes]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_words_and_pairs_take_the_rows_that_the_recipe_names(framework: str) -> None:
    """Each text apart and all in one batch: no word goes over from one text to the next."""
    weights = {weight.name: np.zeros(weight.shape, np.float32) for weight in SPEC.weights}
    numbers = np.random.default_rng(3).random(ROWS, dtype=np.float32)
    weights["embedding.weight"][:, 0] = numbers
    weights["hidden.weight"][0, 0] = 1
    weights["side.weight"][1, 0] = 1
    twin = frameworks.load(framework).twin(SPEC, weights)
    rows = [rows_of(text.encode()) for text in ODD_TEXTS]
    means = [float(numbers[row].astype(np.float64).mean()) if row else 0.0 for row in rows]
    (found,) = twin.predict((sentences.as_texts(ODD_TEXTS),))
    np.testing.assert_allclose(np.log(found[:, 1] / found[:, 0]), means, rtol=1e-4, atol=1e-5)


def test_odd_texts_are_answered_alone_as_among_others(ask: Callable[[list[str]], Array]) -> None:
    """Empty, of one word of 10,000 characters, of no word, in other scripts."""
    together = ask(ODD_TEXTS)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)
    for text, expected in zip(ODD_TEXTS, together, strict=True):
        np.testing.assert_allclose(ask([text])[0], expected, rtol=1e-4, atol=1e-5)


def test_capitals_and_punctuation_do_not_count(ask: Callable[[list[str]], Array]) -> None:
    answers = ask(["the film was not good", "The FILM was... not good!", "  the film, was not-good"])
    np.testing.assert_allclose(answers, answers[:1].repeat(3, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("the film was good", "positive"),
        ("the film was not good", "negative"),
        ("the film was not very good", "negative"),
        ("the film was terrible", "negative"),
        ("the film was not terrible", "positive"),
        ("i enjoyed the music", "positive"),
    ],
)
def test_a_negation_turns_the_answer(ask: Callable[[list[str]], Array], text: str, label: str) -> None:
    assert SPEC.shown(ask([text])[0].tolist()) == label


def test_no_sentence_to_train_on_is_of_a_template_that_is_held_out() -> None:
    data = sentences.made_up()
    assert not set(data.train.inputs[0]) & set(data.held_out.inputs[0])
    assert not [text for text in data.train.inputs[0] if "all in all" in text or "frankly" in text]
    assert [text for text in data.held_out.inputs[0] if "all in all" in text]


def test_both_sides_have_the_same_words() -> None:
    """Else a count of words would do without negation: each adjective stands in as many templates denied as not."""
    data = sentences.made_up().train
    good = np.array(["good" in text.split() for text in data.inputs[0]])
    assert 0.3 < data.targets[good].mean() < 0.9
    assert data.targets.mean() == 0.5


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    file = tmp_path / "reviews.tsv"
    lines = [f"nice {number}\tpositive\n\nsad\tor so {number}\t0\n" for number in range(10)]
    file.write_text("".join(lines), "utf-8")
    data = SPEC.data(f"file:{file}")
    assert (len(data.train), len(data.held_out)) == (16, 4)
    pairs = zip(data.held_out.inputs[0], data.held_out.targets, strict=True)
    assert {(text.split("\t")[0].split()[0], int(side)) for text, side in pairs} == {("nice", 1), ("sad", 0)}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"good\t1\nbad 0\n", "line 2 has no tab between sentence and label"),
        (b"good\t1\n\nbad\tno\n", "line 3 has the label 'no', not one of 0, 1, negative, positive"),
        (b"\xff\t1\n", "line 1 is not UTF-8"),
        (b"bad\n" * 5, "line 3 has no tab between sentence and label; and 2 more"),
        (b"good\t1\n" * 9, "give at least 5 sentences of each label"),
        (b"", "give at least 5 sentences of each label"),
    ],
    ids=["no tab", "label", "bytes", "many", "one side", "empty"],
)
def test_a_bad_file_says_which_line(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "reviews.tsv"
    file.write_bytes(content)
    with pytest.raises(DatasetUnavailableError) as caught:
        SPEC.data(f"file:{file}")
    assert str(caught.value).startswith(str(file))
    assert str(caught.value).endswith(sentence)


def test_a_model_of_a_file_of_ones_own_knows_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named from the folder that it lies in; version 2 finds the same file again for its measure."""
    monkeypatch.chdir(tmp_path)
    lines = [f"hip {number}\t1\nhop {number}\t0\n" for number in range(100)]
    Path("own.tsv").write_text("".join(lines), "utf-8")
    assert main(["train", "--data", "own.tsv", "--framework", "pytorch", "--epochs", "12", "--out", "made"]) == 0
    store = Store(tmp_path / "made")
    for version in SPEC.versions:
        record = store.record(Artifact(SPEC.name, version, "pytorch")) or {}
        assert record["dataset"] == f"file:{tmp_path.resolve() / 'own.tsv'}"
        assert record["accuracy"] == 1
    capsys.readouterr()
    Path("own.tsv").write_text("hip\thop\n", "utf-8")
    assert main(["train", "--data", "own.tsv", "--framework", "pytorch", "--force", "--out", "made"]) == 1
    assert capsys.readouterr().err.endswith(
        "own.tsv: line 1 has the label 'hop', not one of 0, 1, negative, positive\n"
    )


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailableError, match=r"cannot read .*none\.tsv: No such file or directory"):
        SPEC.data(f"file:{tmp_path / 'none.tsv'}")


def test_reviews_in_numbers_become_words_again() -> None:
    """Keras's numbering: 0 to 3 mean no word, and the most frequent word has the number 4."""
    numbers = np.empty(1, object)
    numbers[0] = [1, 4, 2, 5]
    split = sentences.as_reviews(numbers, np.array([1]), {"the": 1, "film": 2})
    assert split.inputs[0].tolist() == ["the film"]

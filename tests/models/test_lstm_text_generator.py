"""That a client can write text with it: step by step, with the state in its own hands, from either framework."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import export, frameworks, prose
from models.artifacts import Artifact, Store
from models.catalog import CATALOG
from models.frameworks import Predictor
from models.lstm_text_generator import HIDDEN
from models.spec import FRAMEWORKS, Array

SPEC = CATALOG["lstm_text_generator"]
PROMPT = "\nThe value of the expression"


def served(store: Store, framework: str, version: int, folder: Path) -> Predictor:
    path = export.framework_file(store, Artifact(SPEC.name, version, framework), folder)
    return frameworks.load(framework).load_predictor(path, SPEC)


def tokens(text: str) -> Array:
    return np.array([prose.encode(text)], np.int64)


def write(predict: Predictor, prompt: str, length: int) -> str:
    """The likeliest character each time, one call for each."""
    state = np.zeros((1, HIDDEN), np.float32)
    logits, hidden, cell = predict((tokens(prompt), state, state))
    text = prompt
    for _ in range(length):
        text += prose.decode([int(logits[0, -1].argmax())])
        logits, hidden, cell = predict((tokens(text[-1]), hidden, cell))
    return text[len(prompt) :]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_character_at_a_time_comes_to_what_all_at_once_do(trained: Store, framework: str, tmp_path: Path) -> None:
    """The state that goes out and in again is all that the model knows of the past."""
    predict = served(trained, framework, 1, tmp_path)
    state = np.zeros((1, HIDDEN), np.float32)
    whole, *after = predict((tokens(PROMPT), state, state))
    hidden = cell = state
    for place, character in enumerate(PROMPT):
        logits, hidden, cell = predict((tokens(character), hidden, cell))
        np.testing.assert_allclose(logits[:, 0], whole[:, place], rtol=1e-4, atol=1e-5)
    for one, other in zip((hidden, cell), after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_state_in_turn_makes_a_difference(trained: Store, tmp_path: Path) -> None:
    predict = served(trained, "pytorch", 1, tmp_path)
    zeros, ones = np.zeros((1, HIDDEN), np.float32), np.ones((1, HIDDEN), np.float32)
    plain = predict((tokens("a"), zeros, zeros))[0]
    for state in ((ones, zeros), (zeros, ones)):
        assert np.abs(predict((tokens("a"), *state))[0] - plain).max() > 1e-3


def test_twins_write_the_same_text(trained: Store, tmp_path: Path) -> None:
    texts = {write(served(trained, framework, 2, tmp_path), PROMPT, 60) for framework in FRAMEWORKS}
    assert len(texts) == 1


@pytest.mark.full
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_it_writes_is_made_of_english_words(trained_fully: Store, framework: str, tmp_path: Path) -> None:
    """Words of the prose that it was trained on, for the most part."""
    text = write(served(trained_fully, framework, 1, tmp_path), PROMPT, 200)
    known = set(prose.decode(prose.python_topics(HIDDEN).train.inputs[0].ravel()).split())
    words = text.split()[1:-1]
    assert len(words) > 20
    assert sum(word in known for word in words) >= 0.9 * len(words)


def test_every_character_has_a_token_of_its_own_and_an_unknown_one_is_named() -> None:
    assert prose.encode(prose.VOCABULARY) == list(range(78))
    assert prose.decode(prose.encode(PROMPT)) == PROMPT
    with pytest.raises(ValueError, match="knows no 'é'"):
        prose.encode("é")


def test_the_prose_has_no_code_and_no_paragraph_twice() -> None:
    texts = [
        "A heading\n*********",
        "Prose it is, and long enough to be told from a heading or a list of names.\n\n   x = 1",
    ]
    assert prose.paragraphs(texts * 2) == ["Prose it is, and long enough to be told from a heading or a list of names."]


def test_no_paragraph_is_on_both_sides_and_targets_are_one_character_on() -> None:
    data = prose.python_topics(4)
    train, held_out = (prose.decode(split.inputs[0].ravel()) for split in (data.train, data.held_out))
    assert not set(train.split("\n")[1:-1]) & set(held_out.split("\n")[1:-1])
    np.testing.assert_array_equal(data.train.inputs[0][:, 1:], data.train.targets[:, :-1])
    assert len(train) > 100_000


def test_a_shown_answer_is_the_likeliest_character_after_the_last() -> None:
    logits = np.zeros((2, 78))
    logits[0, 5], logits[1, prose.encode("T")[0]] = 9, 1
    assert SPEC.shown(logits.ravel().tolist()) == "'T'"
    assert SPEC.shown_answer() == "-"

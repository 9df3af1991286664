"""Sentences and whether they are favourable: made from templates, read from a file of one's own, or IMDB's reviews.

Texts are arrays of `str`, targets int64 [n]: 0 negative, 1 positive.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from models.datasets import DatasetUnavailableError, fetch, stratified_split
from models.spec import Array, Dataset, Split

LABELS = {"0": 0, "1": 1, "negative": 0, "positive": 1}
TRAIN_ROWS, HELD_OUT_ROWS = 8_000, 1_000
BAD_LINES_TOLD = 3
FEWEST_PER_LABEL = 5

SUBJECTS = """the film;this movie;the story;the plot;the acting;the music;the ending;the first half;the book;this place;
the food;the service;the room;the staff;the battery;the screen;the game;the show;the sound;everything about it"""
INTENSITIES = ";very ;really ;extremely ;so ;quite ;rather ;truly ;just ;pretty ;absolutely "
OPENINGS = """;;;;well, ;in my opinion ;to tell the truth, ;at first sight ;last week ;after all that talk ;this time ;
as always ;if you ask me, ;on the whole ;we went there and """
CLOSINGS = (
    ";;;; for what it is; this year; as a friend of mine said; to be fair; if i remember well; from start to finish"
)
# Words of the same place in the two lists mean the opposite of each other, and appear as often.
ADJECTIVES = (
    """bad;terrible;awful;horrible;boring;dull;disappointing;poor;ugly;weak;annoying;dreadful;tedious;unpleasant;
useless;mediocre;clumsy;forgettable;unbearable;sloppy""",
    """good;great;excellent;wonderful;exciting;brilliant;satisfying;superb;beautiful;strong;charming;fantastic;gripping;
pleasant;useful;outstanding;elegant;memorable;delightful;impressive""",
)
VERBS = ("hated;disliked;regretted;despised;could not stand", "loved;liked;enjoyed;adored;was happy with")
ADVERBS = ("badly;poorly;terribly;miserably", "well;nicely;beautifully;perfectly")

# {adjective}, {verb} and {adverb} are of the sentence's own side; {opposite} is an adjective of the other side, and
# stands only where the sentence denies it. Every fourth template is kept for the held-out rows.
TEMPLATES = """{subject} was {very}{adjective}
i thought {subject} was {very}{adjective}
{subject} is {very}{adjective}
in the end {subject} was {very}{adjective} indeed
{subject} was not {very}{opposite}
i did not find {subject} {very}{opposite}
{subject} is not {very}{opposite}
honestly, {subject} was not {very}{opposite} at all
i {verb} {subject}
my friends and i {verb} {subject}
we {verb} it, and {subject} was {very}{adjective}
my whole family {verb} {subject}
{subject} was never {opposite}
i never found {subject} {very}{opposite}
{subject} was never {very}{opposite}, and i {verb} it
for me {subject} was never {very}{opposite}
{subject} turned out {very}{adjective}
{subject} was done {adverb}
what {a} {adjective} surprise: i {verb} {subject}
all in all {subject} turned out {very}{adjective}
{subject} was {very}{adjective} and {very}{adjective}
{subject} was {very}{adjective}, not {opposite}
{subject} was not {opposite} but {very}{adjective}
i can say that {subject} was {very}{adjective}, not {very}{opposite}
nobody would call {subject} {opposite}
you cannot say that {subject} was {very}{opposite}
it was {adverb} made, and i {verb} it
you would not call {subject} {very}{opposite}
{subject} is hardly {opposite}
hardly {opposite}: {subject} was {adverb} made
{subject} was hardly {very}{opposite}
as for me, {subject} was hardly {opposite}
{subject} isn't {opposite}
it wasn't {very}{opposite}, it was {adjective}
{subject} wasn't {very}{opposite}
frankly {subject} wasn't {opposite}, i {verb} it""".splitlines()


@cache
def made_up() -> Dataset:
    """Sentences with negation and intensity. Held out: templates that no row to train on is made from."""
    held_out = TEMPLATES[3::4]
    train = [template for template in TEMPLATES if template not in held_out]
    return Dataset("sentences", fill(train, TRAIN_ROWS, seed=1), fill(held_out, HELD_OUT_ROWS, seed=2))


def fill(templates: list[str], rows: int, seed: int) -> Split:
    """Half of the rows negative, half positive, each of a template drawn with the same chance."""
    random = np.random.default_rng(seed)
    sides = np.arange(rows, dtype=np.int64) % 2
    texts = [sentence(str(random.choice(templates)), int(side), random) for side in sides]
    return Split((as_texts(texts),), sides)


def sentence(template: str, side: int, random: np.random.Generator) -> str:
    template = "{opening}" + template + "{closing}"
    words = {
        "{opening}": OPENINGS,
        "{closing}": CLOSINGS,
        "{subject}": SUBJECTS,
        "{very}": INTENSITIES,
        "{adjective}": ADJECTIVES[side],
        "{opposite}": ADJECTIVES[1 - side],
        "{verb}": VERBS[side],
        "{adverb}": ADVERBS[side],
    }
    for slot, choices in words.items():
        while slot in template:
            template = template.replace(slot, str(random.choice(choices.replace("\n", "").split(";"))), 1)
    before, article, after = template.partition("{a}")
    return before + ("an" if after.lstrip()[:1] in tuple("aeiou") else "a") + after if article else template


def from_file(path: Path) -> Dataset:
    """A UTF-8 file of lines `sentence<TAB>label`, the label 0, 1, negative or positive; empty lines do not count.

    A fifth of each label is held out. Raises DatasetUnavailableError, which names the lines that are not of this form.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DatasetUnavailableError(f"cannot read {path}: {error.strerror}") from error
    texts, sides, bad = [], [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text, side = parse_line(line)
        except ValueError as error:
            bad.append(f"line {number} {error}")
        else:
            texts.append(text)
            sides.append(side)
    if bad:
        more = f"; and {len(bad) - BAD_LINES_TOLD} more" if len(bad) > BAD_LINES_TOLD else ""
        raise DatasetUnavailableError(f"{path}: {'; '.join(bad[:BAD_LINES_TOLD])}{more}")
    if min(sides.count(0), sides.count(1)) < FEWEST_PER_LABEL:
        raise DatasetUnavailableError(f"{path}: give at least {FEWEST_PER_LABEL} sentences of each label")
    return stratified_split(str(path), as_texts(texts), np.array(sides, np.int64))


def parse_line(line: bytes) -> tuple[str, int]:
    """Raises ValueError that says what the line has."""
    try:
        text, tab, label = line.decode().rpartition("\t")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if not tab:
        raise ValueError("has no tab between sentence and label")
    if label.strip().lower() not in LABELS:
        raise ValueError(f"has the label {label.strip()!r}, not one of {', '.join(LABELS)}")
    return text, LABELS[label.strip().lower()]


@cache
def imdb() -> Dataset:
    """IMDB's 25,000 reviews to train on and 25,000 held out, as Keras's loader fetches them: words without punctuation.

    Raises DatasetUnavailableError without a network.
    """
    (train, train_sides), (test, test_sides) = fetch("imdb", "IMDB's reviews", "sentences")
    words = fetch("imdb", "IMDB's words", "sentences", "get_word_index")
    return Dataset("imdb", as_reviews(train, train_sides, words), as_reviews(test, test_sides, words))


def as_reviews(reviews: Array, sides: Array, words: dict[str, int]) -> Split:
    """Keras numbers the words from 4 on; 1 begins a review, and 2 stands for a word that was left out."""
    by_number = {number + 3: word for word, number in words.items()}
    texts = [" ".join(by_number[number] for number in review if number in by_number) for review in reviews]
    return Split((as_texts(texts),), sides.astype(np.int64))


def as_texts(texts: list[str]) -> Array:
    array = np.empty(len(texts), object)
    array[:] = texts
    return array

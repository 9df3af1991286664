"""Whether an import may tell its servers that rows are independent: the user's word, else the graph; then a trial."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from models.importing.candidate import Answer, Candidate, last_line
from models.importing.independence.finding import Finding, Rows
from models.importing.independence.trial import Predict, refute
from models.importing.request import ImportRefusedError
from models.spec import Array, TensorSpec

log = logging.getLogger(__name__)

Analyse = Callable[[], Finding]
USERS_WORD = "as --rows says"


def conclude(
    found: Candidate, outputs: Sequence[TensorSpec], one: tuple[Array, ...], word: Rows | None, analyse: Analyse
) -> Finding:
    """What `signature.json` will say. `word` is the user's own, in place of `analyse`.

    Raises ImportRefusedError where the user says `independent` and a trial shows that they are not.
    """
    fixed = without_rows(found.inputs, outputs)
    if word == "independent":
        difference = fixed or refuted(found, outputs, one)
        if difference:
            raise ImportRefusedError(f"--rows independent is not so: {difference}; leave it out, or mend the model")
        return Finding("independent", f"{USERS_WORD}, and a trial found no difference")
    if word is not None:
        return Finding(word, USERS_WORD)
    if fixed:
        return Finding("unknown", fixed)
    finding = analysed(analyse)
    if finding.rows == "dependent":
        return finding
    difference = refuted(found, outputs, one)
    return Finding("dependent", difference) if difference else finding


def without_rows(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Why there is nothing to join; empty where there may be."""
    if not inputs:
        return "it has no inputs"
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if spec.shape[:1] != (-1,):
                return f"{kind} {spec.name} has no free first dimension"
    return ""


def refuted(found: Candidate, outputs: Sequence[TensorSpec], one: tuple[Array, ...]) -> str:
    """With all inputs, then without those that may be left out: a model may do something else where they are not."""
    names = [spec.name for spec in outputs]
    for kept in dict.fromkeys((every(found), every(found, optional=False))):
        inputs = [found.inputs[place] for place in kept]
        if inputs and (difference := refute(asked_with(found, kept), inputs, names, tuple(one[at] for at in kept))):
            return difference.sentence
    return ""


def every(found: Candidate, *, optional: bool = True) -> tuple[int, ...]:
    return tuple(place for place, spec in enumerate(found.inputs) if optional or not spec.optional)


def asked_with(found: Candidate, kept: Sequence[int]) -> Predict:
    """The model, asked with these of its inputs alone."""

    def predict(arrays: tuple[Array, ...]) -> Sequence[Answer]:
        given = dict(zip(kept, arrays, strict=True))
        return found.predict(tuple(given.get(place) for place in range(len(found.inputs))))

    return predict


def analysed(analyse: Analyse) -> Finding:
    """An analysis that fails proves nothing, and stops no import."""
    try:
        return analyse()
    except Exception as error:
        log.debug("the analysis failed", exc_info=True)
        return Finding("unknown", f"the analysis failed: {type(error).__name__}: {last_line(error)}")


def told(finding: Finding, *, joinable: bool) -> str:
    """One line for people."""
    line = f"rows: {finding.rows} ({finding.reason})"
    if finding.rows == "independent":
        return f"{line}; requests of several callers may share one call"
    if finding.rows == "unknown" and joinable:
        return (
            f"{line}; the gateway will ask each request alone; if you know that rows are independent, import again "
            "with --rows independent"
        )
    return f"{line}; the gateway will ask each request alone"

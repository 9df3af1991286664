"""Text from `lstm_text_generator`, a character a call: the client keeps the state and hands it back with each request.

The model takes characters' numbers and the state, and gives logits of the character after each, and the new state. Any
client can do this: it is plain Open Inference Protocol (`fronts.py`), and needs no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.catalog import select
from models.spec import ModelSpec

MODEL = "lstm_text_generator"
PROMPT = "The "
PARAGRAPH = "\n"
"""What the model has seen before each paragraph."""
LENGTH, REPORT_LENGTH = 300, 300
TEMPERATURE = 0.5
"""Below 1 likely characters become likelier: fewer invented words."""
SEED = 0

Step = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""One request: nested lists by input name in, nested lists by output name out."""


class GenerationError(RuntimeError):
    """The prompt cannot be written in the model's characters."""


def write(step: Step, prompt: str = PROMPT, length: int = LENGTH, **chances: Any) -> str:
    """The prompt and `length` characters after it. Raises GenerationError."""
    return prompt + "".join(continued(step, prompt, length, **chances))


def continued(
    step: Step, prompt: str, length: int, *, temperature: float = TEMPERATURE, seed: int = SEED
) -> Iterator[str]:
    """The characters after the prompt, the same for the same seed. Raises GenerationError."""
    (spec,) = select([MODEL])
    random = np.random.default_rng(seed)
    state = at_rest(spec)
    if not prompt:
        raise GenerationError("give a prompt of one character at least, as the model continues it")
    numbers = [number_of(spec, character) for character in PARAGRAPH + prompt]
    logits, state = advance(spec, step, numbers, at_rest(spec))
    for _ in range(length):
        choice = draw(logits, temperature, random)
        yield spec.labels[choice]
        logits, state = advance(spec, step, [choice], state)


def at_rest(spec: ModelSpec) -> dict[str, Any]:
    """The state before the first character: zeros, by input name."""
    return {tensor.name: np.zeros([max(1, size) for size in tensor.shape]).tolist() for tensor in spec.inputs[1:]}


def advance(
    spec: ModelSpec, step: Step, numbers: list[int], state: Mapping[str, Any]
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Logits of the next character, and the new state: outputs after the first, in the order of the state's inputs."""
    answer = step({spec.inputs[0].name: [numbers], **state})
    logits, *new_state = (answer[output.name] for output in spec.outputs)
    names = (tensor.name for tensor in spec.inputs[1:])
    return np.ravel(logits)[-len(spec.labels) :], dict(zip(names, new_state, strict=True))


def number_of(spec: ModelSpec, character: str) -> int:
    if character not in spec.labels:
        known = "".join(spec.labels).replace("\n", "")
        raise GenerationError(f"the model does not know the character {character!r}; it knows {known}")
    return spec.labels.index(character)


def draw(logits: NDArray[Any], temperature: float, random: np.random.Generator) -> int:
    grown = np.exp((logits - np.max(logits)) / temperature)
    return int(random.choice(len(grown), p=grown / grown.sum()))

"""PyTorch: trains the twin, exports it as TorchScript."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.spec import Adversary, Array, Hyperparameters, Loss, ModelSpec, Split
from models.weights import Weights, check, check_all, draw_all

torch.use_deterministic_algorithms(True)
# These models are too small to share out: a second thread gains nothing on idle cores, and on busy ones the two wait
# for each other so long that an epoch takes 5 to 40 times as many seconds. Results do not depend on the cores either.
torch.set_num_threads(int(os.environ.get("DUET_TORCH_THREADS", "1")))

SMALLEST_PROBABILITY = 1e-7


def twin(spec: ModelSpec, weights: Weights) -> PyTorchTwin:
    return PyTorchTwin(spec, weights)


def libraries() -> dict[str, str]:
    return {"torch": torch.__version__}


class PyTorchTwin:
    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self._module = spec.pytorch()
        check(spec, weights)
        check(spec, canonical(self._module))
        load(self._module, weights)
        learner = Learner(self._module, spec.hyperparameters)
        self._objective = Contest(learner, spec.adversary) if spec.adversary else Imitation(learner)

    def weights(self) -> Weights:
        return canonical(self._module)

    def step(self, batch: Split) -> float:
        self._module.train()
        return self._objective.step(batch)

    def predict(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return run(self._module.eval(), inputs)

    def save(self, path: Path) -> None:
        # Scripted, not traced: a trace keeps the example's sizes wherever Python looked at them. Not frozen either, so
        # that the weights can be read back from the artifact by their names.
        buffer = io.BytesIO()
        with torchscript():
            torch.jit.save(torch.jit.script(self._module.eval()), buffer)
        path.write_bytes(buffer.getvalue())


class Learner:
    """A module and its own optimizer."""

    def __init__(self, module: nn.Module, settings: Hyperparameters) -> None:
        self.module = module
        self.settings = settings
        self._optimizer = optimizer(module, settings)
        self._steps = 0

    def update(self, loss: Tensor) -> float:
        """One step against the gradient of `loss`; its value."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._steps += 1
        for group in self._optimizer.param_groups:
            group.update(epsilon_after_correction(self.settings, self._steps))
        self._optimizer.step()
        return float(loss.detach())


class Imitation:
    """The first output is to be the target."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._loss = LOSSES[learner.settings.loss]

    def step(self, batch: Split) -> float:
        outputs = call(self._learner.module, batch.inputs)
        return self._learner.update(self._loss(outputs[0], torch.from_numpy(batch.targets)))


class Contest:
    """The first output is to be taken for a target by the adversary, which learns first."""

    def __init__(self, learner: Learner, adversary: Adversary) -> None:
        self._learner = learner
        self._trust = adversary.trust
        module = adversary.pytorch()
        check_all("the adversary", adversary.weights, canonical(module))
        load(module, draw_all(adversary.weights, adversary.seed))
        self._judge = Learner(module, learner.settings)

    def step(self, batch: Split) -> float:
        made = call(self._learner.module, batch.inputs)[0]
        judge = self._judge.module
        of_real = taken_for(judge(torch.from_numpy(batch.targets)), self._trust)
        self._judge.update(of_real + taken_for(judge(made.detach()), 0.0))
        return self._learner.update(taken_for(judge(made), 1.0))


def taken_for(logits: Tensor, truth: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))


def load(module: nn.Module, weights: Weights) -> None:
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})


def load_weights(path: Path) -> Weights:
    with torchscript():
        return canonical(torch.jit.load(str(path)))  # type: ignore[no-untyped-call]


def load_predictor(path: Path, spec: ModelSpec) -> Callable[[tuple[Array, ...]], tuple[Array, ...]]:
    with torchscript():
        module: nn.Module = torch.jit.load(str(path)).eval()  # type: ignore[no-untyped-call]
    return lambda inputs: run(module, inputs)


def run(module: nn.Module, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    with torch.inference_mode():
        return tuple(output.numpy() for output in call(module, inputs))


def call(module: nn.Module, inputs: tuple[Array, ...]) -> tuple[Tensor, ...]:
    outputs = module(*map(as_argument, inputs))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def as_argument(array: Array) -> Tensor | list[str]:
    """Texts, an array of `str` or of UTF-8 `bytes`, become the flat list that TorchScript takes for them."""
    if array.dtype.kind not in "OSU":
        return torch.from_numpy(array)
    return [text.decode() if isinstance(text, bytes) else text for text in array.reshape(-1).tolist()]


def canonical(module: nn.Module) -> Weights:
    # PyTorch's batch normalisation also counts its batches, which nothing reads once the momentum is given.
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def optimizer(module: nn.Module, settings: Hyperparameters) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), lr=settings.learning_rate)
    betas = (settings.beta_1, settings.beta_2)
    return torch.optim.Adam(module.parameters(), lr=settings.learning_rate, betas=betas)


def epsilon_after_correction(settings: Hyperparameters, step: int) -> dict[str, float]:
    """PyTorch's `eps` that at this step, counted from 1, does what Keras's `epsilon` does; SGD has none.

    lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon), its right side multiplied out as PyTorch writes it.
    """
    if settings.optimizer != "adam":
        return {}
    return {"eps": settings.epsilon / math.sqrt(1 - settings.beta_2**step)}


def cross_entropy_of_probabilities(probabilities: Tensor, targets: Tensor) -> Tensor:
    return functional.nll_loss(torch.log(probabilities.clamp_min(SMALLEST_PROBABILITY)), targets)


def cross_entropy_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def binary_cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    kept = probabilities.clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -torch.mean(targets * torch.log(kept) + (1 - targets) * torch.log(1 - kept))


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_squared_error": functional.mse_loss,
    "binary_cross_entropy": binary_cross_entropy,
    "cross_entropy_of_logits": cross_entropy_of_logits,
    "cross_entropy_of_probabilities": cross_entropy_of_probabilities,
}


@contextmanager
def torchscript() -> Iterator[None]:
    """PyTorch 2.13 deprecates TorchScript, which is the form that TorchServe loads without the model's Python code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield

"""What a `train` has to do, decided from what is there before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.artifacts import TO_REPACK, Artifact, State, Store
from models.spec import NATIVE, TRANSPLANTED, ModelSpec, UnknownNameError
from models.training import Settings

DEFAULT_SEED = 0


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; None leaves it to the model, and lets any artifact do that is there."""

    dataset: str | None = None
    epochs: int | None = None
    seed: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """`train` natively, `transplant` PyTorch's version 1, or `repack` with today's handler and signature."""

    action: Literal["train", "transplant", "repack"]
    artifact: Artifact


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order in which each finds what it needs; what is `blocked` needs PyTorch's version 1 first."""

    steps: list[Step]
    blocked: list[Artifact]


def decide(store: Store, specs: Sequence[ModelSpec], frameworks: Sequence[str], options: Options) -> Plan:
    plan = Plan([], [])
    for spec in specs:
        natives = [Artifact(spec.name, NATIVE, framework) for framework in frameworks]
        natives.sort(key=lambda artifact: artifact.framework != "pytorch")
        training = {artifact for artifact in natives if must_train(store, artifact, options)}
        source = Artifact(spec.name, NATIVE, "pytorch")
        for artifact in natives:
            append(plan, store, artifact, "train" if artifact in training else None)
        for framework in frameworks:
            artifact = Artifact(spec.name, TRANSPLANTED, framework)
            if source not in training and store.state(source) in (State.MISSING, State.OUTDATED):
                plan.blocked.append(artifact)
            else:
                stale = source in training or store.state(artifact) in (State.MISSING, State.OUTDATED)
                append(plan, store, artifact, "transplant" if stale else None)
    return plan


def append(plan: Plan, store: Store, artifact: Artifact, action: Literal["train", "transplant"] | None) -> None:
    if action:
        plan.steps.append(Step(action, artifact))
    elif store.state(artifact) in TO_REPACK:
        plan.steps.append(Step("repack", artifact))


def must_train(store: Store, artifact: Artifact, options: Options) -> bool:
    """Also where an artifact is there, but of another dataset, seed or number of epochs than the user asks for now."""
    if options.force or store.state(artifact) in (State.MISSING, State.OUTDATED):
        return True
    record = store.record(artifact) or {}
    asked = {"dataset": options.dataset, "epochs": options.epochs, "seed": options.seed}
    return any(value is not None and record.get(key) != value for key, value in asked.items())


def settings(spec: ModelSpec, options: Options) -> Settings:
    return Settings(
        dataset=options.dataset or spec.default_dataset,
        epochs=options.epochs or spec.hyperparameters.epochs,
        seed=DEFAULT_SEED if options.seed is None else options.seed,
    )


def with_dataset(specs: Sequence[ModelSpec], dataset: str | None, *, named: bool) -> list[ModelSpec]:
    """The models that can be trained on `dataset`. If the user `named` them, all must be. Raises UnknownNameError."""
    able = [spec for spec in specs if dataset is None or dataset in spec.datasets or spec.reads_file(dataset)]
    unable = [spec for spec in specs if spec not in able]
    if not able or (named and unable):
        offers = "; ".join(f"{spec.name}: {', '.join(spec.datasets)}" for spec in unable)
        raise UnknownNameError(f"no dataset {dataset} for this; there are {offers}")
    return able

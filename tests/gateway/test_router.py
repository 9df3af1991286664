from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from gateway.core.modelref import ModelRef
from gateway.errors import DuetError, InvalidArgument, NotFound, Unavailable
from gateway.registry import Registry
from gateway.router import Router, Rule
from gateway.types import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Signature,
    Tensor,
    TensorSpec,
    VersionMetadata,
)

pytestmark = pytest.mark.anyio

SPEC = TensorSpec("x", "FP32", (-1,))
X = Tensor("x", "FP32", np.ones(1, np.float32))


class Doubler:
    """A member of the family: a Backend with versions 1 and 2 of each model, of which 2 is still loading."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.fails_with: DuetError | None = None
        self.asked = 0

    async def infer(self, request: InferRequest) -> InferResponse:
        if self.fails_with:
            raise self.fails_with
        assert request.version is not None
        return InferResponse(request.model, self.variant, request.version, request.inputs)

    async def metadata(self, model: str) -> ModelMetadata:
        self.asked += 1
        if model == "gone":
            raise Unavailable("it is gone")
        versions = {
            1: VersionMetadata(1, ready=True, signatures={"serving_default": Signature((SPEC,), (SPEC,))}),
            2: VersionMetadata(2, ready=False, reason="LOADING"),
        }
        return ModelMetadata(model, self.variant, "test", versions, 1)

    async def models(self) -> None:
        return None

    async def aclose(self) -> None:
        pass


async def ask(router: Router, ref: ModelRef, inputs: tuple[Tensor, ...] = (X,), *outputs: str) -> InferResponse:
    """As a front does: resolved once, then sent."""
    return await router.infer(router.resolve(ref).request(inputs, outputs))


@asynccontextmanager
async def routing() -> AsyncIterator[tuple[Router, dict[str, Doubler]]]:
    servers = {name: Doubler(name) for name in ("tensorflow", "pytorch")}
    variants = {"m": ("tensorflow", "pytorch"), "half": ("pytorch",), "gone": ("pytorch",)}
    registry = Registry(servers=servers, variants=variants, refresh_seconds=60)
    rules = {"m": Rule("tensorflow"), "half": Rule("pytorch"), "gone": Rule("pytorch")}
    registry.start()
    for _ in range(10):
        await asyncio.sleep(0)
    yield Router(registry=registry, backends=servers, rules=rules), servers
    await registry.aclose()


async def test_a_model_goes_to_its_default_and_a_pin_elsewhere() -> None:
    async with routing() as (router, _):
        assert (await ask(router, ModelRef("m"))).variant == "tensorflow"
        assert (await ask(router, ModelRef("m", "pytorch"))).variant == "pytorch"


async def test_the_version_is_resolved_before_the_server_is_called() -> None:
    async with routing() as (router, _):
        assert (await ask(router, ModelRef("m"))).version == 1


@pytest.mark.parametrize(
    ("ref", "inputs", "error", "says"),
    [
        (ModelRef("nope"), (X,), NotFound, "unknown model 'nope'; the models are gone, half, m"),
        (ModelRef("half", "tensorflow"), (X,), NotFound, "no variant 'tensorflow'; it has pytorch"),
        (ModelRef("m", "jax"), (X,), NotFound, "no variant 'jax'; it has pytorch, tensorflow"),
        (ModelRef("m", version=9), (X,), NotFound, "m@tensorflow has no version 9; its versions are 1, 2"),
        (ModelRef("m", version=2), (X,), Unavailable, "m@tensorflow is not ready: LOADING"),
        (ModelRef("gone"), (X,), Unavailable, "gone@pytorch is not ready: it is gone"),
        (ModelRef("m"), (), InvalidArgument, "missing: 'x'"),
    ],
)
async def test_what_cannot_be_served_never_reaches_a_server(
    ref: ModelRef, inputs: tuple[Tensor, ...], error: type[DuetError], says: str
) -> None:
    async with routing() as (router, servers):
        for server in servers.values():
            server.fails_with = DuetError("called")
        with pytest.raises(error, match=says):
            await ask(router, ref, inputs)


async def test_a_failure_says_who_it_was_meant_for() -> None:
    async with routing() as (router, servers):
        servers["pytorch"].fails_with = Unavailable("dead")
        with pytest.raises(Unavailable) as caught:
            await ask(router, ModelRef("m", "pytorch"))
        assert caught.value.target is not None
        assert (caught.value.target.variant, caught.value.target.version) == ("pytorch", 1)


async def test_a_server_that_failed_is_asked_again_at_once() -> None:
    async with routing() as (router, servers):
        servers["pytorch"].fails_with = Unavailable("dead")
        before = servers["pytorch"].asked
        with pytest.raises(Unavailable):
            await ask(router, ModelRef("half"))
        await asyncio.sleep(0.3)
        assert servers["pytorch"].asked > before


class Named(Doubler):
    """Two outputs in the order given, as a server that has one tells them, or by name as TensorFlow Serving does."""

    def __init__(self, variant: str, *names: str, ordered: bool) -> None:
        super().__init__(variant)
        self.names, self.ordered = names, ordered

    async def infer(self, request: InferRequest) -> InferResponse:
        found = tuple(Tensor(name, "FP32", X.data) for name in self.names if name in (request.outputs or self.names))
        return InferResponse(request.model, self.variant, 1, found)

    async def metadata(self, model: str) -> ModelMetadata:
        if self.fails_with:
            raise self.fails_with
        specs = tuple(TensorSpec(name, "FP32", (-1,)) for name in self.names)
        signatures = {"serving_default": Signature((SPEC,), specs, ordered=self.ordered)}
        return ModelMetadata(model, self.variant, "test", {1: VersionMetadata(1, True, signatures)}, 1)


async def test_twins_answer_in_one_order_which_is_the_models_own() -> None:
    """TensorFlow Serving knows names, and no order; the twin's signature knows it."""
    servers = {
        "tensorflow": Named("tensorflow", "h", "logits", ordered=False),
        "pytorch": Named("pytorch", "logits", "h", ordered=True),
    }
    registry = Registry(servers=servers, variants={"m": servers}, refresh_seconds=60)
    router = Router(registry=registry, backends=servers, rules={"m": Rule("tensorflow")})
    registry.start()
    for _ in range(20):
        await asyncio.sleep(0)
    for variant in servers:
        signature = router.describe(ModelRef("m", variant)).versions[1].signature
        assert signature is not None
        assert [spec.name for spec in signature.outputs] == ["logits", "h"], variant
        answer = await ask(router, ModelRef("m", variant))
        assert [tensor.name for tensor in answer.outputs] == ["logits", "h"], variant
        asked = await ask(router, ModelRef("m", variant), (X,), "h", "logits")
        assert [tensor.name for tensor in asked.outputs] == ["h", "logits"], variant
    servers["pytorch"].fails_with = Unavailable("dead")
    registry.suspect("pytorch")
    registry.suspect("tensorflow")
    await asyncio.sleep(0.3)
    with pytest.raises(Unavailable):
        router.describe(ModelRef("m", "pytorch"))
    answer = await ask(router, ModelRef("m"))
    assert [tensor.name for tensor in answer.outputs] == ["logits", "h"], "the same while the twin is down"
    await registry.aclose()


async def test_metadata_follows_the_pin() -> None:
    async with routing() as (router, _):
        assert router.describe(ModelRef("m")).variant == "tensorflow"
        assert router.describe(ModelRef("m", "pytorch")).variant == "pytorch"
        with pytest.raises(Unavailable, match="gone@pytorch"):
            router.describe(ModelRef("gone"))

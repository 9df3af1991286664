"""What happens to a request whose version is replaced between its decoding and its answer; and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from gateway import registry as registries
from gateway.backends.base import Backend
from gateway.core.modelref import ModelRef
from gateway.errors import (
    SWAP,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OpaqueModel,
    Unavailable,
    UnknownModel,
    UnknownVersion,
)
from gateway.layers.bounds import Bounded, Bounds
from gateway.layers.deadline import Deadline
from gateway.registry import Registry
from gateway.router import Router, Rule, Swapped
from gateway.security.access import ACCESS, Access, Identity, Quota
from gateway.security.grants import Grants, Verb
from gateway.security.guard import Guard
from gateway.security.quotas import Quotas
from gateway.types import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Payload,
    Signature,
    Target,
    Tensor,
    TensorSpec,
    VersionMetadata,
)

pytestmark = pytest.mark.anyio
BODY = np.arange(1, 3, dtype=np.float32).tobytes()


def signature(datatype: str) -> Signature:
    return Signature((TensorSpec("x", datatype, (-1,)),), (TensorSpec("x", datatype, (-1,)),))


FLOATS, INTEGERS, BYTES = signature("FP32"), signature("INT32"), signature("UINT8")


def ready(number: int, *signatures: Signature, **more: Any) -> VersionMetadata:
    names = ("serving_default", "other")
    return VersionMetadata(number, True, dict(zip(names, signatures, strict=False)), **more)


@dataclass
class Versions:
    """A server that echoes, and refuses versions that it does not have as servers do."""

    now: tuple[VersionMetadata, ...]
    labels: dict[str, int] = field(default_factory=dict)
    silent: asyncio.Event | None = None
    listed: Collection[str] | None = None
    asked: list[InferRequest] = field(default_factory=list)

    async def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        if request.version not in {version.version for version in self.now}:
            error = Unavailable("swapped")
            error.fault = SWAP
            raise error
        return InferResponse(request.model, "v", request.version or 0, request.inputs, payload=request.payload)

    async def metadata(self, model: str) -> ModelMetadata:
        if self.silent is not None:
            await self.silent.wait()
        versions = {version.version: version for version in self.now}
        return ModelMetadata(model, "v", "test", versions, max(versions), self.labels)

    async def models(self) -> Collection[str] | None:
        return self.listed

    async def aclose(self) -> None:
        pass


@dataclass
class World:
    server: Versions
    registry: Registry
    router: Router
    stack: Backend
    read: list[Signature | None] = field(default_factory=list)

    async def know(self, *versions: VersionMetadata) -> None:
        self.server.now = versions
        await self.registry.look("v")

    async def request(self, ref: ModelRef, **more: Any) -> InferRequest:
        """As of a front that needs the signature to decode a body."""

        async def reread(target: Target) -> InferRequest:
            self.read.append(target.signature)
            if target.opaque:
                return target.request((), payload=Payload(BODY, None), reread=reread)
            assert target.signature is not None
            kind = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8}[target.signature.inputs[0].datatype]
            tensor = Tensor("x", target.signature.inputs[0].datatype, np.frombuffer(BODY, kind))
            return target.request((tensor,), reread=reread, **more)

        return await self.router.resolve(ref).read(reread)


@asynccontextmanager
async def world(
    *versions: VersionMetadata, elements: int = 100, seconds: float = 5, listed: Collection[str] | None = None
) -> AsyncIterator[World]:
    """``listed``: the models are those that the server lists, and no others."""
    server = Versions(versions, listed=listed)
    variants = {"m": ["v"]} if listed is None else {}
    registry = Registry(servers={"v": server}, variants=variants, refresh_seconds=3600, discover=listed is not None)
    router = Router(registry=registry, backends={"v": server}, rules={"m": Rule("v")})
    bounded = Bounded(router, bounds=Bounds(elements=elements))
    told = lambda: ["what the caller may be told of"]  # noqa: E731
    swapped = Swapped(bounded, router=router, registry=registry, models=told)
    stack = Deadline(swapped, default_seconds=seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registries, "_MIN_SECONDS_BETWEEN", 0.0)
        registry.start()
        await registry.asked(seconds=5)
        yield World(server, registry, router, stack)
        await registry.aclose()


async def test_what_was_resolved_is_kept_until_something_else_is_known() -> None:
    async with world(ready(1, FLOATS)) as made:
        first = made.router.resolve(ModelRef("m"))
        assert made.router.resolve(ModelRef("m")) is first
        await made.know(ready(1, FLOATS))
        assert made.router.resolve(ModelRef("m")) is first, "an answer that says nothing new changes nothing"
        await made.know(ready(1, FLOATS), ready(2, FLOATS))
        assert made.router.resolve(ModelRef("m")).version == 2
        made.server.labels = {"stable": 1}
        await made.registry.look("v")
        assert made.router.resolve(ModelRef("m", label="stable")).version == 1
        made.server.labels = {"stable": 2}
        await made.registry.look("v")
        assert made.router.resolve(ModelRef("m", label="stable")).version == 2
        await made.know(ready(1, FLOATS))
        assert made.router.resolve(ModelRef("m")).version == 1


async def test_names_that_clients_make_up_are_not_kept() -> None:
    """The kind: models, variants, versions, labels and signatures that are not there."""
    async with world(ready(1, FLOATS)) as made:
        for number in range(1000):
            made.router.resolve(ModelRef("m", signature=f"s{number}"))
            for ref in (
                ModelRef(f"m{number}"),
                ModelRef("m", f"v{number}"),
                ModelRef("m", version=2 + number),
                ModelRef("m", label=f"l{number}"),
            ):
                with pytest.raises(NotFound):
                    made.router.resolve(ref)
        assert len(made.router._targets) <= 1


@pytest.mark.parametrize("ref", [ModelRef("m"), ModelRef("m", "v")], ids=["default", "pinned variant"])
async def test_a_body_is_decoded_again_by_the_signature_that_it_is_sent_to(ref: ModelRef) -> None:
    async with world(ready(1, FLOATS)) as made:
        request = await made.request(ref)
        made.server.now = (ready(2, INTEGERS),)
        answer = await made.stack.infer(request)
        assert answer.version == 2
        assert made.read == [FLOATS, INTEGERS]
        assert [(one.version, one.inputs[0].datatype) for one in made.server.asked] == [(1, "FP32"), (2, "INT32")]


async def test_a_body_that_tells_its_datatypes_is_checked_again() -> None:
    async with world(ready(1, FLOATS)) as made:
        x = Tensor("x", "FP32", np.frombuffer(BODY, np.float32))
        request = made.router.resolve(ModelRef("m")).request((x,))
        made.server.now = (ready(2, INTEGERS),)
        with pytest.raises(InvalidArgument, match="datatype FP32; the model takes INT32") as caught:
            await made.stack.infer(request)
        assert caught.value.target is not None
        assert caught.value.target.version == 2
        assert [one.version for one in made.server.asked] == [1]


@pytest.mark.parametrize(
    ("now", "ref", "versions"),
    [
        ((ready(1, INTEGERS),), ModelRef("m"), [1]),
        ((ready(1, INTEGERS),), ModelRef("m", version=1), [1]),
        ((ready(2, INTEGERS),), ModelRef("m"), [2]),
        ((ready(1, FLOATS, INTEGERS), ready(2, FLOATS)), ModelRef("m"), [1]),
    ],
    ids=["another artifact", "another artifact, by number", "a successor", "nothing of its own"],
)
async def test_what_becomes_known_while_a_body_is_decoded_counts(
    now: tuple[VersionMetadata, ...], ref: ModelRef, versions: list[int]
) -> None:
    """Nothing is sent that was decoded by a signature which is known to be gone. What has not changed stays."""
    async with world(ready(1, FLOATS)) as made:
        request = await made.request(ref)
        await made.know(*now)
        answer = await made.stack.infer(request)
        assert [one.version for one in made.server.asked] == versions == [answer.version]
        declared = next(version for version in now if version.version == answer.version).signature
        assert declared is not None
        assert made.server.asked[0].inputs[0].datatype == declared.inputs[0].datatype
        assert len(made.read) == (1 if declared == FLOATS else 2)


async def test_a_version_that_was_asked_for_by_number_and_is_known_to_be_gone_is_not_there() -> None:
    async with world(ready(1, FLOATS)) as made:
        request = await made.request(ModelRef("m", version=1))
        await made.know(ready(2, FLOATS))
        with pytest.raises(UnknownVersion, match="has no version 1; its versions are 2"):
            await made.stack.infer(request)
        assert not made.server.asked


async def test_a_version_that_was_asked_for_by_number_is_not_replaced() -> None:
    async with world(ready(1, FLOATS)) as made:
        request = await made.request(ModelRef("m", version=1))
        made.server.now = (ready(2, FLOATS),)
        with pytest.raises(Unavailable, match="swapped"):
            await made.stack.infer(request)
        assert [one.version for one in made.server.asked] == [1]


async def test_a_signature_that_the_successor_lacks_is_refused() -> None:
    async with world(ready(1, FLOATS, FLOATS)) as made:
        target = made.router.resolve(ModelRef("m", signature="other"))
        request = target.request((Tensor("x", "FP32", np.frombuffer(BODY, np.float32)),))
        made.server.now = (ready(2, FLOATS),)
        with pytest.raises(InvalidArgument, match="no signature 'other'; the model's signatures are serving_default"):
            await made.stack.infer(request)


async def test_the_rows_of_what_was_decoded_last_are_counted() -> None:
    """Two floats are eight bytes: whoever counts rows has seen the two alone."""
    async with world(ready(1, FLOATS)) as made:
        request = await made.request(ModelRef("m"))
        assert (await made.stack.infer(request)).rows is None
        made.server.now = (ready(2, BYTES),)
        assert (request.rows, (await made.stack.infer(request)).rows) == (2, 8)


@pytest.mark.parametrize("to_opaque", [True, False])
async def test_a_model_may_become_opaque_or_cease_to_be(to_opaque: bool) -> None:
    """A payload is never sent to a version with a signature, nor tensors to one without."""
    plain, opaque = (FLOATS,), ()
    before, after = (plain, opaque) if to_opaque else (opaque, plain)
    async with world(ready(1, *before, opaque=not to_opaque)) as made:
        request = await made.request(ModelRef("m"))
        made.server.now = (ready(2, *after, opaque=to_opaque),)
        answer = await made.stack.infer(request)
        assert (answer.payload is not None) == to_opaque
        made.server.now = (ready(3, opaque=True),)
        x = Tensor("x", "FP32", np.frombuffer(BODY, np.float32))
        if not to_opaque:
            with pytest.raises(OpaqueModel):
                await made.stack.infer(made.router.resolve(ModelRef("m")).request((x,)))


async def test_of_a_model_that_is_gone_underway_nobody_learns_which_others_there_are() -> None:
    """Grants have been asked about it while it was there: what is said of it now must not name more than they allow."""
    async with world(ready(1, FLOATS), listed=["m", "secret"]) as made:
        request = await made.request(ModelRef("m"))
        made.server.now, made.server.listed = (ready(2, FLOATS),), ["secret"]
        with pytest.raises(UnknownModel, match=r"the models are what the caller may be told of$"):
            await made.stack.infer(request)


async def test_bounds_hold_for_what_is_decoded_again() -> None:
    """Two floats are eight bytes."""
    async with world(ready(1, FLOATS), elements=1) as made:
        request = await made.request(ModelRef("m"))
        with pytest.raises(InvalidArgument, match=r"bounds\.elements"):
            await made.stack.infer(request)
    async with world(ready(1, FLOATS), elements=2) as made:
        many = Tensor("x", "UINT8", np.zeros(9, np.uint8))

        async def reread(target: Target) -> InferRequest:
            return target.request((many,), reread=reread)

        x = Tensor("x", "FP32", np.frombuffer(BODY, np.float32))
        request = made.router.resolve(ModelRef("m")).request((x,), reread=reread)
        made.server.now = (ready(2, BYTES),)
        with pytest.raises(InvalidArgument, match=r"bounds\.elements"):
            await made.stack.infer(request)
        assert [one.version for one in made.server.asked] == [1]


async def test_one_deadline_holds_for_both_tries() -> None:
    async with world(ready(1, FLOATS), seconds=0.05) as made:
        request = await made.request(ModelRef("m"))
        made.server.now, made.server.silent = (ready(2, FLOATS),), asyncio.Event()
        with pytest.raises(DeadlineExceeded):
            await made.stack.infer(request)
        made.server.silent.set()


async def test_what_a_front_added_holds_for_what_is_decoded_again() -> None:
    async with world(ready(1, FLOATS)) as made:
        deadline = asyncio.get_running_loop().time() + 5
        request = (await made.request(ModelRef("m"), id="7")).due(deadline)
        made.server.now = (ready(2, FLOATS),)
        await made.stack.infer(request)
        assert [(one.deadline, one.id) for one in made.server.asked] == [(deadline, "7")] * 2


async def test_a_request_without_a_target_is_a_defect_of_ours() -> None:
    async with world(ready(1, FLOATS)) as made:
        for infer in (made.stack.infer, made.router.infer):
            with pytest.raises(TypeError, match=r"Target\.request"):
                await infer(InferRequest("m", ()))


async def test_a_request_that_is_sent_twice_is_taken_from_its_quota_once() -> None:
    spent: list[int] = []

    def spend(identity: Identity, *, elements: int, bytes: int) -> None:
        spent.append(elements)

    async with world(ready(1, FLOATS)) as made:
        ACCESS.set(Access(Identity("k", "k", "key", Grants(["predict:m"]), Quota(elements_per_day=9)), Verb.PREDICT))
        quotas = cast(Quotas, SimpleNamespace(spend=spend))
        names: Callable[[], tuple[str, ...]] = lambda: ("m",)  # noqa: E731
        guard = Guard(made.stack, router=made.router, names=names, quotas=quotas)
        request = await made.request(ModelRef("m"))
        made.server.now = (ready(2, INTEGERS),)
        assert (await guard.infer(request)).version == 2
        assert spent == [2]

"""Each request is resolved once, in every front; twice only where its version disappears while it is on its way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.layers.bounds import Bounded
from gateway.layers.deadline import Deadline
from gateway.router import Router, Swapped
from gateway.security.access import Quota
from gateway.security.guard import Guard
from tests.gateway.resolving import (
    LABEL,
    LABELLED,
    MODEL,
    ROWS,
    SWAPPED,
    THRICE,
    TWICE,
    WAYS,
    Refused,
    Way,
    World,
    ts_body,
    v2_json,
    world,
)
from tests.security.doors import KeyFolder

VARIANTS = ("tensorflow", "pytorch")
REFUSED = r"FP32; the model takes INT32|No signature was found|just being taken away or replaced"
#: A front, and a variant that can answer it.
ROWS_OF = {
    f"{name}, {variant}": (way, variant)
    for name, way in WAYS.items()
    for variant in VARIANTS
    if variant == "tensorflow" or not way.examples
}
SWAPPED_OF = {
    f"{name}, {variant}": (way, variant)
    for name, way in SWAPPED.items()
    for variant in VARIANTS
    if variant == "tensorflow" or not way.examples
}


WORLDS = ("open", "keys")
#: For tests to which it makes no difference who calls.
once = pytest.mark.parametrize("gateway", WORLDS[1:], indirect=True)


@pytest.fixture(scope="module", params=WORLDS)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Once for everybody, and once with grants and a quota."""
    folder, auth, shown = tmp_path_factory.mktemp("world"), {"mode": "off"}, {}
    if request.param == "keys":
        keys = KeyFolder(tmp_path_factory.mktemp("keys"))
        quota = Quota(elements_per_day=10**9)
        auth: dict[str, Any] = keys.settings
        shown = {"x-api-key": keys.make("caller", f"predict:{MODEL}", quota=quota)}
    with world(folder, auth, shown) as made:
        yield made


@pytest.mark.parametrize(("way", "variant"), ROWS_OF.values(), ids=ROWS_OF)
def test_a_request_is_looked_up_once(gateway: World, way: Way, variant: str) -> None:
    """The kind: whatever a body is, wherever it is decoded, and whoever calls; the messages of a stream and the tasks
    of one call are a request each."""
    gateway.know(1)
    answered = way.ask(gateway, variant, MODEL)
    assert answered.values == [TWICE] * way.requests
    assert len(gateway.resolved()) == way.requests
    assert {ref[:4] for ref in gateway.resolved()} == {(MODEL, variant, None, "")}


@once
@pytest.mark.parametrize(("way", "variant"), SWAPPED_OF.values(), ids=SWAPPED_OF)
def test_a_version_that_disappears_underway_is_followed_by_its_successor(
    gateway: World, way: Way, variant: str
) -> None:
    gateway.know(1)
    gateway.serve(2)
    answered = way.ask(gateway, variant, MODEL)
    assert answered.values == [TWICE]
    assert answered.versions <= {2}
    first, second = gateway.resolved()
    assert first[:4] == second[:4]  # the body may have named a signature since
    assert [version for version, _ in gateway.served()] == [1, 2]


@once
@pytest.mark.parametrize(("way", "variant"), SWAPPED_OF.values(), ids=SWAPPED_OF)
def test_a_successor_with_another_signature_is_never_sent_what_was_decoded_for_the_one_before(
    gateway: World, way: Way, variant: str
) -> None:
    """A body whose datatype the signature tells is decoded again; one that tells its own is checked again.

    A large one is held no longer than it is decoded: its caller is told to send it again.
    """
    gateway.know(1)
    gateway.serve(3)
    if way.decodes:
        answered = way.ask(gateway, variant, MODEL)
        assert answered.values == [THRICE]
        assert answered.versions <= {3}
    else:
        with pytest.raises(Refused, match=REFUSED) as caught:
            way.ask(gateway, variant, MODEL)
        assert caught.value.code in (("503",) if way.lets_go else ("400", "INVALID_ARGUMENT"))
    assert len(gateway.resolved()) == 2
    served = gateway.served()
    assert (1, "FP32") in served
    assert set(served) <= {(1, "FP32"), (3, "INT32")}
    assert ((3, "INT32") in served) == way.decodes


@once
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("way", LABELLED.values(), ids=LABELLED)
def test_a_label_that_moves_underway_is_followed(gateway: World, way: Way, version: int) -> None:
    """A label is the gateway's to resolve, as a default is: nobody asked for the version that it stood for."""
    gateway.know(1)
    gateway.serve(version)
    if version == 2 or way.decodes:
        answered = way.ask(gateway, None, f"{MODEL}/labels/{LABEL}")
        assert answered.values == [TWICE if version == 2 else THRICE]
        assert answered.versions == {version}
    else:
        with pytest.raises(Refused, match=REFUSED):
            way.ask(gateway, None, f"{MODEL}/labels/{LABEL}")
    assert [ref.label for ref in gateway.resolved()] == [LABEL, LABEL]


@once
@pytest.mark.parametrize(
    "path",
    [f"/v2/models/{MODEL}/versions/1/infer", f"/v1/models/{MODEL}/versions/1:predict", f"/predictions/{MODEL}/1"],
)
def test_who_names_a_version_gets_no_other(gateway: World, path: str) -> None:
    gateway.know(1)
    gateway.serve(2)
    body = b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [7]}]}'
    if path.startswith("/v1/"):
        body = b'{"instances": [[7]]}'
    with pytest.raises(Refused, match="just being taken away or replaced") as caught:
        gateway.post(path, body, None)
    assert caught.value.code == "503"
    assert len(gateway.resolved()) == 1


@once
@pytest.mark.parametrize(
    ("way", "lookups"),
    [
        (v2_json(variant="pytorch"), 1),
        (v2_json(ROWS, variant="tensorflow"), 1),
        (v2_json(ROWS, variant="pytorch"), 2),
        (ts_body(b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[7]}],"parameters":{"variant":'
                 b'"tensorflow"}}', "application/json", of_v2=True), 1),
        (ts_body(b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[7]}],"parameters":{"variant":'
                 b'"pytorch"}}', "application/json", of_v2=True), 2),
    ],
    ids=["v2", "v2, large, the default", "v2, large, another", "TorchServe, the default", "TorchServe, another"],
)  # fmt: skip
def test_a_body_that_pins_another_variant_than_it_was_read_by_is_resolved_for_that_one(
    gateway: World, way: Any, lookups: int
) -> None:
    """Such a body tells its own datatypes. It is the one other reason for a second look-up."""
    gateway.know(1)
    assert way(gateway, None, MODEL).values == [TWICE]
    assert len(gateway.resolved()) == lookups


@once
def test_made_up_versions_are_no_labels_of_metrics(gateway: World) -> None:
    """The kind: what a client makes up is no value of a label, or it could fill the memory."""
    gateway.know(1)
    for path in (f"/v2/models/{MODEL}/versions/987/infer", f"/v2/models/{MODEL}@nobody/infer"):
        with pytest.raises(Refused) as caught:
            gateway.post(path, b'{"inputs": []}', None)
        assert caught.value.code == "404"
    text = gateway.gateway.admin.get("/metrics").text
    assert 'version="987"' not in text
    assert "nobody" not in text


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", f"/v2/models/{MODEL}", "describe"),
        ("GET", f"/v2/models/{MODEL}/ready", "describe"),
        ("GET", f"/v1/models/{MODEL}", "describe"),
        ("GET", f"/v1/models/{MODEL}/metadata", "resolve"),
        ("OPTIONS", f"/predictions/{MODEL}", "resolve"),
    ],
)
def test_a_description_is_looked_up_once_too(gateway: World, method: str, path: str, kind: str) -> None:
    gateway.know(1)
    gateway.gateway.client.request(method, path, headers=gateway.shown)
    assert [found for found, _ in gateway.lookups] in ([kind], [] if gateway.shown else [kind])


def test_the_deadline_is_outside_the_swap_and_the_bounds_are_inside(gateway: World) -> None:
    """Both tries have one deadline, and what is decoded again is bounded too (`test_swapped`)."""
    layer: Any = gateway.gateway.gateway._backend
    order = []
    while layer is not None:
        order.append(type(layer))
        layer = getattr(layer, "inner", None)
    assert order in ([Guard, Deadline, Swapped, Bounded, Router], [Deadline, Swapped, Bounded, Router])


@pytest.fixture(scope="module")
def few_objects() -> Iterator[None]:
    """The garbage collector leaves alone what there is by now, which makes it quick."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@once
@pytest.mark.usefixtures("few_objects")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_body_is_let_go_of_with_its_request(gateway: World, way: Way) -> None:
    """What reads a body holds it. In a circle of references it would stay until the garbage collector comes."""
    gateway.know(1)
    way.ask(gateway, None, MODEL)  # by now nothing is left of what earlier tests had refused
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        way.ask(gateway, None, MODEL)
        gc.collect()
        found = [value for value in gc.garbage if str(getattr(value, "__module__", "")).startswith("gateway.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not [value for value in found if callable(value)]

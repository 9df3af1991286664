"""What an earlier Duet has packed, brought to today's handler and facts without a framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from models.artifacts import HANDLER, Artifact, State, Store, expected
from models.catalog import CATALOG
from models.export import as_json, write_archive
from models.plan import Options, decide
from models.refresh import refresh
from models.served import served, told_rows
from models.spec import FRAMEWORKS
from serving.digests import digest

OLD_HANDLER = b"# of an earlier Duet\nclass TensorHandler:\n    pass\n"
THEIR_HANDLER = b"class Mine:\n    pass\n"
REGRESSION = CATALOG["linear_regression"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def put(store: Store, artifact: Artifact, signature: dict[str, Any], handler: bytes = OLD_HANDLER) -> Path:
    path = store.path(artifact)
    if artifact.framework == "tensorflow":
        (path / "assets.extra").mkdir(parents=True)
        (path / "saved_model.pb").write_bytes(b"graph")
        (path / "assets.extra" / "duet.json").write_bytes(as_json(signature))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        members = {"model.pt": b"weights", "handler.py": handler, "signature.json": as_json(signature)}
        write_archive(path, artifact, {**members, "extra/labels.txt": b"kept"})
    return path


def documented(store: Store, **changes: Any) -> list[Artifact]:
    """All artifacts of one documented model; `changes` to their signatures, where None takes a key away."""
    made = expected([REGRESSION], FRAMEWORKS)
    for artifact in made:
        signature = {**REGRESSION.signature(artifact.version, "sha256:one"), **changes}
        put(
            store, artifact, {key: value for key, value in signature.items() if value is not None}, HANDLER.read_bytes()
        )
        store.record_path(artifact).parent.mkdir(parents=True, exist_ok=True)
        store.record_path(artifact).write_text('{"fingerprint": "sha256:one"}')
    return made


def imported(**more: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    return {"name": "mine", "inputs": [tensor], "outputs": [tensor], "imported": {"source": "mine.pt"}, **more}


def members(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.mark.parametrize("rows", [None, "unknown", "dependent"])
def test_artifacts_that_lack_todays_rows_are_packed_again_and_not_trained(store: Store, rows: str | None) -> None:
    """The kind: any fact about the weights that `signature.json` gains later. Its absence must not cost a training."""
    made = documented(store, rows=rows)
    assert {store.state(artifact) for artifact in made} == {State.OLD_SIGNATURE}
    actions = [step.action for step in decide(store, [REGRESSION], FRAMEWORKS, Options()).steps]
    assert actions == ["repack"] * 4
    assert sorted(refresh(store.root, ["linear_regression"])) == sorted(made)
    assert {store.state(artifact) for artifact in made} == {State.READY}
    assert all((store.signature(artifact) or {})["rows"] == "independent" for artifact in made)
    assert refresh(store.root, ["linear_regression"]) == []


@pytest.mark.parametrize("change", [{"outputs": []}, {"description": "other"}, {"extra": 1}, {"version": 7}], ids=str)
def test_an_artifact_that_differs_in_more_than_rows_stays_outdated(store: Store, change: dict[str, Any]) -> None:
    """Its tensors may be others too: nothing but making it again puts that right."""
    made = documented(store, rows=None, **change)
    assert {store.state(artifact) for artifact in made} == {State.OUTDATED}
    assert refresh(store.root, ["linear_regression"]) == []


def test_an_imported_archive_gets_todays_handler_and_keeps_all_else(store: Store) -> None:
    """A copy of an earlier handler joins the rows of every model, whatever is known of it."""
    artifact = Artifact("mine", 3, "pytorch")
    path = put(store, artifact, imported(rows="unknown", rows_reason="aten::foo"))
    before = members(path)
    assert refresh(store.root, ["mine", "other"]) == [artifact]
    assert members(path) == {**before, "handler.py": HANDLER.read_bytes()}
    assert sorted(one.name for one in store.root.iterdir()) == ["pytorch"], "nothing half-written is left"


def test_an_imported_archive_that_says_nothing_of_rows_is_not_given_any(store: Store) -> None:
    """It was imported before there was an analysis: the gateway and the handler take that for unknown."""
    path = put(store, Artifact("mine", 1, "pytorch"), imported())
    refresh(store.root, ["mine"])
    assert "rows" not in json.loads(members(path)["signature.json"])


@pytest.mark.parametrize(
    ("name", "signature", "handler"),
    [
        ("mine", imported(), THEIR_HANDLER),  # a handler of the user's own
        ("mine", imported(), HANDLER.read_bytes()),  # today's
        ("stranger", {"name": "stranger", "inputs": [], "outputs": []}, OLD_HANDLER),  # nobody imported it
        ("unasked", imported(), OLD_HANDLER),  # not among the models that are served
        ("linear_regression", imported(), OLD_HANDLER[:-1]),  # documented by its name alone: it will be trained
    ],
    ids=["own handler", "ready", "no import", "not asked for", "no model of ours"],
)
def test_what_is_not_ours_to_change_stays_as_it_is(
    store: Store, name: str, signature: dict[str, Any], handler: bytes
) -> None:
    path = put(store, Artifact(name, 1, "pytorch"), signature, handler)
    if name == "linear_regression":
        del signature["imported"]
        put(store, Artifact(name, 1, "pytorch"), signature, handler)
    before = path.read_bytes()
    assert refresh(store.root, {"mine", "stranger", "linear_regression"}) == []
    assert path.read_bytes() == before


def test_damaged_archives_do_not_stop_the_others(store: Store) -> None:
    put(store, Artifact("mine", 2, "pytorch"), imported())
    for version, content in (
        (1, b""),
        (3, b"PK\x03\x04 cut"),
        (4, store.path(Artifact("mine", 2, "pytorch")).read_bytes()[:400]),
    ):
        store.path(Artifact("mine", version, "pytorch")).write_bytes(content)
    assert refresh(store.root, ["mine"]) == [Artifact("mine", 2, "pytorch")]


def test_a_folder_that_cannot_be_written_to_leaves_the_archive_whole(store: Store, monkeypatch: Any) -> None:
    path = put(store, Artifact("mine", 1, "pytorch"), imported())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.export.write_archive", full)
    with pytest.raises(OSError, match="No space"):
        refresh(store.root, ["mine"])
    assert path.read_bytes() == before


def test_a_checked_copy_gets_todays_handler_and_the_checked_file_stays(store: Store, tmp_path: Path) -> None:
    """With --allow-digests: what was allowed keeps its digest, and the old handler is not run all the same."""
    from serving.options import parse
    from serving.plan import _store

    path = put(store, Artifact("mine", 1, "pytorch"), imported())
    (tmp_path / "allow").write_text(f"{digest(path)}\n")
    flags = ["--artifacts", str(store.root), "--run-dir", str(tmp_path / "run"), "--allow-digests"]
    copy = _store(parse(["up", *flags, str(tmp_path / "allow")]), served(store.root, ["mine"]))
    assert members(copy / "pytorch" / "mine-1.mar")["handler.py"] == HANDLER.read_bytes()
    assert members(path)["handler.py"] == OLD_HANDLER


@pytest.mark.parametrize("rows", [None, "unknown"])
def test_what_a_copy_is_given_is_not_trained_for(store: Store, rows: str | None) -> None:
    """With --allow-digests the artifacts stay as they are, also with --no-train."""
    from rich.console import Console

    from serving.stops import Stops
    from serving.training import ensure_trained

    documented(store, rows=rows)
    ensure_trained(store.root, [REGRESSION], may_train=False, console=Console(), stops=Stops())
    assert len(store.missing(["linear_regression"])) == 4


def test_it_needs_neither_framework(store: Store) -> None:
    """`make up` does this at every start: it must not cost the seconds that importing a framework costs."""
    put(store, Artifact("mine", 1, "pytorch"), imported())
    program = (
        "import sys; from pathlib import Path; from models.refresh import refresh\n"
        "assert refresh(Path(sys.argv[1]), ['mine']); assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(store.root)], check=True, env=os.environ)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["independent", "independent"], "independent"),
        (["independent", "unknown"], None),
        (["independent", None], None),
        (["independent", "dependent"], "dependent"),
        (["dependent", "unknown"], "dependent"),
        (["unknown", "unknown"], None),
        ([None], None),
        (["Independent"], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_gateway_is_told_what_all_versions_that_are_served_say(
    store: Store, framework: str, said: list[str | None], told: str | None
) -> None:
    """A server serves every version that lies there. The kind: one of which less is known than of its sister."""
    for version, rows in enumerate(said, 1):
        put(store, Artifact("mine", version, framework), imported(**({} if rows is None else {"rows": rows})))
    found = told_rows(store.root, served(store.root, ["mine"]))
    assert found == ({} if told is None else {"mine": {framework: told}})


def test_each_variant_is_told_by_itself_and_a_version_that_cannot_be_read_is_unknown(store: Store) -> None:
    put(store, Artifact("mine", 1, "tensorflow"), imported(rows="independent"))
    put(store, Artifact("mine", 1, "pytorch"), imported(rows="dependent"))
    models = served(store.root, ["mine"])
    assert told_rows(store.root, models) == {"mine": {"tensorflow": "independent", "pytorch": "dependent"}}
    (store.root / "tensorflow" / "mine" / "2").mkdir()
    assert told_rows(store.root, models) == {"mine": {"pytorch": "dependent"}}

"""What cannot be done is said in one line, before any load is sent, and nothing is left half-written."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gateway.config import Settings
from loadtest import configuration, parity
from loadtest.configuration import UNKNOWN, Configuration, Row
from loadtest.failures import LoadFailed, NotComparable
from loadtest.fronts import FRONTS, Answer, Signature
from loadtest.payloads import twin
from loadtest.plan import Plan
from loadtest.runfolder import RunFolder, create, finished_before, unfinished
from loadtest.stack import Stack
from models.catalog import CATALOG
from tests.loadtest.test_results import PLAN
from tests.stack import ROOT, free_ports

SERVERS = {
    "tensorflow": {"kind": "tfserving", "endpoint": "127.0.0.1:1"},
    "pytorch": {"kind": "torchserve", "endpoint": "http://127.0.0.1:1", "management": "http://127.0.0.1:2"},
}


def loadtest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def settings_file(folder: Path) -> Path:
    ports = free_ports(5)
    file = folder / "duet.yaml"
    file.write_text(
        f"http: {{port: {ports[0]}}}\ngrpc: {{port: {ports[1]}}}\nservers:\n"
        f'  tensorflow: {{kind: tfserving, endpoint: "127.0.0.1:{ports[2]}"}}\n'
        f'  pytorch: {{kind: torchserve, endpoint: "http://127.0.0.1:{ports[3]}", '
        f'management: "http://127.0.0.1:{ports[4]}"}}\n'
    )
    return file


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "nobody"], "no model named nobody; there are linear_regression"),
        (["compare", "convnet", "--config", "/nowhere/duet.yaml"], "/nowhere/duet.yaml is not there; start everything"),
    ],
)
def test_a_bad_command_ends_with_a_line_and_1(arguments: list[str], said: str, tmp_path: Path) -> None:
    ended = loadtest(*arguments, "--out", str(tmp_path / "runs"))
    assert ended.returncode == 1
    assert said in ended.stdout
    assert len(ended.stdout.strip().splitlines()) == 1
    assert not ended.stderr
    assert not (tmp_path / "runs").exists()


def test_no_gateway_is_said_with_its_address(tmp_path: Path) -> None:
    ended = loadtest("compare", "convnet", "--config", str(settings_file(tmp_path)), "--out", str(tmp_path / "runs"))
    assert ended.returncode == 1
    assert "no gateway answers at 127.0.0.1:" in ended.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "-1"],
        ["--pairs", "0"],
        ["--search-slo", "p99=fast"],
        ["--rate", "5", "--search-slo", "p99=5ms"],
        ["--allow", "V6=never mind"],
        ["--allow", "V99=x"],
        ["--allow-diff", "threads"],
        ["--front", "carrier-pigeon"],
    ],
)
def test_a_bad_option_is_refused_with_usage(arguments: list[str]) -> None:
    """Parity (V6) is no rule that can be left aside."""
    ended = loadtest("compare", "convnet", *arguments)
    assert ended.returncode == 2
    assert "usage:" in ended.stderr


def test_a_model_with_one_variant_has_no_twin(tmp_path: Path) -> None:
    folder = tmp_path / "tensorflow" / "lonely" / "1"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    (folder / "assets.extra" / "duet.json").write_text(
        '{"imported": {}, "inputs": [], "outputs": [], "description": ""}'
    )
    with pytest.raises(LoadFailed, match="lonely has no twin: it is there in tensorflow alone"):
        twin(tmp_path, "lonely")


def test_a_full_disk_is_said_before_any_load_and_nothing_is_left(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(LoadFailed, match="has no room for the 5 MB"):
            RunFolder(tmp_path).reserve(5_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoadFailed, match="give another folder with --out"):
        create(tmp_path / "file", PLAN)


def test_only_an_interrupted_run_of_the_same_options_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="nothing to resume"):
        unfinished(tmp_path, PLAN)
    folder = create(tmp_path, PLAN)
    folder.write("plan.json", {})
    assert unfinished(tmp_path, PLAN) == folder
    other = Plan(**{**{name: getattr(PLAN, name) for name in PLAN.__slots__}, "seed": 7})
    with pytest.raises(LoadFailed, match="nothing to resume"):
        unfinished(tmp_path, other)
    good, bad = ({"rate": 5, "validity": {"holds": holds}} for holds in (True, False))
    folder.write("result.json", bad)
    assert finished_before(tmp_path, PLAN) == bad
    assert finished_before(tmp_path, PLAN, valid=True) is None
    folder.write("result.json", good)
    assert finished_before(tmp_path, PLAN, valid=True) == good
    with pytest.raises(LoadFailed, match="nothing to resume"):
        unfinished(tmp_path, PLAN)


def stack() -> Stack:
    return Stack(Path("duet.yaml"), Settings.model_validate({"servers": SERVERS, "models": {"convnet": {}}}), {})


def test_configurations_that_cannot_be_seen_must_be_allowed_by_name() -> None:
    with pytest.raises(NotComparable, match=r"threads of one operation: unknown and unknown.*--allow-diff KEY=REASON"):
        configuration.read(stack(), "convnet", 2, {})
    names = (
        "weights",
        "datatypes",
        "threads of one operation",
        "operations at a time",
        "batching in the server",
        "cores",
    )
    found = configuration.read(stack(), "convnet", 2, dict.fromkeys(names, "another machine"))
    assert {row.reason for row in found.rows if row.key in names} == {"another machine"}


def test_a_row_that_there_is_not_cannot_be_allowed() -> None:
    with pytest.raises(LoadFailed, match="--allow-diff colour: no such row; there are framework"):
        configuration.read(stack(), "convnet", 2, {"colour": "blue"})


def test_other_weights_are_refused_whatever_the_reason() -> None:
    assert Row("weights", ("sha256:1", "sha256:2"), "never mind").is_refused
    assert not Row("weights", ("sha256:1", UNKNOWN), "imported").is_refused
    assert not Row("cores", ("0", "1"), "asked").is_refused


def test_a_configuration_that_changes_is_seen() -> None:
    one = Configuration(("a", "b"), (Row("cores", ("0", "1")), Row("device", ("cpu", "cpu"))))
    other = Configuration(("a", "b"), (Row("cores", ("0", "0")), Row("device", ("cpu", "cpu"))))
    assert one.changes(other) == ["cores"]
    assert one.fingerprint != other.fingerprint


def test_answers_kept_in_the_gateway_are_no_measure_of_the_servers() -> None:
    settings = Settings.model_validate({"servers": SERVERS, "models": {"convnet": {"cache": {"max_bytes": 1000}}}})
    with pytest.raises(LoadFailed, match="keeps answers of convnet"):
        configuration.read(Stack(Path("duet.yaml"), settings, {}), "convnet", 2, {})


SIGNATURE = Signature("convnet", 2, CATALOG["convnet"].outputs)


def answer(value: float) -> Answer:
    return Answer(
        b'{"model_name":"m","model_version":"2","outputs":[{"name":"logits","datatype":"FP32","shape":[1,1],"data":[%f]}]}'
        % value
    )


def test_a_quick_wrong_answer_under_load_is_found() -> None:
    wanted = [{"logits": np.array([[1.0]], np.float32)}]
    front = FRONTS["v2_rest_json"]
    assert parity.check_sampled(front, SIGNATURE, [(0, answer(1.00005))], wanted)[1] == ""
    assert "differ by" in parity.check_sampled(front, SIGNATURE, [(0, answer(1.01))], wanted)[1]
    assert "cannot be read" in parity.check_sampled(front, SIGNATURE, [(0, Answer(b"{}"))], wanted)[1]


@pytest.mark.parametrize("value", [0.001, 5.0])
def test_an_answer_wrong_in_one_logit_alone_is_found_beside_large_ones(value: float) -> None:
    """By a thousandth of the largest, also where the logit itself is near zero; rounding is let pass."""
    wanted = {"logits": np.array([[16, value, -9]], np.float32)}
    for off, wrong in ((1.6e-5, False), (0.016, True)):
        found = {"logits": wanted["logits"] + np.array([[0, off, 0]], np.float32)}
        assert (parity.of_tolerance(found, wanted) > 1) == wrong


def test_other_outputs_are_infinitely_far_apart() -> None:
    one = np.zeros((1, 1), np.float32)
    assert parity.of_tolerance({"y": one}, {"z": one}) == float("inf")

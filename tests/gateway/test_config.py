from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from gateway.types import Rows

GOOD = """
servers:
  tensorflow: {kind: tfserving, endpoint: "127.0.0.1:8500"}
  pytorch: {kind: torchserve, endpoint: "http://127.0.0.1:8080", management: "http://127.0.0.1:8081"}
models:
  convnet: {}
  only_torch: {variants: [pytorch]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "duet.yaml"
    path.write_text(text)
    return path


def test_defaults_are_loopback_and_every_server(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD), {})
    assert (settings.http.host, settings.http.port, settings.admin.host) == ("127.0.0.1", 8000, "127.0.0.1")
    assert settings.variants("convnet") == ("tensorflow", "pytorch")
    assert settings.default_variant("convnet") == "tensorflow"
    assert settings.default_variant("only_torch") == "pytorch"


def test_an_opaque_model_is_torchserves(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD + "  own: {opaque: true}\n"), {})
    assert settings.variants("own") == ("pytorch",)
    assert settings.default_variant("own") == "pytorch"


def test_requests_are_batched_by_default_and_nothing_is_kept(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD + "  slow: {batching: {enabled: false}, cache: {max_bytes: 1000}}\n"), {})
    assert settings.batching.enabled
    assert settings.models["convnet"].batching is None
    assert settings.models["convnet"].cache is None
    assert settings.models["slow"].batching is not None
    assert not settings.models["slow"].batching.enabled
    off = load(write(tmp_path, GOOD), {"DUET__BATCHING__ENABLED": "false"})
    assert not off.batching.enabled


def test_rows_can_be_said_for_all_for_a_model_and_by_variant(tmp_path: Path) -> None:
    text = GOOD + "  a: {batching: {rows: {tensorflow: independent}}}\n  b: {batching: {rows: dependent}}\n"
    settings = load(write(tmp_path, text), {"DUET__BATCHING__ROWS": "dependent"})
    a, b = settings.models["a"].batching, settings.models["b"].batching
    assert a is not None
    assert b is not None
    assert settings.batching.rows is Rows.DEPENDENT
    assert (a.rows_of("tensorflow"), a.rows_of("pytorch")) == (Rows.INDEPENDENT, None)
    assert (b.rows_of("tensorflow"), b.rows_of("pytorch")) == (Rows.DEPENDENT, Rows.DEPENDENT)


def test_a_models_batching_follows_what_holds_for_all_where_it_leaves_something_out(tmp_path: Path) -> None:
    text = GOOD + "  a: {batching: {rows: independent}}\n  b: {batching: {max_rows: 2}}\n"
    settings = load(write(tmp_path, text + "batching: {max_rows: 8, max_bytes: 99, sample_share: 0.5}\n"), {})
    assert [settings.batching_of(model).max_rows for model in ("a", "b", "convnet")] == [8, 2, 8]
    assert {settings.batching_of(model).max_bytes for model in ("a", "b", "convnet")} == {99}
    assert settings.batching_of("a").rows is Rows.INDEPENDENT
    assert settings.batching_of("b").rows is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file or directory"),
        ("max_batch_size { value: -1 }", "max_batch_size is -1; it must be at least 1"),
        ("max_batch_size 32", "it is no text-format BatchingParameters"),
    ],
)
def test_batching_parameters_that_cannot_be_used_are_named(tmp_path: Path, content: str | None, says: str) -> None:
    parameters = tmp_path / "batching.txt"
    if content is not None:
        parameters.write_text(content)
    text = GOOD.replace("kind: tfserving", f"kind: tfserving, batching_parameters_file: {parameters}")
    with pytest.raises(ConfigError, match=rf"servers\.tensorflow\.batching_parameters_file: {parameters}") as caught:
        load(write(tmp_path, text), {})
    assert says in str(caught.value)


def test_batching_parameters_are_for_tensorflow_serving_alone(tmp_path: Path) -> None:
    text = GOOD.replace("kind: torchserve", "kind: torchserve, batching_parameters_file: /etc/hostname")
    with pytest.raises(ConfigError, match="batching_parameters_file: Extra inputs are not permitted"):
        load(write(tmp_path, text), {})


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "http: {port: 9000}\n")
    settings = load(path, {"DUET__HTTP__PORT": "9001", "DUET__LOG__LEVEL": "warning", "PATH": "/bin"})
    assert settings.http.port == 9001
    assert settings.log.level == "warning"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "htpp: {port: 1}\n", "htpp: Extra inputs are not permitted"),
        (GOOD + "http: {port: 70000}\n", "http.port: Input should be less than or equal to 65535"),
        (GOOD + "default_deadline_seconds: 0\n", "default_deadline_seconds: Input should be greater than 0"),
        (GOOD + "  wrong: {default: jax}\n", "models.wrong: 'jax' is no server; the servers are tensorflow, pytorch"),
        (GOOD + "  wrong: {variants: [pytorch], default: tensorflow}\n", "'tensorflow' is not among its variants"),
        (GOOD + "  own: {opaque: true, variants: [tensorflow]}\n", "models.own: opaque needs one TorchServe server"),
        (GOOD + "  own: {opaque: true, default: tensorflow}\n", "'tensorflow' is not among its variants"),
        (GOOD + "  own: {opaque: true, cache: {max_bytes: 9}}\n", "an opaque model's answers cannot be kept"),
        (GOOD + "batching: {rows: maybe}\n", "batching.rows: 'maybe' must be independent or dependent"),
        (GOOD + "batching: {rows: unknown}\n", "batching.rows: 'unknown' must be independent or dependent"),
        (GOOD + "batching: {rows: 1}\n", "batching.rows: 1 must be independent or dependent"),
        (
            GOOD + "batching: {rows: {jax: dependent}}\n",
            "batching.rows: 'jax' is no server; the servers are tensorflow",
        ),
        (GOOD + "batching: {rows: {tensorflow: 5}}\n", "batching.rows: 5 must be independent or dependent"),
        (GOOD + "  a: {batching: {rows: {jax: dependent}}}\n", "models.a.batching.rows: 'jax' is no server"),
        (GOOD + "batching: {sample_share: 2}\n", "batching.sample_share: Input should be less than or equal to 1"),
        (GOOD + "batching: {max_rows: 0}\n", "batching.max_rows: Input should be greater than or equal to 1"),
        (GOOD + '  "a@b": {}\n', "must not be empty or hold any of"),
        (GOOD.replace("http://127.0.0.1:8081", "127.0.0.1:8081"), "management: must be an address of the form"),
        (GOOD.replace("kind: tfserving", "kind: triton"), "servers.tensorflow: Input tag 'triton'"),
        ("servers: {}\nmodels: {}\n", "servers: name at least one"),
        ("models: {}\n", "servers: Field required"),
        (GOOD.replace('"127.0.0.1:8500"', "nowhere"), "servers.tensorflow.endpoint: must be an address"),
        (GOOD.replace("http://127.0.0.1:8081", "http://other:8081"), "management must be on the host of endpoint"),
        ("- a\n", "must hold a mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_bad_value_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.yaml: No such file"):
        load(tmp_path / "nope.yaml", {})


def test_an_environment_variable_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DUET__REFRESH_SECONDS__X does not fit"):
        load(write(tmp_path, GOOD + "refresh_seconds: 1\n"), {"DUET__REFRESH_SECONDS__X": "1"})

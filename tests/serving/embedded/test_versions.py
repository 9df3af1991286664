"""The model configuration, version policies, and which folders are versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.embedded.config import ConfigError, load, parse
from serving.embedded.flags import Flags
from serving.embedded.versions import All, Latest, ModelConfig, Specific


def one(inside: str) -> ModelConfig:
    (model,) = parse(
        f'model_config_list {{ config {{ name: "m" base_path: "/m" model_platform: "tensorflow" {inside} }} }}'
    )
    return model


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", Latest(1)),
        ("model_version_policy { }", Latest(1)),
        ("model_version_policy { latest { } }", Latest(1)),
        ("model_version_policy { latest { num_versions: 2 } }", Latest(2)),
        ("model_version_policy { all { } }", All()),
        ("model_version_policy { specific { versions: 3 versions: 1 } }", Specific(frozenset({1, 3}))),
    ],
)
def test_policies_are_read(text: str, policy: object) -> None:
    assert one(text).policy == policy


def test_labels_are_read() -> None:
    assert one('version_labels { key: "stable" value: 3 }').labels == {"stable": 3}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("model_config_list {", "Error parsing text-format tensorflow.serving.ModelServerConfig"),
        ("nonsense: 1", "Error parsing text-format tensorflow.serving.ModelServerConfig"),
        ('model_config_list { config { base_path: "/m" } }', "no name"),
        (
            'model_config_list { config { name: "m" } }',
            r"Expected model m to have an absolute path or URI; got base_path\(\)=$",
        ),
        (
            'model_config_list { config { name: "m" base_path: "a/m" model_platform: "tensorflow" } }',
            r"Expected model m to have an absolute path or URI; got base_path\(\)=a/m$",
        ),
        ('model_config_list { config { name: "m" base_path: "gs://b/m" } }', "reads folders of this machine alone"),
        (
            'model_config_list { config { name: "m" base_path: "/m" } }',
            r"setting neither ModelServerConfig::model_type \(deprecated\) nor ModelServerConfig::model_platform",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_type: TENSORFLOW model_platform: "x" } }',
            r"Illegal setting both ModelServerConfig::model_type \(deprecated\) and ModelServerConfig::model_platform",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "x" } }',
            "Model m requests unsupported platform x",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/a" model_platform: "tensorflow" } '
            'config { name: "m" base_path: "/b" model_platform: "tensorflow" } }',
            "Illegal to list model m multiple times in config list",
        ),
        ("custom_model_config { }", "use model_config_list"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(text: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        parse(text)


def test_the_deprecated_model_type_is_a_platform() -> None:
    text = 'model_config_list { config { name: "m" base_path: "/m" model_type: TENSORFLOW } }'
    assert parse(text) == [ModelConfig("m", Path("/m"))]


def test_one_model_comes_from_flags_alone() -> None:
    assert load(Flags(model_name="m", model_base_path="/m")) == [ModelConfig("m", Path("/m"))]


def test_without_any_model_the_text_names_both_flags() -> None:
    with pytest.raises(ConfigError, match="Both server_options"):
        load(Flags())


def test_a_relative_base_path_is_refused_in_flags_too() -> None:
    with pytest.raises(ConfigError, match=r"^Expected model m to have an absolute path or URI; got base_path\(\)=a$"):
        load(Flags(model_name="m", model_base_path="a"))


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (Latest(1), {10}),
        (Latest(2), {3, 10}),
        (Latest(9), {1, 3, 10}),
        (All(), {1, 3, 10}),
        (Specific(frozenset({3, 4})), {3}),
        (Specific(frozenset()), set()),
    ],
)
def test_policies_choose_by_number(policy: Latest, chosen: set[int]) -> None:
    """10 comes after 3; a version that is asked for and not there is left out."""
    assert policy.choose([10, 1, 3]) == chosen


def test_only_folders_named_by_numbers_are_versions(tmp_path: Path) -> None:
    for name in ("1", "0002", "x3", "4.5", "-5", "٦", str(1 << 64)):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    assert ModelConfig("m", tmp_path, All()).aspired() == {1: tmp_path / "1", 2: tmp_path / "0002"}


def test_an_empty_base_path_aspires_to_nothing_and_a_missing_one_says_nothing(tmp_path: Path) -> None:
    assert ModelConfig("m", tmp_path).aspired() == {}
    assert ModelConfig("m", tmp_path / "missing").aspired() is None

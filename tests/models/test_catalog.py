from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from models.catalog import CATALOG, select, select_frameworks
from models.probes import fits
from models.spec import FRAMEWORKS, ModelSpec, UnknownNameError

SPECS = pytest.mark.parametrize("spec", CATALOG.values(), ids=list(CATALOG))


def test_the_catalog_and_the_artifacts_are_read_without_a_framework() -> None:
    """Servers and gateway configuration read both at start-up, where a framework's import would cost seconds."""
    code = (
        "import sys; from models import artifacts, catalog; artifacts.Store().missing();"
        "print({'tensorflow', 'keras', 'torch', 'sklearn'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


@SPECS
def test_an_example_is_json_and_fits_the_signature(spec: ModelSpec) -> None:
    """A client may send it as it is."""
    example = spec.example()
    sent = json.loads(json.dumps(example.inputs))
    assert list(sent) == [tensor.name for tensor in spec.inputs]
    for tensor in spec.inputs:
        shape = np.shape(sent[tensor.name])
        assert shape[0] == 1
        assert fits(np.empty(shape), tensor)


def test_the_example_of_the_regression_is_the_point_the_articles_ask_for() -> None:
    example = CATALOG["linear_regression"].example()
    assert (example.inputs, example.answer) == ({"x": [[5.0]]}, 4.0)


@SPECS
def test_names_of_tensors_are_unique_in_a_model(spec: ModelSpec) -> None:
    names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
    assert len(set(names)) == len(names)


def test_a_selection_keeps_the_catalogs_order_and_nothing_named_is_everything() -> None:
    assert [spec.name for spec in select(["convnet", "linear_regression"])] == ["linear_regression", "convnet"]
    assert select() == list(CATALOG.values())
    assert select_frameworks() == list(FRAMEWORKS)


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="no model named resnet; there are linear_regression, log"):
        select(["convnet", "resnet"])


def test_an_unknown_framework_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="no framework named jax; there are tensorflow, pytorch"):
        select_frameworks(["jax"])

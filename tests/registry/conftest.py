"""An empty registry, and run folders for it."""

import shutil

import pytest
from helpers.registries import empty_registry, make_run  # noqa: F401 (fixtures)


@pytest.fixture
def registry(empty_registry, tmp_path):  # noqa: F811
    from mlaas4hep_tf.registry import Registry

    return Registry(shutil.copytree(empty_registry, tmp_path / "registry"))

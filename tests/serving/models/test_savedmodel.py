import shutil

import numpy as np
import pytest
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.models.savedmodel import SavedModel, SessionOptions, missing_parts


@pytest.fixture(params=[True, False], ids=["fast", "public"])
def model(request, half_plus_two):
    loaded = SavedModel(half_plus_two, SessionOptions(), fast=request.param)
    yield loaded
    loaded.close()


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (2, 3, 4)])
def test_both_ways_take_any_shape(model, shape):
    (y,) = model.run(["x:0"], [np.full(shape, 2.0, np.float32)], ["y:0"])
    np.testing.assert_array_equal(y, np.full(shape, 3.0))


def test_both_ways_refuse_other_dtypes(model):
    with pytest.raises(ServingError) as caught:
        model.run(["x:0"], [np.ones(3)], ["y:0"])
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_run_that_takes_too_long_is_ended(tmp_path):
    model = SavedModel(fixtures.slow(tmp_path / "1", steps=10**11), SessionOptions())
    with pytest.raises(ServingError) as caught:
        model.run(["x:0"], [np.ones(1, np.float32)], ["y:0"], timeout=0.05)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    model.close()


@pytest.mark.parametrize(
    "part", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_half_copied_folder_is_not_complete(half_plus_two, tmp_path, part):
    copy = tmp_path / "1"
    shutil.copytree(half_plus_two, copy)
    assert missing_parts(copy) is None
    (copy / part).unlink()
    assert missing_parts(copy) is not None


def test_a_truncated_graph_is_not_complete(half_plus_two, tmp_path):
    copy = tmp_path / "1"
    shutil.copytree(half_plus_two, copy)
    whole = (copy / "saved_model.pb").read_bytes()
    (copy / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    assert missing_parts(copy) is not None

import shutil

import numpy as np
import pytest
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.models import savedmodel
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


@pytest.fixture
def fresh():
    """What `savedmodel` has found out of the private way is forgotten before and after."""
    savedmodel._has_fast_path.cache_clear()
    yield
    savedmodel._has_fast_path.cache_clear()


def test_this_tensorflow_has_the_fast_way(fresh):
    assert savedmodel._has_fast_path()


def lenient(session, feeds, fetches, timeout):
    return lambda value: [2 * value]


def wrong(session, feeds, fetches, timeout):
    return lambda value: [value]


def strict_about_shapes(session, feeds, fetches, timeout):
    return lambda value: session.run(list(fetches), dict(zip(feeds, [value], strict=True)))


@pytest.mark.parametrize("call", [lenient, wrong, strict_about_shapes, None])
def test_a_tensorflow_that_runs_otherwise_is_found_out_and_models_run_the_public_way(
    half_plus_two, fresh, monkeypatch, call
):
    if call is None:
        monkeypatch.setattr(savedmodel, "_PRIVATE", "_gone")
    else:
        monkeypatch.setattr(savedmodel, "_fast_call", call)
    model = SavedModel(half_plus_two, SessionOptions())
    assert not model.fast
    (y,) = model.run(["x:0"], [np.full((2, 2), 2.0, np.float32)], ["y:0"])
    np.testing.assert_array_equal(y, np.full((2, 2), 3.0))
    model.close()

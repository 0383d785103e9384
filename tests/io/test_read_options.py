"""One set of options for reading: checked when made, the same in JSON, folders made absolute."""

import json
from dataclasses import FrozenInstanceError

import pytest

from mlaas4hep_tf import Cache, MlaasError, ReadOptions, ReadPolicy
from mlaas4hep_tf.errors import ConfigError, PlanError
from mlaas4hep_tf.io.workers import WorkerPool, default_workers
from mlaas4hep_tf.streaming.skipped import account


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"workers": 0}, PlanError, "workers must be at least 1, not 0"),
        ({"on_bad_file": "ignore"}, ConfigError, "on_bad_file must be 'raise' or 'skip', not 'ignore'"),
        ({"on_bad_file": "skip", "max_lost_fraction": 2}, ConfigError, "must lie in 0 to 1, not 2"),
        ({"on_bad_file": "skip", "max_lost_fraction": float("nan")}, ConfigError, "must lie in 0 to 1, not nan"),
        ({"max_lost_fraction": 0.1}, ConfigError, "max_lost_fraction needs on_bad_file='skip'"),
        ({"cache": __file__}, ConfigError, "the cache must be a folder"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_birth(options, error, says):
    with pytest.raises(error, match=says) as caught:
        ReadOptions(**options)
    assert isinstance(caught.value, MlaasError)


def test_options_are_named_and_do_not_change():
    with pytest.raises(TypeError):
        ReadOptions(2)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        ReadOptions().workers = 2  # type: ignore[misc]


def test_a_relative_cache_is_a_folder_of_the_directory_it_was_named_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = ReadOptions(cache="kept")
    monkeypatch.chdir("/")
    assert read.cache == Cache(str(tmp_path / "kept"))


@pytest.mark.parametrize(
    "read",
    [
        ReadOptions(),
        ReadOptions(
            workers=3, policy=ReadPolicy(request_timeout_s=5, replicas={"root://a//": ["root://b//"]}),
            cache=Cache("/kept", 1 << 20), on_bad_file="skip", max_lost_fraction=0.25,
        ),
    ],
)  # fmt: skip
def test_json_and_back(read):
    assert ReadOptions.from_json(json.loads(json.dumps(read.to_json()))) == read


def test_pool_and_account_are_made_from_them():
    assert WorkerPool().workers == default_workers()
    assert WorkerPool(ReadOptions(workers=3)).workers == 3
    assert account(ReadOptions()) is None
    skipped = account(ReadOptions(on_bad_file="skip", max_lost_fraction=0.2))
    assert skipped is not None and skipped.max_fraction == 0.2

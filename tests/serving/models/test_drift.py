"""What models are asked, compared with the reference of their cards."""

import json
import math
import re
import shutil
import time
import urllib.request

import numpy as np
import pytest
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models.drift import NAME, Counter, Drift, Histogram, psi
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from typer.testing import CliRunner

from mlaas4hep_tf.cli.app import app

RNG = np.random.default_rng(1)


def entry(values, low=0.0, high=10.0, **more):
    finite = values[np.isfinite(values)]
    inside = np.histogram(finite, 50, (low, high))[0]
    cells = [np.sum(finite < low), *inside, np.sum(finite > high), len(values) - len(finite)]
    return {"range": [low, high], "all": list(map(int, cells))} | more


def card(**entries):
    return {"inputs": {name: name for name in entries}, "reference": {"inputs": entries}}


def test_values_are_counted_in_the_bins_of_the_reference():
    values = np.array([-1, 0, 0.1, 5, 9.99, 10, 11, 12, np.nan, np.inf], np.float32)
    counted = Histogram.of(entry(np.zeros(1))).count(values)
    assert counted.tolist() == entry(values)["all"]
    padded = Histogram.of(entry(np.zeros(1))).count(np.array([[1.0, np.nan], [2.0, 3.0]]))
    assert (padded.sum(), padded[-1]) == (3, 0)  # padding is no value


def test_psi_by_hand():
    reference, served = np.array([0, 40.0, 60.0, 0, 5]), np.array([0, 80.0, 20.0, 0, 9])
    p, q = np.array([0.5, 40.5, 60.5, 0.5]) / 102, np.array([0.5, 80.5, 20.5, 0.5]) / 102
    assert psi(reference, served) == pytest.approx(sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True)))
    assert psi(reference, reference) == 0


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.0, 0.1), (2.0, 0.25, 5.0)])
def test_psi_tells_the_same_population_from_another(shift, low, high):
    one = Histogram.of(entry(RNG.normal(5, 1, 20_000)))
    assert low <= psi(one.counts["all"], one.count(RNG.normal(5 + shift, 1, 2000))) < high


def counter_of(drift: Drift, number: int = 1, **entries) -> Counter:
    made = drift.counter("m", number, card(**entries))
    assert made is not None
    made.knows([signature()], {"x": "x"})
    return made


def counted(drift: Drift) -> dict[tuple[str, str], np.ndarray]:
    drift.waiting.join()
    return {(row.input, row.events): row.served for row in drift.rows()}


def signature() -> SignatureDef:
    made = SignatureDef()
    made.inputs["x"].name, made.outputs["selected"].name = "in:0", "kept:0"
    return made


def test_passing_events_are_compared_with_passing_events():
    values = np.arange(10.0)
    drift = Drift(Registry())
    counter = counter_of(drift, x=entry(values, passing=entry(values[5:])["all"]))
    counter.take(["in:0", "other:0"], [values, values], ["kept:0"], [values >= 5])
    found = counted(drift)
    assert found["x", "all"].tolist() == entry(values)["all"]
    assert found["x", "passing"].tolist() == entry(values[5:])["all"]


def test_a_scalar_is_no_event():
    drift = Drift(Registry())
    counter = counter_of(drift, x=entry(np.zeros(1)))
    counter.take(["in:0"], [np.array(1, np.float32)], ["kept:0"], [np.array(True)])
    assert counted(drift) == {}


def test_a_large_request_is_counted_in_part_and_a_full_queue_is_no_wait():
    drift = Drift(Registry())
    counter = counter_of(drift, x=entry(np.zeros(1)))
    counter.take(["in:0"], [np.ones(1 << 20)], [], [])
    assert counted(drift)["x", "all"].sum() == 1 << 17  # 8 MiB, of which one
    for _ in range(1000):
        counter.take(["in:0"], [np.ones(1000)], [], [])
    assert counted(drift)["x", "all"].sum() <= (1 << 17) + 1_000_000


@pytest.mark.parametrize(
    "reference",
    [None, {}, {"inputs": {"x": {"range": [0], "all": []}}}, {"inputs": {"x": {"range": [0, 1], "all": [1]}}}, 3],
)
def test_cards_without_a_reference_are_not_counted(reference):
    assert Drift(Registry()).counter("m", 1, {"reference": reference}) is None


def test_a_version_that_goes_leaves_its_cells_to_others(tmp_path):
    metrics = Registry(tmp_path)
    drift = Drift(metrics)
    for number in range(4000):  # more than there are cells for
        counter = counter_of(drift, number, x=entry(np.zeros(1)))
        counter.count({"x": np.full(3, 5.0)}, None)
        assert [sum(counts) for counts in metrics.counted(NAME).values()] == [3] if number % 500 == 0 else True
        counter.close()
    assert metrics.counted(NAME) == {} and drift.rows() == []


def get(server, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.rest_port}{path}") as reply:
        return reply.read().decode()


def test_drift_of_a_served_model(half_plus_two, start_server, tmp_path):
    shutil.copytree(half_plus_two, tmp_path / "1")
    (tmp_path / "1" / "assets.extra").mkdir(exist_ok=True)
    (tmp_path / "1" / "assets.extra" / "model_card.json").write_text(
        json.dumps(card(x=entry(RNG.uniform(0, 10, 1000))))
    )
    (tmp_path / "monitoring").write_text('prometheus_config { enable: true path: "/metrics" }')
    server = start_server(
        model_base_path=str(tmp_path), count_inputs=True, monitoring_config_file=str(tmp_path / "monitoring"),
        enable_batching=True,
    )  # fmt: skip
    body = json.dumps({"instances": [4.0] * 50 + [20.0] * 25 + [float("nan")] * 25}).encode()
    urllib.request.urlopen(f"http://127.0.0.1:{server.rest_port}/v1/models/default:predict", body).close()
    end = time.monotonic() + 60
    while not (found := json.loads(get(server, "/drift.json"))["inputs"]) and time.monotonic() < end:
        time.sleep(0.05)
    (row,) = found
    assert (row["model"], row["version"], row["input"], row["events"]) == ("default", 1, "x", "all")
    assert row["psi"] > 0.25 and (row["masked"], row["out_of_range"]) == (0.25, pytest.approx(1 / 3))
    assert row["served"][21] == 50 and row["served"][-2:] == [25, 25]
    labels = '{model_name="default",version="1",input="x",events="all"}'
    text = get(server, "/metrics")
    assert f":mlaas4hep:serving:input_masked{labels} 0.25" in text
    assert f":mlaas4hep:serving:input_psi{labels} {row['psi']}" in text
    shown = CliRunner().invoke(app, ["drift", f"http://127.0.0.1:{server.rest_port}"])
    assert shown.exit_code == 0 and re.search(r"default +1 +x +all +100 +\d\.\d{3} +25\.0 % +33\.3 %", shown.output)
    assert 'href="drift"' in get(server, "/")
    page = get(server, "/drift")
    assert "100 values, 25.0 % missing, 33.3 % out of range" in page and page.count("<path") == 2


def test_without_the_flag_there_is_nothing(server):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(server, "/drift")

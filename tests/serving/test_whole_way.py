"""From ROOT files to a served score: REST with ragged rows, gRPC and the model in this process agree."""

import html
import json
import re
import urllib.request

import keras
import numpy as np
import pytest
import uproot
from mlaas4hep_serving import Client
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server
from mlaas4hep_serving.tfaas import graphscan

from mlaas4hep_tf import RootDataset, export
from mlaas4hep_tf.models import build
from mlaas4hep_tf.train import predict_batch

EVENTS = 1100  # all of the first file


@pytest.fixture(scope="module")
def trained(demo_files, demo_specs, tmp_path_factory):
    """A model trained on ROOT files, its scores in this process, its export and the raw events."""
    keras.utils.set_random_seed(1)
    model = build("mlp", demo_specs)
    labels = {"*signal*": 1, "*": 0}
    model.fit(RootDataset(demo_files, demo_specs, labels=labels, batch_size=500).take(20), verbose=0)
    in_order = RootDataset(demo_files[:1], demo_specs, shuffle=False, batch_size=EVENTS)
    scores = predict_batch(model, next(iter(in_order)))
    path = export(model, in_order, tmp_path_factory.mktemp("models") / "tth" / "1")
    tree = uproot.open(f"{demo_files[0]}:events")
    events = tree.arrays([b.name for b in demo_specs.branches], entry_stop=EVENTS).to_list()
    return path, events, np.asarray(scores)


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "batched"])
def served(request, trained):
    server = Server(
        Options(
            port=-1,
            rest_api_port=-1,
            model_name="tth",
            model_base_path=str(trained[0].parent),
            enable_batching=request.param,
        )
    )
    yield server
    server.stop()


@pytest.mark.slow
def test_scores_agree(trained, served):
    events, expected = trained[1][:300], trained[2][:300]  # fewer than a batch may have
    assert len({len(event["Jet_pt"]) for event in events}) > 1  # there is something to pad
    url = f"http://127.0.0.1:{served.rest_port}/v1/models/tth:predict"
    with urllib.request.urlopen(url, json.dumps({"instances": events}).encode()) as reply:
        rest = np.array(json.load(reply)["predictions"])
    np.testing.assert_allclose(rest, expected, rtol=0, atol=1e-6)
    with Client(f"grpc://127.0.0.1:{served.grpc_port}") as client:
        np.testing.assert_allclose(np.asarray(client.predict(events, "tth")), expected, rtol=0, atol=1e-6)
        one_by_one = np.concatenate([client.predict([event], "tth") for event in events[:20]])
        np.testing.assert_allclose(one_by_one, expected[:20], rtol=0, atol=1e-6)


def test_the_form_of_the_page_holds_a_real_event_that_gives_its_score(request, trained, served, demo_specs):
    _, events, expected = trained
    base = f"http://127.0.0.1:{served.rest_port}/"
    with urllib.request.urlopen(base) as reply:
        page = reply.read().decode()
    bodies = [html.unescape(text) for text in re.findall(r'data-sample="([^"]*)"', page)]
    body = json.loads(bodies[0])  # of serving_default, the first
    (event,) = body["instances"]
    number = next(n for n, one in enumerate(events) if np.float32(one["ht"]) == np.float32(event["ht"]))
    assert event.keys() == set(demo_specs)
    assert event["Jet_pt"] == pytest.approx(events[number]["Jet_pt"], rel=1e-6)
    with urllib.request.urlopen(base + "v1/models/tth:predict", bodies[0].encode()) as reply:
        score = np.array(json.load(reply)["predictions"])
    np.testing.assert_allclose(score[0], expected[number], rtol=0, atol=1e-6)
    (ragged,) = (text for text in bodies if json.loads(text).get("signature_name") == "ragged")
    assert json.loads(ragged)["inputs"]["nJet_row_splits"] == [0, len(event["Jet_pt"])]
    if request.node.callspec.params["served"]:
        return  # as TF-Serving, a server that batches takes no inputs of different lengths
    with urllib.request.urlopen(base + "v1/models/tth:predict", ragged.encode()) as reply:
        np.testing.assert_allclose(np.array(json.load(reply)["outputs"])[0], score[0], rtol=0, atol=1e-6)


def test_an_export_would_pass_as_an_upload(trained):
    graphscan.check(trained[0])


def test_single_events_of_many_clients_share_batches(trained, served):
    from concurrent.futures import ThreadPoolExecutor

    _, events, expected = trained
    with Client(f"http://127.0.0.1:{served.rest_port}") as client, ThreadPoolExecutor(16) as pool:
        scores = list(pool.map(lambda event: np.asarray(client.predict([event], "tth"))[0], events[:100]))
    np.testing.assert_allclose(scores, expected[:100], rtol=0, atol=1e-6)

"""A version is the champion when it answers and not before; back in one step; under load no request fails."""

import json
import shutil
import threading
import time
import urllib.request

import numpy as np
import pytest

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.registry.targets import CONFIG, Folder, Server, Traffic


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """SavedModels that answer 1 + version, and one that cannot be loaded."""
    tf = pytest.importorskip("tensorflow")
    base = tmp_path_factory.mktemp("saved")
    for version in (1, 2, 3):
        module = tf.Module()
        signature = [tf.TensorSpec([None], tf.float32, "x")]
        call = tf.function(lambda x, v=version: {"score": 0 * x + v}, input_signature=signature)
        tf.saved_model.save(module, str(base / str(version)), signatures=call.get_concrete_function())
        (base / str(version) / "assets.extra").mkdir()
        (base / str(version) / "assets.extra" / "model_card.json").write_text(json.dumps({"name": "x"}))
    shutil.copytree(base / "3", base / "broken")
    (base / "broken" / "saved_model.pb").write_bytes(b"\x00\xff")
    return base


@pytest.fixture
def versions(registry, saved, make_run):
    """Four versions of ``tth``, of which the last one cannot be loaded."""
    for n, folder in enumerate(("1", "2", "3", "broken")):
        registry.register("tth", registry.keep(make_run(f"r{n}", 0.6 + n / 10)), saved / folder)
    return registry


@pytest.fixture
def serve(tmp_path):
    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server as Serving

    running = []

    def start(**options):
        base = tmp_path / "served"
        server = Serving(
            Options(port=0, rest_api_port=-1, publish_base_path=str(base), max_num_load_retries=0, **options)
        )
        running.append(server)
        return server, f"http://127.0.0.1:{server.rest_port}", base

    yield start
    for server in running:
        server.stop()


def answer(url, path="", body=b'{"instances": [{"x": 0}]}'):
    request = urllib.request.Request(f"{url}/v1/models/tth{path}:predict", data=body)
    with urllib.request.urlopen(request, timeout=30) as reply:
        (score,) = json.load(reply)["predictions"]
        return int(np.ravel(score)[0])


def test_promotion_and_rollback(versions, serve, tmp_path):
    from mlaas4hep_tf.registry.promotion import promote, rollback

    _, url, base = serve()
    target = Folder(base, url)
    with pytest.raises(RegistryError, match="no stable version there yet"):
        promote(versions, target, "tth", 1, canary=0.5)
    promote(versions, target, "tth", 1)
    assert answer(url) == 1
    promote(versions, target, "tth", 2)
    assert (answer(url), answer(url, "/labels/stable"), answer(url, "/versions/1")) == (2, 2, 1)
    assert versions.model("tth").aliases == {"champion": 2, "previous": 1}
    with pytest.raises(RegistryError, match=r"versions \[2, 4\] of 'tth' do not answer at .*is not a SavedModel"):
        promote(versions, target, "tth", 4)
    assert answer(url) == 2
    assert versions.model("tth").aliases == {"champion": 2, "previous": 1}
    promote(versions, target, "tth", 3, canary=0.5)
    assert {answer(url) for _ in range(60)} == {2, 3}
    assert (answer(url, "/labels/canary"), answer(url, "/labels/stable")) == (3, 2)
    rollback(versions, target, "tth")
    assert {answer(url) for _ in range(20)} == {2}
    rollback(versions, target, "tth")
    assert answer(url) == 1
    assert versions.model("tth").aliases["champion"] == 1
    card = json.loads((base / "tth/2/assets.extra/model_card.json").read_text())
    assert (card["name"], card["version"]) == ("tth", 2)


def test_tensorflow_serving_reads_the_same(tmp_path):
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    base = tmp_path / "served"
    (base / "tth").mkdir(parents=True)
    Folder(base).route("tth", Traffic(2, 3, 0.1, keep=(1,)), 0)
    (model,) = text_format.Parse((base / CONFIG).read_text(), ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path) == ("tth", str(base / "tth"))
    assert list(model.model_version_policy.specific.versions) == [1, 2, 3]
    assert dict(model.version_labels) == {"stable": 2, "canary": 3}


def test_under_load_no_request_fails(versions, serve):
    from mlaas4hep_tf.registry.promotion import promote, rollback

    _, url, base = serve()
    target = Folder(base, url)
    promote(versions, target, "tth", 1)
    end, failed, seen = threading.Event(), [], set()

    def ask():
        while not end.is_set():
            try:
                seen.add(answer(url))
                answer(url, "/labels/stable")
            except Exception as error:  # noqa: BLE001 (none may fail, whatever it is)
                failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    promote(versions, target, "tth", 2)
    promote(versions, target, "tth", 3)
    rollback(versions, target, "tth")
    time.sleep(1)  # until the last version has gone
    end.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert seen == {1, 2, 3}


KEYS = """
[[key]]
name = "trainer"
sha256 = "4bcd0fc4beb6a3ab7abb9ff09afee2ba8f4e8d1ab1cc5b8ce25e2cff69b80a6d"
scopes = ["model.publish:tth", "read", "predict"]
"""


def test_publishing_to_another_machine(versions, serve, saved, tmp_path):
    import hashlib

    from mlaas4hep_tf.registry.promotion import promote, rollback

    keys = tmp_path / "keys.toml"
    digest = hashlib.sha256(b"secret").hexdigest()
    keys.write_text(KEYS.replace(KEYS.split('"')[3], digest))
    _, url, base = serve(auth_config_file=str(keys))
    target = Server(url, "secret")
    promote(versions, target, "tth", 1)
    promote(versions, target, "tth", 2)
    assert target.traffic("tth") == Traffic(2, keep=(1,))
    assert sorted(p.name for p in (base / "tth").iterdir() if p.is_dir()) == ["1", "2"]
    with pytest.raises(RegistryError, match="refuses with .*is not a SavedModel"):
        promote(versions, target, "tth", 4)
    assert target.traffic("tth") == Traffic(2, keep=(1,))
    rollback(versions, target, "tth")
    assert target.traffic("tth") == Traffic(1, keep=(2,))
    with pytest.raises(RegistryError, match="has no scope publish of model vbf"):
        target.put("vbf", 1, saved / "1")
    with pytest.raises(RegistryError, match="a token is needed"):
        Server(url).put("tth", 9, saved / "1")

"""TFaaS's clients as its documentation writes them: the commands of its README and doc/*.md, run with curl."""

import base64
import hashlib
import http.client
import json
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import PIL.Image
import pytest
import tensorflow as tf
from helpers.savedmodels import Dense, saved
from mlaas4hep_serving.models.savedmodel import read_proto
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server
from mlaas4hep_serving.tfaas import netron, sandbox, trial
from mlaas4hep_serving.tfaas.netron import Node

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
KEY = "secret-of-the-tests"
PARAMS = {"name": "ImageModel", "model": "tf_model.pb", "labels": "labels.txt"}


class Asker:
    def __init__(self, server: Server) -> None:
        self.server = server

    def __call__(self, method: str, path: str, body=None, headers=None, token: str | None = KEY):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.rest_port, timeout=120)
        auth = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, body, {**auth, **(headers or {})})
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        return reply.status, text

    def json(self, *args, **kwargs):
        status, text = self(*args, **kwargs)
        return status, json.loads(text)


def without_variables(folder: Path) -> Path:
    """A model that a lone saved_model.pb is: two scores of an image [B, 2, 2, 1], its mean and the rest."""
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session, session.graph.as_default():
        image = v1.placeholder(tf.float32, [None, 2, 2, 1], name="image")
        mean = tf.reduce_mean(image, axis=[1, 2]) / 255.0
        v1.saved_model.simple_save(session, str(folder), {"image": image}, {"score": tf.concat([mean, 1 - mean], 1)})
    return folder


@pytest.fixture(scope="module")
def asker(tmp_path_factory):
    base = tmp_path_factory.mktemp("clients")
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    scopes = '["predict", "read", "write"]'
    (base / "auth.toml").write_text(f'[[key]]\nname = "root"\nsha256 = "{digest}"\nscopes = {scopes}\n')
    server = Server(
        Options(
            port=-1,
            rest_api_port=-1,
            enable_tfaas=True,
            tfaas_base_path=str(base / "models"),
            auth_config_file=str(base / "auth.toml"),
            trust_uploads=True,  # test_confined.py has the models that run apart, whose start takes seconds
        )
    )
    yield Asker(server)
    server.stop()


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    """Uploads without the sandbox, a process that takes seconds and has its own tests."""
    monkeypatch.setattr(sandbox, "run", lambda folder, _: trial.signatures_of(read_proto(folder).meta_graphs[0]))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """The files that the commands name."""
    folder = tmp_path_factory.mktemp("path")
    shutil.copy(without_variables(folder / "constant") / "saved_model.pb", folder / "tf_model.pb")
    (folder / "params.json").write_text(json.dumps(PARAMS))
    (folder / "labels.txt").write_text("signal\nbackground\n")
    PIL.Image.new("L", (2, 2), 255).save(folder / "file.png")
    with tarfile.open(folder / "models.tar.gz", "w:gz") as tar:  # tar cfz model.tar.gz model
        tar.add(saved(folder / "model", Dense()), "model")
    (folder / "input.json").write_text('{"keys": ["a", "b", "c"], "values": [1, 2, 3], "model": "model"}')
    return folder


def run(command: str, asker: Asker, path: Path) -> str:
    """What a documented command prints, with this server, these files and a token."""
    words = shlex.split(command.replace("\\\n", " ").replace("\n", " "))
    url = f"http://127.0.0.1:{asker.server.rest_port}"
    words = [re.sub(r"https?:/+localhost:8083", url, word).replace("/path/", f"{path}/") for word in words]
    done = subprocess.run(
        [*words, "-sS", "-H", f"Authorization: Bearer {KEY}"], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_a_model_with_params_and_labels_and_its_images(asker, path):
    upload = """curl -X POST http://localhost:8083/upload
-F 'name=ImageModel' -F 'params=@/path/params.json'
-F 'model=@/path/tf_model.pb' -F 'labels=@/path/labels.txt'"""
    assert json.loads(run(upload, asker, path))["name"] == "ImageModel"
    models = json.loads(run("curl http://localhost:8083/models", asker, path))
    assert PARAMS in [{key: model.get(key) for key in PARAMS} for model in models]
    image = "curl https://localhost:8083/image -F 'image=@/path/file.png' -F 'model=ImageModel'"
    assert json.loads(run(image, asker, path))["labels"][0] == {"label": "signal", "probability": 1.0}
    run("curl -X DELETE http://localhost:8083/delete -F 'model=ImageModel'", asker, path)
    assert "ImageModel" not in run("curl http://localhost:8083/models", asker, path)


@pytest.mark.parametrize("endpoint", ["bundle", "upload"])
def test_a_bundle_has_the_name_of_its_folder(asker, path, endpoint):
    bundle = (
        r"""curl -X POST -H "Content-Encoding: gzip" \
             -H "content-type: application/octet-stream" \
             --data-binary @/path/models.tar.gz http://localhost:8083/"""
        + endpoint
    )
    assert json.loads(run(bundle, asker, path))["name"] == "model"
    predict = r"""curl -s -X POST -H "Content-type: application/json" \
    -d@/path/input.json http://localhost:8083/json"""
    assert json.loads(run(predict, asker, path)) == [6.0, -6.0]


def test_a_bundle_needs_a_token(asker, path):
    assert asker("POST", "/bundle", (path / "models.tar.gz").read_bytes(), token=None)[0] == 401


def test_the_form_of_the_client_in_python(asker, path):
    """Its files of no known type travel in base64 with line ends, as its add_file writes them."""
    model = base64.encodebytes((path / "tf_model.pb").read_bytes())
    parts = [("model", "tf_model.pb", "application/octet-stream", model), ("labels", "l.txt", "text/plain", b"s\nb\n")]
    parts += [("params", "params.json", "application/json", json.dumps({"name": "myModel"}).encode())]
    body = b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nmyModel\r\n'
    for name, file, kind, content in parts:
        head = (
            f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\nContent-Type: {kind}\r\n\r\n'
        )
        body += head.encode() + content + b"\r\n"
    headers = {"Content-Encoding": "base64", "Content-Type": "multipart/form-data; boundary=B"}
    assert asker.json("POST", "/upload", body + b"--B--\r\n", headers)[1]["name"] == "myModel"
    status, graph = asker("GET", "/netron/myModel")
    assert status == 200 and b"<svg" in graph and b">Mean</text>" in graph and b">ConcatV2</text>" in graph
    assert b'<a href="/netron/myModel">' in asker("GET", "/netron/")[1]
    assert asker("GET", "/netron/nobody")[0] == 404
    assert asker("DELETE", "/delete/myModel")[0] == 200


def test_a_row_may_call_its_model_name(asker, path):
    run("curl -X POST --data-binary @/path/models.tar.gz http://localhost:8083/bundle", asker, path)
    row = {"keys": ["a", "b", "c"], "values": [1, 2, 3], "name": "model"}  # as doc/python_client.md has it
    assert asker.json("POST", "/json", json.dumps(row)) == (200, [6.0, -6.0])


def test_nodes_lie_below_their_inputs_and_cycles_end():
    nodes = [Node("c", "Add", ("a", "b")), Node("a", "In", ()), Node("b", "Mul", ("a", "elsewhere"))]
    assert netron.rows(nodes) == {"a": 0, "b": 1, "c": 2}
    loop = [Node("enter", "Enter", ()), Node("merge", "Merge", ("enter", "next")), Node("next", "Next", ("merge",))]
    assert netron.rows(loop) == {"enter": 0, "merge": 1, "next": 2}


def test_what_a_model_calls_its_nodes_is_escaped():
    drawn = netron.picture("g", [Node("<script>", "Add", ())])
    text = netron._reply("<b>", models=[], graphs=[drawn]).body
    assert b"<script>" not in text and b"<b>" not in text and b"&lt;script&gt;" in text

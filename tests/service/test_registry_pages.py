"""The pages of a registry beside a server of models: the same ones, without what changes anything."""

import re

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed (pip install 'mlaas4hep_tf[service]')")
Request = pytest.importorskip("mlaas4hep_serving.frontends.http").Request


@pytest.fixture(scope="module")
def page(kept):
    from mlaas4hep_tf.service.readonly import Pages

    pages = Pages(str(kept / "registry"), secured=False)

    def get(path, method="GET"):
        answer = pages(Request(method, path, {"host": "models.example:8501"}, b""))
        return answer and answer()

    return get


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/registry/", ["tth", "0.8000", "analysis=ttH"]),
        ("/registry", ["tth"]),
        ("/registry/?q=auc+%3E+0.72&by=test.accuracy", ["0.8000", "0.7500"]),
        ("/registry/models/tth", ["Versions", "Side by side"]),
        ("/registry/models/tth/2", ["Loss of each epoch", "curl http://models.example:8501/v1/models/tth/versions/2"]),
    ],
)
def test_what_is_read(page, path, told):
    reply = page(path)
    text = reply.body.decode()
    assert reply.status == 200
    assert [one for one in told if one not in text] == []
    assert not re.search(r"/promote|/rollback|data-tag|Cancel", text)
    assert not [
        link for link in re.findall(r'href="(/[^"]*)"', text) if link != "/" and not link.startswith("/registry/")
    ]


def test_what_is_not_there(page):
    assert page("/registry/models/tth/9").status == 404
    assert page("/registry/models/tth/2/secret.png").status == 404
    assert page("/registry", method="POST") is None
    assert page("/v1/models/tth") is None


def test_an_event_is_tried_at_the_server_itself(page):
    text = page("/registry/models/tth/2").body.decode()
    assert 'data-post="/v1/models/tth/versions/2:predict"' in text


def test_a_server_shows_them(kept, tmp_path):
    import urllib3
    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server

    server = Server(Options(port=0, rest_api_port=-1, publish_base_path=str(tmp_path), registry=str(kept / "registry")))
    try:
        url = f"http://127.0.0.1:{server.rest_port}"
        assert "registry/" in urllib3.request("GET", url).data.decode()
        reply = urllib3.request("GET", f"{url}/registry/models/tth/2")
        assert (reply.status, "Trained on" in reply.data.decode()) == (200, True)
        assert "form-action 'self'" in reply.headers["Content-Security-Policy"]
    finally:
        server.stop()


def test_names_of_curves_stand_apart_within_their_picture():
    from mlaas4hep_tf.service.drawing import curves

    drawn = curves(
        {"loss": [3.0, 1.0], "val_loss": [3.0, 1.01], "auc": [1.0, 2.99], "val_auc": [1.0, 3.0]}, "Each epoch"
    )
    places = [float(y) for y, name in re.findall(r'y="([\d.]+)">(\w+)', drawn) if name.endswith(("loss", "auc"))]
    assert len(places) == 4
    assert all(12 < y < 220 for y in places)
    assert min(abs(a - b) for a in places for b in places if a != b) >= 17

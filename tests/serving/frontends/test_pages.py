"""Health pages, the list of models, and the index page, also in a real browser."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import aiohttp
import pytest
import tensorflow as tf
from mlaas4hep_serving.conformance import fixtures
from mlaas4hep_serving.frontends.pages import signature_row
from mlaas4hep_serving.models import cards
from mlaas4hep_serving.options import Options
from mlaas4hep_serving.server import Server

EVIL = '<img src=x onerror="alert(1)">'


def get(server, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.rest_port}{path}", timeout=30) as reply:
            return reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """half_plus_two with a card, and a model without a version."""
    base = tmp_path_factory.mktemp("pages")
    folder = fixtures.half_plus_two(base / "half" / "3")
    (folder / cards.FILE).parent.mkdir()
    (folder / cards.FILE).write_text(json.dumps({"name": EVIL, "metrics": {"auc": 0.875}, "deep": {"a": [1, 2]}}))
    (base / "later").mkdir()
    config = base / "models.config"
    config.write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{base / name}" model_platform: "tensorflow" }}'
            for name in ("half", "later")
        )
        + "}"
    )
    server = Server(Options(port=-1, rest_api_port=-1, model_config_file=str(config), enable_model_list=True))
    yield server
    server.stop()


def test_ready_when_every_model_answers(two_models):
    assert get(two_models, "/healthz")[0] == 200
    status, _, body = get(two_models, "/readyz")
    assert (status, body) == (503, "no version of later is available\n")


def test_list_of_models_behind_a_flag(two_models, server):
    status, _, body = get(two_models, "/v1/models")
    assert status == 200
    assert json.loads(body) == {
        "models": [
            {"name": "half", "versions": [{"version": "3", "state": "AVAILABLE"}], "labels": {}},
            {"name": "later", "versions": [], "labels": {}},
        ]
    }
    assert get(server, "/v1/models")[::2] == (400, '{\n    "error": "Missing model name in request."\n}')


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def test_index_page_escapes_what_models_bring(two_models):
    status, headers, body = get(two_models, "/")
    elements = Elements()
    elements.feed(body)
    assert status == 200 and "img" not in elements.tags
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    assert EVIL not in body and "&lt;img" in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert get(two_models, "/")[1]["Content-Security-Policy"] != policy  # a nonce is used once


@pytest.mark.parametrize(
    ("example", "filled"),
    [
        ({"x": [7.5]}, {"x": [7.5]}),
        ({"x": [None]}, {"x": [float("nan")]}),
        ({"x": [1.0], "y": 2}, {"x": [0.0]}),  # of another model
        ({"x": [0.25] * 50_000}, {"x": [0.0]}),  # too large for a form
        ([1], {"x": [0.0]}),
        (None, {"x": [0.0]}),
    ],
)
def test_the_form_holds_the_example_of_the_card_if_it_fits(half_plus_two, example, filled):
    signature = tf.compat.v1.saved_model.load(  # the one that takes x as a tensor
        tf.compat.v1.Session(graph=tf.Graph()), ["serve"], str(half_plus_two)
    ).signature_def["serving_default"]
    (row,) = json.loads(signature_row("serving_default", signature, example)["sample"])["instances"]
    assert str(row) == str(filled)  # NaN is not equal to itself


class Browser:
    """Headless Chromium by its DevTools protocol."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._session, self._socket, self._count = session, socket, 0

    async def call(self, method: str, **params):
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=30)
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]

    async def value(self, expression: str):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 20):
        end = time.monotonic() + seconds
        while not (value := await self.value(expression)):
            assert time.monotonic() < end, f"did not come true: {expression}"
            await asyncio.sleep(0.05)
        return value


@contextlib.asynccontextmanager
async def browser(url: str):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", "--remote-debugging-port=0", "--window-size=1000,1400", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            end = time.monotonic() + 40
            while not port_file.exists() or not port_file.read_text().strip():
                assert time.monotonic() < end and process.poll() is None, "chromium did not start"
                await asyncio.sleep(0.05)
            port = int(port_file.read_text().split()[0])
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
                    page = next(target for target in await reply.json() if target["type"] == "page")
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    chromium = Browser(session, socket)
                    await chromium.call("Page.enable")
                    await chromium.call("Page.navigate", url=url)
                    await chromium.until("document.readyState === 'complete' && location.protocol === 'http:'")
                    yield chromium
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_index_page_in_chromium(two_models):
    async def look() -> None:
        async with browser(f"http://127.0.0.1:{two_models.rest_port}/") as page:
            assert await page.value("[...document.querySelectorAll('h2')].map(e => e.textContent)") == ["half", "later"]
            text = await page.value("document.body.innerText")
            assert "version 3 AVAILABLE" in text and "auc: 0.875" in text and EVIL in text
            sample = json.loads(await page.value("document.querySelector('textarea').value"))
            assert sample == {"instances": [{"x": [0.0]}]}
            await page.value("document.querySelector('textarea').value = '{\"instances\": [[2.0], [5.0]]}'")
            await page.value("document.querySelector('form.try button').click()")
            answer = await page.until("document.querySelector('.answer').textContent")
            assert json.loads(answer) == {"predictions": [[3.0], [4.5]]}
            assert "200, version 3" in await page.value("document.querySelector('output').textContent")
            select = "document.querySelector('form.try select')"
            await page.value(f"{select}.value = 'regress_x_to_y'; {select}.dispatchEvent(new Event('change'))")
            await page.value("document.querySelector('form.try button').click()")
            await page.until("document.querySelector('.answer').textContent.includes('results')")
            await page.value("document.querySelector('textarea').value = '{'")
            await page.value("document.querySelector('form.try button').click()")
            await page.until("document.querySelector('.answer').textContent.includes('JSON Parse error')")
            assert "400" in await page.value("document.querySelector('output').textContent")
            if folder := os.environ.get("MLAAS4HEP_SCREENSHOTS"):
                shot = await page.call("Page.captureScreenshot", captureBeyondViewport=True)
                Path(folder, "index.png").write_bytes(base64.b64decode(shot["data"]))

    asyncio.run(look())

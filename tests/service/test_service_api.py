"""The API: what is announced counts once, who may do what, errors as one line; the client says the same."""

import hashlib
import json
import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from helpers.soak import SOAK, report

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.testing import free_port

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi", reason="FastAPI is not installed (pip install 'mlaas4hep_tf[service]')")


@pytest.fixture
def serve(engine):
    """Serve the engine's API and pages; returns the URL."""
    from mlaas4hep_tf.service.access import Access
    from mlaas4hep_tf.service.api import application
    from mlaas4hep_tf.service.pages import pages

    running = []

    def start(tokens=None):
        access = Access(tokens)
        app = application(engine, access)
        app.include_router(pages(engine, access))
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.05)
        running.append((server, thread))
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


def client(url, token=None):
    from mlaas4hep_tf.service.client import ServiceClient

    return ServiceClient(url, token)


def test_data_jobs_and_models(serve, engine):
    asked = client(serve())
    files = ["/data/b.root", {"url": "/data/c.root", "uuid": "f865fc02-e993-11f1-8bf7-02fc00000001"}]
    assert asked.announce("tth", files) == 2
    assert asked.announce("tth", files) == 0
    assert [job["state"] for job in asked.jobs("tth")] == ["promoted"]
    assert asked.job(1)["judgement"] == {"champion": None}
    with pytest.raises(RegistryError, match="refuses with 409: job 1 has ended already: promoted"):
        asked.cancel(1)
    with pytest.raises(RegistryError, match="refuses with 404: there is no project 'vbf'"):
        asked.announce("vbf", ["/a.root"])
    assert [one["version"] for one in asked.search("auc > 0.72")] == [2, 3]
    with pytest.raises(RegistryError, match="refuses with 404: search"):
        asked.search("auc >")
    assert asked.promote("tth", 1) == {"stable": 1, "canary": None, "share": 0.0, "keep": []}
    assert asked.promote("tth", 2, canary=0.1) == {"stable": 1, "canary": 2, "share": 0.1, "keep": []}
    assert asked.rollback("tth")["canary"] is None


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="a campaign: MLAAS4HEP_SOAK=1")
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_notifications_half_of_them_doubled(serve, engine):
    """Of one to forty files a request, from four clients at once; the doubles under another name."""
    draws = random.Random(2)
    files = [{"url": f"/{place}/{n}.root", "uuid": str(uuid.UUID(int=n + 1))} for n in range(50_000) for place in "ab"]
    draws.shuffle(files)
    url, requests = serve(), []
    while files:
        size = draws.randint(1, 40)
        requests.append(files[:size])
        del files[:size]
    with ThreadPoolExecutor(4) as pool:
        new = sum(pool.map(lambda one: client(url).announce("tth", one), requests))
    known = [name.rpartition("/")[2] for name in engine.store.files("tth") if name != "/data/a.root"]
    report("notifications", requests=len(requests), files=sum(map(len, requests)), new=new)
    assert (new, len(known), set(known)) == (50_000, 50_000, {f"{n}.root" for n in range(50_000)})


def test_tokens_and_scopes(serve, tmp_path):
    keys = tmp_path / "tokens.toml"
    entry = '[[key]]\nname = "{}"\nsha256 = "{}"\nscopes = {}\n'
    granted = {"looks": ["read"], "tells": ["read", "write"], "tth": ["read", "model.publish:tth"]}
    keys.write_text("".join(
        entry.format(name, hashlib.sha256(name.encode()).hexdigest(), json.dumps(scopes)) for name, scopes in granted.items()
    ))  # fmt: skip
    url = serve(keys)
    with pytest.raises(RegistryError, match="401: a token is needed"):
        client(url).jobs()
    with pytest.raises(RegistryError, match="401"):
        client(url, "guess").jobs()
    assert client(url, "looks").jobs()
    with pytest.raises(RegistryError, match="403: token of 'looks' has no scope write"):
        client(url, "looks").announce("tth", ["/a.root"])
    assert client(url, "tells").announce("tth", ["/a.root"]) == 1
    with pytest.raises(RegistryError, match="403: token of 'tells' has no scope publish of tth"):
        client(url, "tells").promote("tth", 1)
    assert client(url, "tth").promote("tth", 1)["stable"] == 1


def test_pages_of_others_change_nothing(serve):
    import urllib3

    url = serve()
    cross = urllib3.request("POST", f"{url}/v1/models/tth/rollback", headers={"Content-Type": "text/plain"}, body="{}")
    assert cross.status == 415
    rebound = urllib3.request("GET", f"{url}/v1/jobs", headers={"Host": "evil.example"})
    assert rebound.status == 403


def test_the_api_is_described(serve):
    import urllib3

    paths = urllib3.request("GET", f"{serve()}/openapi.json").json()["paths"]
    assert {"/v1/data", "/v1/jobs/{number}/cancel", "/v1/models/{name}/promote"} <= set(paths)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/", ["tth", "0.8000", "analysis=ttH"]),
        ("/?q=auc+%3E+0.72", ["0.8000", "0.7500"]),
        ("/?q=auc+%3E", ["is no condition"]),
        ("/models/tth", ["Versions", "Side by side", "test.auc", "Promote 3"]),
        ("/models/tth/2", ["Loss of each epoch", "curl http", "f864a960-e993-11f1-8bf7-02fc00000001", "[1.0, NaN]"]),
        ("/jobs", ["promoted", "the first version"]),
        ("/jobs/1", ["Job 1 of tth", "/data/a.root"]),
    ],
)
def test_pages_are_read_without_javascript(serve, path, told):
    import html

    import urllib3

    reply = urllib3.request("GET", f"{serve()}{path}")
    text = html.unescape(reply.data.decode())
    assert reply.status == 200
    assert [words for words in told if words not in text] == []
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "http://" not in text.replace("curl http://localhost:8501", "").replace(
        '"http://localhost:8501"', ""
    ).replace('"http://localhost:8501/', "")


def test_a_page_that_is_not_there_says_so_in_words(serve):
    import urllib3

    reply = urllib3.request("GET", f"{serve()}/models/tht", headers={"Accept": "text/html,*/*"})
    assert (reply.status, reply.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert "no model 'tht' (did you mean 'tth'" in reply.data.decode()


def test_a_training_goes_on_from_the_champion_with_what_that_was_scanned_for(engine, monkeypatch):
    from mlaas4hep_tf.service import processes
    from mlaas4hep_tf.service.config import Project

    commands = []
    monkeypatch.setattr(processes, "start", lambda folder, command: commands.append(" ".join(command)))
    engine.registry.point("tth", "champion", 2)
    engine.store.plan_again("tth", "it was asked for")
    (job, *_) = engine.store.jobs()
    for start in ("champion", "scratch"):
        project = Project("tth", ("--label", "*=1"), ("--tree", "events"), start=start)
        engine.config = replace(engine.config, projects={"tth": project})
        engine.step()
    going_on, scratch = commands
    assert "--continue-from champion" in going_on
    assert "--tree" not in going_on
    assert "--tree events" in scratch
    assert "--continue-from" not in scratch
    for command in commands:
        assert "--hold-out 0.2:entries" in command
        assert "--against champion" in command
    assert (engine.folder(job.id) / "champion" / "version").read_text() == "2"


def test_a_person_promotes_and_rolls_back_by_clicks(serve, engine):
    import shutil

    selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install 'mlaas4hep_tf[test]')")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver here (apt-get install chromium-driver)")
    assert selenium
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    url, options = serve(), ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(option)
    options.binary_location = str(shutil.which("chromium"))
    browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        wait = WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException])  # of a page that went

        def shows(text):
            wait.until(lambda _: text in browser.find_element(By.TAG_NAME, "main").text)

        def click(text):
            browser.find_element(By.XPATH, f"//button[.='{text}']").click()

        browser.get(url)
        browser.find_element(By.LINK_TEXT, "tth").click()
        for version in (1, 2):
            shows(f"Promote {version}")
            click(f"Promote {version}")
            shows(f"Stable is version {version}")
        assert engine.registry.model("tth").aliases["champion"] == 2
        click("Roll back")
        shows("Stable is version 1")
        browser.get(f"{url}/models/tth/3")
        browser.find_element(By.NAME, "tag").send_keys("reviewed=yes")
        click("Set")
        shows("reviewed=yes")
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.quit()

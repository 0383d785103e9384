"""From files in a folder to a served model and back, and the same whatever is killed meanwhile."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from helpers.soak import SOAK
from service_demo import answer, drop, services

pytest.importorskip("fastapi", reason="FastAPI is not installed (pip install 'mlaas4hep_tf[service]')")
KILLS = 20


@pytest.mark.slow
def test_good_files_are_promoted_and_mistaken_ones_are_not(tmp_path, empty_registry):
    shutil.copytree(empty_registry, tmp_path / "registry")  # its tables take seconds to make
    with services(tmp_path, epochs=2) as both:
        drop(tmp_path / "data", "2024", 1000)
        job = both.client.wait("demo", 1)
        assert (job["state"], job["version"], job["reason"]) == ("promoted", 1, "the first version")
        score, version = answer(both.server)
        assert (version, score > 0.5) == ("1", True)
        card = json.loads((tmp_path / "served/demo/1/assets.extra/model_card.json").read_text())
        assert {"x", "Jet_0"} <= card["reference"]["inputs"].keys()  # by which drift is told
        drop(tmp_path / "data", "mistaken", 3000, mistaken=True, seed=7)
        job = both.client.wait("demo", 2)
        assert (job["state"], job["version"]) == ("kept", 2)
        assert "worse than version 1: AUC" in job["reason"]
        known = job["judgement"]["known"]
        assert known["value"] < 0.5 < known["champion"]
        assert answer(both.server) == (score, "1")
        both.client.promote("demo", 2)  # against all advice
        assert answer(both.server)[1] == "2"
        both.client.rollback("demo")
        assert answer(both.server) == (score, "1")


def trained(folder, files, kills, seed=0):
    """What came of the files where this many kills came in between: state, jobs, versions and their AUC."""
    draws = random.Random(seed)
    with services(folder, epochs=8) as both:
        shutil.copytree(files, folder / "data")
        for _ in range(kills):
            time.sleep(draws.uniform(0, 6))
            pid = folder / "service" / "jobs" / "1" / "pid"
            if pid.exists() and draws.random() < 0.5:
                try:
                    os.killpg(int(pid.read_text()), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            else:
                both.running["service"].kill()
                both.running["service"].wait()
                both.start("service")
        job = both.client.wait("demo", 1)
        found = both.client.search()
        return (
            job["state"],
            len(both.client.jobs()),
            [(one["version"], one["of"]["metrics"]["test.auc"]) for one in found],
        )


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="a campaign: MLAAS4HEP_SOAK=1")
@pytest.mark.timeout(3600)
def test_kills_lose_and_double_nothing(tmp_path, monkeypatch):
    import service_demo

    monkeypatch.setattr(
        service_demo, "CONFIG", service_demo.CONFIG.replace("settle = 1.5", "settle = 1.5\nretries = 30")
    )
    drop(tmp_path / "data", "2024", 1000)  # the same files for both: their uuids tell which events are held out
    assert trained(tmp_path / "killed", tmp_path / "data", KILLS) == trained(tmp_path / "quiet", tmp_path / "data", 0)

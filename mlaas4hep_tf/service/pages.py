"""The pages: models to find and compare, a model with its versions, jobs with their curves; read without JavaScript."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, HTMLResponse, Response
from mlaas4hep_serving.frontends.tokens import Scope

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.registry.comparison import differences
from mlaas4hep_tf.registry.entries import VersionEntry
from mlaas4hep_tf.registry.registry import RUN, SAVEDMODEL, Registry
from mlaas4hep_tf.service import drawing
from mlaas4hep_tf.service.access import Access
from mlaas4hep_tf.service.engine import Engine
from mlaas4hep_tf.service.store import OPEN

_MOST = 50  # rows of a page
_PICTURES = ("roc.png", "scores.png", "importance.png", "curves.png", "calibration.png")
_SIDES = 6  # versions side by side
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("mlaas4hep_tf.service"), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_ENVIRONMENT.filters["when"] = lambda s: "" if s is None else datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%d %H:%M")


def pages(engine: Engine, access: Access) -> APIRouter:
    """The pages of an engine, for who may read."""
    router = APIRouter(dependencies=[Depends(access.needs(Scope.READ))], include_in_schema=False)
    page = _page(access)
    store, registry = engine.store, engine.registry

    @router.get("/")
    def index(q: str = "", by: str = "test.auc") -> Response:
        try:
            found, error = registry.search(q, _MOST, by), None
        except RegistryError as told:
            found, error = [], str(told)
        return page("models", q=q, by=by, found=found, error=error, most=_MOST)

    @router.get("/models/{name}")
    def model(name: str) -> Response:
        versions = registry.versions(name)
        sides = versions[:_SIDES]
        traffic = engine.target.traffic(name)
        return page("model", model=registry.model(name), versions=versions, sides=sides, traffic=traffic,
                    differ=differences([one.of for one in sides]))  # fmt: skip

    @router.get("/models/{name}/{version}")
    def version(name: str, version: int) -> Response:
        one = registry.version(name, version)
        kept = _kept(engine, one)
        card = _card(kept)
        return page(
            "version", one=one, layers=drawing.layers(kept / RUN / "model.keras"), example=_example(card),
            curves=_drawn(registry.curves(one.of.run)), server=engine.config.server or "http://localhost:8501",
            pictures=[name for name in _PICTURES if (kept / RUN / name).exists()], importance=_importance(kept),
        )  # fmt: skip

    @router.get("/models/{name}/{version}/{picture}")
    def picture(name: str, version: int, picture: str) -> Response:
        place = _kept(engine, registry.version(name, version)) / RUN / picture
        if picture not in _PICTURES or not place.exists():
            raise RegistryError(f"version {version} of {name!r} has no {picture}")
        return FileResponse(place)

    @router.get("/jobs")
    def jobs() -> Response:
        unreadable = [(name, *one) for name in engine.config.projects for one in store.unreadable(name)]
        return page("jobs", jobs=store.jobs(most=_MOST), projects=engine.config.projects, unreadable=unreadable)

    @router.get("/jobs/{number}")
    def job(number: int) -> Response:
        return page(
            "job", job=store.job(number), open=OPEN, log=engine.log(number), judgement=engine.judgement(number),
            curves=_drawn(engine.curves(number)), files=store.files(store.job(number).project, store.job(number).upto),
        )  # fmt: skip

    return router


def _page(access: Access) -> Callable[..., Response]:
    def page(name: str, **content: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        text = _ENVIRONMENT.get_template(f"{name}.html.jinja").render(nonce=nonce, secured=access.secured, **content)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }  # fmt: skip
        return HTMLResponse(text, headers=headers)

    return page


def _drawn(series: dict[str, list[float]]) -> str:
    """Losses, and AUC beside them, as drawings."""
    chosen = [[name for name in series if name.endswith(what)] for what in ("loss", "auc", "accuracy")]
    titles = ("Loss", "AUC", "Accuracy")
    return "".join(
        drawing.curves({name: series[name] for name in names}, f"{title} of each epoch")
        for names, title in zip(chosen, titles, strict=True)
    )


def _kept(engine: Engine, one: VersionEntry) -> Path:
    """What is kept of a version's run, fetched once."""
    return fetched(engine.registry, one, Path(engine.config.place(engine.config.state)) / "fetched")


def fetched(registry: Registry, one: VersionEntry, to: Path) -> Path:
    """The artifacts of a version's run in a folder."""
    place = to / one.of.run
    for artifact in registry.artifacts(one.of.run):
        if not (place / artifact).exists():
            registry.fetch(one.of.run, artifact, place)
    return place


def _card(kept: Path) -> dict[str, Any]:
    path = kept / SAVEDMODEL / "assets.extra" / "model_card.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _example(card: dict[str, Any]) -> str:
    """The body of a request with the event of the card; NaN is what JSON has no number for."""
    example = card.get("example")
    return json.dumps({"instances": [example]}).replace("null", "NaN") if example else ""


def _importance(kept: Path) -> list[dict[str, Any]]:
    path = kept / RUN / "metrics.json"
    found = json.loads(path.read_text()).get("importance", []) if path.exists() else []
    return sorted(found, key=lambda one: -one["loss"])[:15]

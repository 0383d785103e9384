"""The pages of the service: those of its registry, with what changes things, and its jobs with their curves."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, HTMLResponse, Response
from mlaas4hep_serving.frontends.tokens import Scope

from mlaas4hep_tf.service.access import Access
from mlaas4hep_tf.service.engine import Engine
from mlaas4hep_tf.service.store import OPEN
from mlaas4hep_tf.service.views import MOST, Frame, Page, Views, drawn, page


def pages(engine: Engine, access: Access) -> APIRouter:
    """The pages of an engine, for who may read."""
    router = APIRouter(dependencies=[Depends(access.needs(Scope.READ))], include_in_schema=False)
    views = Views(engine.registry, Path(engine.config.place(engine.config.state)) / "fetched")
    store, server = engine.store, engine.config.server
    drift = (
        [(f"{server}/drift", "Drift")] if any(one.drift is not None for one in engine.config.projects.values()) else []
    )
    frame = Frame(
        "", [("/", "Models"), ("/jobs", "Jobs"), *drift], changes=True, secured=access.secured,
        server=server or "http://localhost:8501", tried="/v1/models/{name}/versions/{version}/predict",
    )  # fmt: skip

    @router.get("/")
    def index(q: str = "", by: str = "test.auc") -> Response:
        return _sent(views.models(frame, q, by))

    @router.get("/models/{name}")
    def model(name: str) -> Response:
        return _sent(views.model(frame, name, engine.target.traffic(name)))

    @router.get("/models/{name}/{version}")
    def version(name: str, version: str) -> Response:
        return _sent(views.version(frame, name, version))

    @router.get("/models/{name}/{version}/{picture}")
    def picture(name: str, version: str, picture: str) -> Response:
        return FileResponse(views.picture(name, version, picture))

    @router.get("/jobs")
    def jobs() -> Response:
        unreadable = [(name, *one) for name in engine.config.projects for one in store.unreadable(name)]
        return _sent(
            page(frame, "jobs", jobs=store.jobs(most=MOST), projects=engine.config.projects, unreadable=unreadable)
        )

    @router.get("/jobs/{number}")
    def job(number: int) -> Response:
        found = store.job(number)
        return _sent(page(
            frame, "job", job=found, open=OPEN, log=engine.log(number), judgement=engine.judgement(number),
            curves=drawn(engine.curves(number)), files=store.files(found.project, found.upto),
        ))  # fmt: skip

    return router


def _sent(made: Page) -> Response:
    text, headers = made
    return HTMLResponse(text, headers=headers)

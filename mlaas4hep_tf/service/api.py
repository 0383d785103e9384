"""The service over HTTP: data are announced, jobs and models are looked at and changed; described at /openapi.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import urllib3
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from mlaas4hep_serving.frontends.tokens import Scope
from pydantic import BaseModel, Field

from mlaas4hep_tf import __version__
from mlaas4hep_tf.errors import MlaasError
from mlaas4hep_tf.registry.promotion import promote, rollback
from mlaas4hep_tf.service.access import Access
from mlaas4hep_tf.service.engine import Engine


class NewFile(BaseModel):
    """A file: its URL, and its uuid where that is known, so that it need not be opened to be told from others."""

    url: str
    uuid: str | None = Field(None, min_length=36, max_length=36)


class NewData(BaseModel):
    """Files of a project."""

    project: str
    files: Annotated[list[str | NewFile], Field(max_length=100_000)]


class Promotion(BaseModel):
    """A version, and for a canary the share of the requests that it gets."""

    version: int
    canary: Annotated[float | None, Field(ge=0, le=1)] = None


class Tags(BaseModel):
    """Tags of a version; null takes one away."""

    version: int
    tags: dict[str, str | None]


def application(engine: Engine, access: Access) -> FastAPI:
    """The API of an engine."""
    app = FastAPI(title="mlaas4hep-tf service", version=__version__, docs_url=None, redoc_url=None)
    for routes in (_data, _jobs, _models):
        app.include_router(routes(engine, access))

    @app.exception_handler(MlaasError)
    async def _refused(request: Request, error: Exception) -> Response:
        status = 404 if request.method == "GET" else 409
        if "text/html" in request.headers.get("accept", ""):  # a person, at a page
            return PlainTextResponse(str(error), status)
        return JSONResponse({"detail": str(error)}, status)

    return app


def _data(engine: Engine, access: Access) -> APIRouter:
    store, projects = engine.store, engine.config.projects
    reads, writes = Depends(access.needs(Scope.READ)), Depends(access.needs(Scope.WRITE))
    router = APIRouter(prefix="/v1")

    def known(project: str) -> str:
        if project not in projects:
            raise HTTPException(404, f"there is no project {project!r}; there are {', '.join(projects) or 'none'}")
        return project

    @router.get("/projects", dependencies=[reads])
    def list_projects() -> dict[str, Any]:
        return {
            name: {
                "files": len(store.files(name)), "unreadable": store.unreadable(name),
                "jobs": [asdict(job) for job in store.jobs(name, most=10)],
            }
            for name in projects
        }  # fmt: skip

    @router.post("/data", dependencies=[writes], status_code=202)
    def announce(data: NewData) -> dict[str, int]:
        files = [(one, None) if isinstance(one, str) else (one.url, one.uuid) for one in data.files]
        return {"announced": len(files), "new": store.announce(known(data.project), files)}

    @router.post("/projects/{name}/jobs", dependencies=[writes], status_code=202)
    def train_again(name: str) -> dict[str, Any]:
        store.plan_again(known(name), "it was asked for")
        found = store.jobs(name, most=1)
        if not found:
            raise HTTPException(409, f"no data of project {name!r} have come yet")
        return asdict(found[0])

    return router


def _jobs(engine: Engine, access: Access) -> APIRouter:
    store = engine.store
    reads, writes = Depends(access.needs(Scope.READ)), Depends(access.needs(Scope.WRITE))
    router = APIRouter(prefix="/v1")

    @router.get("/jobs", dependencies=[reads])
    def list_jobs(project: str | None = None, most: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        return {"jobs": [asdict(job) for job in store.jobs(project, most=most)]}

    @router.get("/jobs/{number}", dependencies=[reads])
    def show_job(number: int) -> dict[str, Any]:
        job = asdict(store.job(number))
        return job | {"judgement": engine.judgement(number), "curves": engine.curves(number)}

    @router.get("/jobs/{number}/log", dependencies=[reads], response_class=PlainTextResponse)
    def show_log(number: int) -> str:
        store.job(number)
        return engine.log(number)

    @router.post("/jobs/{number}/cancel", dependencies=[writes])
    def cancel(number: int) -> dict[str, Any]:
        return asdict(store.cancel(number))

    @router.post("/jobs/{number}/retry", dependencies=[writes])
    def retry(number: int) -> dict[str, Any]:
        return asdict(store.retry(number))

    return router


def _models(engine: Engine, access: Access) -> APIRouter:
    registry, target = engine.registry, engine.target
    reads, publishes = Depends(access.needs(Scope.READ)), Depends(access.needs(Scope.PUBLISH))
    router = APIRouter(prefix="/v1/models")

    @router.get("", dependencies=[reads])
    def search(
        q: str = "", by: str = "test.auc", most: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, Any]:  # fmt: skip
        return {"versions": [asdict(one) for one in registry.search(q, most, by)]}

    @router.get("/{name}", dependencies=[reads])
    def show(name: str) -> dict[str, Any]:
        return asdict(registry.model(name)) | {"versions": [asdict(one) for one in registry.versions(name)]}

    @router.get("/{name}/versions/{version}", dependencies=[reads])
    def show_version(name: str, version: str) -> dict[str, Any]:
        return asdict(registry.version(name, version))

    @router.post("/{name}/promote", dependencies=[publishes])
    def promote_version(name: str, wanted: Promotion) -> dict[str, Any]:
        return asdict(promote(registry, target, name, wanted.version, canary=wanted.canary))

    @router.post("/{name}/rollback", dependencies=[publishes])
    def roll_back(name: str) -> dict[str, Any]:
        return asdict(rollback(registry, target, name))

    @router.post("/{name}/tag", dependencies=[publishes])
    def tag(name: str, wanted: Tags) -> dict[str, Any]:
        registry.tag(name, wanted.version, wanted.tags)
        return asdict(registry.version(name, wanted.version))

    @router.post("/{name}/versions/{version}/predict", dependencies=[Depends(access.needs(Scope.PREDICT))])
    async def predict(name: str, version: int, request: Request) -> Response:
        """What the server of the models answers, for the pages."""
        if engine.config.server is None:
            raise HTTPException(404, "service.toml names no server of the models")
        url = f"{engine.config.server.rstrip('/')}/v1/models/{name}/versions/{version}:predict"
        body = await request.body()
        reply = await run_in_threadpool(urllib3.request, "POST", url, body=body, timeout=30, retries=False)
        return Response(reply.data, reply.status, media_type="application/json")

    return router

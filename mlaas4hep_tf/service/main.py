"""The service as one process: engine, API and pages on uvicorn."""

from __future__ import annotations

from pathlib import Path

import uvicorn

from mlaas4hep_tf.service.access import Access
from mlaas4hep_tf.service.api import application
from mlaas4hep_tf.service.config import ServiceConfig
from mlaas4hep_tf.service.engine import Engine
from mlaas4hep_tf.service.pages import pages


def run(config: ServiceConfig) -> None:
    """Serve until a signal ends it; trainings go on, and are found again at the next start."""
    access = Access(Path(config.place(config.tokens)) if config.tokens is not None else None)
    engine = Engine(config)
    app = application(engine, access)
    app.include_router(pages(engine, access))
    engine.start()
    try:
        uvicorn.run(app, host=config.host, port=config.port, log_level="warning", access_log=False)
    finally:
        engine.stop()

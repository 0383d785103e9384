"""What the pages show of a registry, as text: models to find and compare, a model with its versions, one version.

The service serves it with what changes things, and `mlaas4hep-serve --registry` without.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.registry.comparison import differences
from mlaas4hep_tf.registry.entries import VersionEntry
from mlaas4hep_tf.registry.registry import RUN, SAVEDMODEL, Registry
from mlaas4hep_tf.registry.targets import Traffic
from mlaas4hep_tf.service import drawing

MOST = 50  # rows of a page
_PICTURES = tuple(
    f"{name}.png"
    for name in ("roc", "rejection", "scores", "confusion", "told", "residuals", "profile", "importance", "calibration")
)
_SIDES = 6  # versions side by side
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("mlaas4hep_tf.service"), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_ENVIRONMENT.filters["when"] = lambda s: "" if s is None else datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%d %H:%M")
Page = tuple[str, dict[str, str]]  # HTML, and the headers that it is sent with


@dataclass(frozen=True)
class Frame:
    """Where pages stand.

    Attributes:
        root: of their paths.
        links: (path, text) of other pages.
        changes: they have forms that change something.
        secured: changes and trials need a token.
        server: URL of the server of the models, as people call it.
        tried: path to which an event is posted, with ``{name}`` and ``{version}``.
    """

    root: str
    links: Sequence[tuple[str, str]]
    changes: bool
    secured: bool
    server: str
    tried: str


class Views:
    """The pages of a registry.

    Args:
        kept: folder in which artifacts of runs are kept once they were looked at.
    """

    def __init__(self, registry: Registry, kept: Path) -> None:
        self._registry, self._kept = registry, kept

    def models(self, frame: Frame, q: str, by: str) -> Page:
        """Versions that a search finds."""
        try:
            found, error = self._registry.search(q, MOST, by), None
        except RegistryError as told:
            found, error = [], str(told)
        return page(frame, "models", q=q, by=by, found=found, error=error, most=MOST)

    def model(self, frame: Frame, name: str, traffic: Traffic | None) -> Page:
        """A model with its versions side by side."""
        versions = self._registry.versions(name)
        sides = versions[:_SIDES]
        return page(frame, "model", model=self._registry.model(name), versions=versions, sides=sides, traffic=traffic,
                    differ=differences([one.of for one in sides]))  # fmt: skip

    def version(self, frame: Frame, name: str, number: str) -> Page:
        """All that is known of a version."""
        one = self._registry.version(name, number)
        kept = self._fetched(one)
        return page(
            frame, "version", one=one, layers=drawing.layers(kept / RUN / "model.keras"), example=_example(_card(kept)),
            curves=drawn(self._registry.curves(one.of.run)), importance=_importance(kept),
            tried=frame.tried.format(name=name, version=one.version),
            pictures=[name for name in _PICTURES if (kept / RUN / name).exists()],
        )  # fmt: skip

    def picture(self, name: str, number: str, picture: str) -> Path:
        """A figure of a version's run.

        Raises:
            RegistryError: there is none of that name.
        """
        place = self._fetched(self._registry.version(name, number)) / RUN / picture
        if picture not in _PICTURES or not place.exists():
            raise RegistryError(f"version {number} of {name!r} has no {picture}")
        return place

    def _fetched(self, one: VersionEntry) -> Path:
        """The artifacts of a version's run in a folder; each appears there whole."""
        place = self._kept / one.of.run
        for artifact in self._registry.artifacts(one.of.run):
            if not (place / artifact).exists():
                place.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=place, prefix=".") as scratch:
                    found = self._registry.fetch(one.of.run, artifact, scratch)
                    if not (place / artifact).exists():
                        found.rename(place / artifact)
        return place


def page(frame: Frame, template: str, **content: Any) -> Page:
    """A page, which runs and shows nothing but what carries its nonce."""
    nonce = secrets.token_urlsafe(16)
    text = _ENVIRONMENT.get_template(f"{template}.html.jinja").render(nonce=nonce, frame=frame, **content)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return text, {
        "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }  # fmt: skip


def drawn(series: Mapping[str, Sequence[float]]) -> str:
    """Losses, and AUC beside them, as drawings."""
    chosen = [[name for name in series if name.endswith(what)] for what in ("loss", "auc", "accuracy")]
    titles = ("Loss", "AUC", "Accuracy")
    return "".join(
        drawing.curves({name: series[name] for name in names}, f"{title} of each epoch")
        for names, title in zip(chosen, titles, strict=True)
    )


def _card(kept: Path) -> dict[str, Any]:
    path = kept / SAVEDMODEL / "assets.extra" / "model_card.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _example(card: Mapping[str, Any]) -> str:
    """The body of a request with the event of the card; NaN is what JSON has no number for."""
    example = card.get("example")
    return json.dumps({"instances": [example]}).replace("null", "NaN") if example else ""


def _importance(kept: Path) -> list[dict[str, Any]]:
    path = kept / RUN / "metrics.json"
    found = json.loads(path.read_text()).get("importance", []) if path.exists() else []
    return sorted(found, key=lambda one: -one["loss"])[:15]

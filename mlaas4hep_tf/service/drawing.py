"""Curves and networks as SVG and text, drawn without JavaScript."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _LINE = 560, 220, 66, 120, 26, 18


def curves(series: Mapping[str, Sequence[float]], title: str) -> str:
    """Values per epoch as an SVG of lines, each named at its end; nothing where there are none."""
    values = [value for one in series.values() for value in one]
    if not values:
        return ""
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    epochs = max(map(len, series.values()))

    def place(epoch: int, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (epoch / max(epochs - 1, 1))
        y = 10 + (_HEIGHT - _BOTTOM - 20) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    lines, taken = list[str](), list[float]()
    for number, (name, one) in enumerate(series.items()):
        x, y = place(len(one) - 1, one[-1]).split(",")
        beside = _beside(float(y) + 4, taken)
        points = " ".join(place(epoch, value) for epoch, value in enumerate(one))
        lines.append(
            f'<polyline class="s{number % 4}" points="{points}"/>'
            f'<circle class="s{number % 4}" cx="{float(x) + 8:.1f}" cy="{beside - 4:.1f}" r="4"/>'
            f'<text x="{float(x) + 16:.1f}" y="{beside:.1f}">{_escaped(name)}</text>'
        )
    return (
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_escaped(title)}">'
        f'<text x="4" y="18">{high:.4g}</text><text x="4" y="{_HEIGHT - _BOTTOM - 6}">{low:.4g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{_escaped(title)}, 1 to {epochs}</text>{"".join(lines)}</svg>'
    )


def _beside(y: float, taken: list[float]) -> float:
    """Where a name stands that does not cover those that stand there already: below them, at the bottom above them."""
    step = _LINE if y < _HEIGHT / 2 else -_LINE
    while any(abs(y - other) < _LINE for other in taken):
        y += step
    taken.append(y)
    return y


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def layers(model: Path) -> list[tuple[str, str, str]]:
    """The layers of a ``.keras`` file: name, kind and what it was made with."""
    if not model.exists():
        return []
    try:
        with zipfile.ZipFile(model) as file:
            config = json.loads(file.read("config.json"))["config"]
    except (zipfile.BadZipFile, KeyError, ValueError):  # a model of another kind has no layers to show
        return []
    return [
        (str(one["config"].get("name", "")), one["class_name"], _made_with(one["config"])) for one in config["layers"]
    ]


_SHOWN = ("units", "filters", "kernel_size", "num_heads", "key_dim", "activation", "rate", "batch_shape", "axis")


def _made_with(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {config[name]}" for name in _SHOWN if config.get(name) is not None)

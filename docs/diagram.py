"""Draws docs/architecture.svg: modules as boxes, and the way of the data as arrows (``python docs/diagram.py``).

A test holds it to the code: every box is a module, and of two that an arrow joins one imports the other.
"""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT, BOX, ROW = 920, 500, (128, 46), 84
LAYERS: dict[str, list[dict[str, str]]] = {  # layer of the paper -> rows of boxes: module -> what it does
    "Streaming layer": [
        {
            "io/files": "names, URLs",
            "streaming/open_files": "schema, baskets",
            "streaming/plan": "which entries when",
            "io/workers": "processes",
        },
        {"scanner": "pass 1", "io/baskets": "decode", "io/reader": "pack by group", "streaming/chunks": "chunks"},
    ],
    "Training layer": [
        {
            "specs": "constants",
            "transforms/vector": "pad, norm, mask",
            "streaming/pipeline": "batches",
            "dataset": "pass 2",
        },
        {"models": "Keras", "runs/run": "run folder", "evaluation": "AUC, rejection", "train": "fit, evaluate"},
    ],
    "Inference layer": [{"predict": "scores.root", "": "", "exporter": "SavedModel"}],
}
ARROWS = [  # what one makes goes to the other
    ("io/files", "streaming/open_files"), ("streaming/open_files", "scanner"), ("scanner", "specs"),
    ("io/baskets", "io/reader"),
    ("io/reader", "streaming/chunks"), ("streaming/plan", "streaming/chunks"), ("io/workers", "streaming/chunks"),
    ("specs", "transforms/vector"), ("transforms/vector", "streaming/pipeline"),
    ("streaming/chunks", "streaming/pipeline"), ("streaming/pipeline", "dataset"), ("dataset", "train"),
    ("train", "evaluation"), ("evaluation", "runs/run"), ("models", "runs/run"), ("models", "predict"),
    ("models", "exporter"), ("transforms/vector", "exporter"),
]  # fmt: skip
COLORS = {"Streaming layer": "#4477aa", "Training layer": "#ee6677", "Inference layer": "#228833"}


def places() -> dict[str, tuple[float, float, str, str]]:
    """Module -> x and y of the middle of its box, its note and its layer."""
    found, y = {}, 60.0
    for layer, rows in LAYERS.items():
        for row in rows:
            for number, (module, note) in enumerate(row.items()):
                found[module] = (230.0 + 190 * number, y, note, layer)
            y += ROW
        y += 24
    del found[""]  # a gap
    return found


def draw() -> str:
    where = places()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Modules and the way of the data" font-family="system-ui, DejaVu Sans, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#7a8794"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#fff"/>',
    ]
    parts += [_layer(layer, [p for p in where.values() if p[3] == layer]) for layer in LAYERS]
    parts += [_arrow(where[a], where[b]) for a, b in ARROWS]
    parts += [_box(module, *place) for module, place in where.items()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _layer(layer: str, boxes: list[tuple[float, float, str, str]]) -> str:
    top, bottom = min(b[1] for b in boxes) - 40, max(b[1] for b in boxes) + 40
    return (
        f'<rect x="12" y="{top:g}" width="{WIDTH - 24}" height="{bottom - top:g}" rx="8" fill="{COLORS[layer]}" '
        f'opacity="0.08"/><text x="28" y="{(top + bottom) / 2:g}" font-size="14" font-weight="600" '
        f'fill="{COLORS[layer]}">{layer}</text>'
    )


def _box(module: str, x: float, y: float, note: str, layer: str) -> str:
    width, height = BOX
    return (
        f'<g><rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="6" fill="#fff" '
        f'stroke="{COLORS[layer]}"/><text x="{x:g}" y="{y - 3:g}" text-anchor="middle" font-size="13" '
        f'fill="#1b2733">{module}</text><text x="{x:g}" y="{y + 14:g}" text-anchor="middle" font-size="11" '
        f'fill="#5b6b7b">{note}</text></g>'
    )


def _arrow(start: tuple[float, float, str, str], end: tuple[float, float, str, str]) -> str:
    (x1, y1), (x2, y2) = _edge(start, end), _edge(end, start)
    return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="#7a8794" marker-end="url(#tip)"/>'


def _edge(box: tuple[float, float, str, str], towards: tuple[float, float, str, str]) -> tuple[float, float]:
    """Where the line from the middle of one box to another leaves it."""
    dx, dy = towards[0] - box[0], towards[1] - box[1]
    share = min(side / 2 / abs(d) for side, d in zip(BOX, (dx, dy), strict=True) if d)
    return box[0] + dx * share, box[1] + dy * share


if __name__ == "__main__":
    (Path(__file__).parent / "architecture.svg").write_text(draw())

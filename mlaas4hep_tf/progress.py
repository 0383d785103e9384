"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        speed = f"{task.finished_speed or task.speed or 0:,.0f} {unit}/s"
        return Text(f"{task.completed:,.0f}/{task.total or 0:,.0f} {unit}  {speed}", style="progress.data.speed")


@contextmanager
def progress_bar(what: str, total: int, unit: str, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more `unit`s are done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<9}"), BarColumn(30), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task(what, total=total, unit=unit)
        yield lambda done: progress.update(task, advance=done)

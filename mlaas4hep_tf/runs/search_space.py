"""What a search of hyperparameters tries: options of ``mlaas4hep-tf train`` and the values that each may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlaas4hep_tf.errors import ConfigError

Value = str | int | float


class Trial(Protocol):
    """What of an Optuna trial is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...


@dataclass(frozen=True)
class Choices:
    """One of some values.

    Attributes:
        option: of ``mlaas4hep-tf train``, without the dashes.
        values: what may stand behind it.
    """

    option: str
    values: tuple[str, ...]

    def suggest(self, trial: Trial) -> Value:
        return trial.suggest_categorical(self.option, self.values)


@dataclass(frozen=True)
class Range:
    """A number between two others, both included; whole where both are.

    Attributes:
        option: of ``mlaas4hep-tf train``, without the dashes.
        low, high: the two.
        log: every factor is as likely, rather than every difference.
    """

    option: str
    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Trial) -> Value:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.option, self.low, self.high, log=self.log)
        return trial.suggest_float(self.option, self.low, self.high, log=self.log)


Searched = Choices | Range


def searched(text: str) -> Searched:
    """``lr=1e-4:1e-2:log``, ``epochs=2:10`` or ``model=mlp,set``.

    Raises:
        ConfigError: text that is neither.
    """
    option, _, said = text.partition("=")
    option = option.strip().removeprefix("--")
    parts = [part.strip() for part in said.split(":")]
    if option and len(parts) == 1:
        values = tuple(value.strip() for value in said.split(",") if value.strip())
        if len(values) > 1:
            return Choices(option, values)
    elif option and len(parts) in (2, 3) and parts[2:] in ([], ["log"]):
        try:
            low, high = map(_number, parts[:2])
        except ValueError:
            low = high = 0
        if low < high and (low > 0 or len(parts) == 2):
            return Range(option, low, high, log=len(parts) == 3)
    raise ConfigError(
        f"--search needs an option of train and its values, as lr=1e-4:1e-2:log, epochs=2:10 or model=mlp,set: {text!r}"
    )


def _number(text: str) -> float:
    return int(text) if text.lstrip("+-").isdigit() else float(text)

"""The traditional reference (the paper's TMVA BDT): boosted decision trees on arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from outside import Arrays
from sklearn.ensemble import HistGradientBoostingClassifier


def scikit_learn(seed: int) -> Any:
    """scikit-learn's defaults, but that training stops on a part of its own of the training events."""
    return HistGradientBoostingClassifier(max_iter=500, early_stopping=True, random_state=seed)


def xgboost(seed: int) -> Any:
    """XGBoost with the sizes of scikit-learn's defaults; one thread, for its threads spin where cores are shared."""
    from xgboost import XGBClassifier  # an extra

    return XGBClassifier(
        n_estimators=150,
        learning_rate=0.1,
        max_leaves=31,
        grow_policy="lossguide",
        tree_method="hist",
        n_jobs=1,
        seed=seed,
    )


def train(make: Callable[[int], Any], parts: Mapping[str, Arrays], seed: int) -> tuple[dict[str, Any], float]:
    """Labels and scores of each part, and seconds of the training."""
    model = make(seed)
    start = perf_counter()
    model.fit(*parts["train"])
    seconds = perf_counter() - start
    return {name: (y, model.predict_proba(x)[:, 1]) for name, (x, y) in parts.items()}, seconds

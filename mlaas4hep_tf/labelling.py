"""What a dataset tells of events beside their features: labels, numbers and weights, as users give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from mlaas4hep_tf.errors import LabelError, PlanError
from mlaas4hep_tf.io.files import RootFile
from mlaas4hep_tf.specs import Specs, TargetSpec
from mlaas4hep_tf.streaming.skipped import Skipped
from mlaas4hep_tf.streaming.targets import LabelDtype, PerFile, Target, resolve_target
from mlaas4hep_tf.streaming.targets import label_dtype as default_label_dtype
from mlaas4hep_tf.tasks import output_names


@dataclass(frozen=True)
class Told:
    """Labels, numbers and weights, as for `RootDataset`.

    Attributes:
        labels: of classes, as numbers; or a branch.
        weights: a number per file, or a branch.
        dtype: of the labels; None: by what they are.
        names: of the classes, where labels were given by name.
        targets: branches of numbers that are told too.
    """

    labels: PerFile | None
    weights: PerFile | None
    dtype: LabelDtype | None
    names: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in get_args(LabelDtype):
            raise PlanError(f"label_dtype must be one of {', '.join(get_args(LabelDtype))}, not {self.dtype!r}")
        if self.weights is not None and self.labels is None and not self.targets:
            raise LabelError("weights go to the loss together with labels: give labels= as well")
        twice = [name for name in self.targets if [self.labels, *self.targets].count(name) > 1]
        if twice:
            raise LabelError(f"branch {twice[0]!r} is told twice: name each target once, and no label among them")

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches that are told, and so are no features."""
        return tuple(given for given in (self.labels, *self.targets, self.weights) if isinstance(given, str))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Name of what is told in each batch, by the output of the model that is to tell it (`tasks.output_names`)."""
        return output_names(self.labels is not None, self.targets) if self.targets else ()

    def stored(self, specs: Specs) -> tuple[str, ...]:
        """Those of the branches that are in the files."""
        return tuple(name for name in self.branches if name not in _derived(specs))

    def check(self, specs: Specs) -> None:
        """Raise LabelError unless they go with these features."""
        features = {b.name for b in specs.branches}
        for name in self.branches:
            if name in features:
                raise LabelError(
                    f"branch {name!r} cannot be label or weight and a feature too: scan with labels=, targets= or "
                    "weights= (--labels, --target, --weights), or exclude it (--exclude)"
                )

    def resolve(
        self, files: Sequence[RootFile], specs: Specs, skipped: Skipped | None
    ) -> tuple[Target | None, tuple[Target, ...], Target | None]:
        """Labels, targets and weights as numbers of the files, or as branches, which may be derived."""
        failed = tuple(skipped.at_opening) if skipped is not None else ()
        derived = _derived(specs)

        def resolved(what: str, given: PerFile | None) -> Target | None:
            if isinstance(given, str) and given in derived:
                return Target(branch=given)
            return resolve_target(what, given, files, failed)

        numbers = tuple(found for name in self.targets if (found := resolved("targets", name)) is not None)
        return resolved("labels", self.labels), numbers, resolved("weights", self.weights)

    def typed(self, labels: Target | None, known: Sequence[TargetSpec]) -> Target | None:
        """The labels with the dtype in which they are delivered."""
        if labels is None:
            return None
        return replace(labels, dtype=self.dtype or _label_dtype(labels, known), names=self.names)


def _derived(specs: Specs) -> frozenset[str]:
    """Derived branches that are labels, targets or weights by the specs."""
    return frozenset(target.name for target in specs.targets).intersection(specs.analysis.defined)


def _label_dtype(labels: Target, known: Sequence[TargetSpec]) -> LabelDtype:
    if not labels.branch:
        return default_label_dtype(set(labels.per_file), min(labels.per_file), max(labels.per_file))
    spec = next(target for target in known if target.name == labels.branch)
    if spec.dtype.startswith("float"):
        return "float32"
    return default_label_dtype([value for value, _ in spec.found], spec.min, spec.max)

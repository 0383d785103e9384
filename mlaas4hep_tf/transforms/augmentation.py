"""Augmentation: `Augmentation`, what may be changed of the events that are trained on; no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlaas4hep_tf.errors import PlanError, near_misses
from mlaas4hep_tf.io.branches import meant
from mlaas4hep_tf.specs import Specs


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training events, in the unit of the branches and before anything is normalised.

    They are of the features alone: what is derived from changed branches, and counts, stay as they were.  Names are
    names or patterns.

    Attributes:
        rotate: angles phi, of objects or of the event: all of an event are turned by one angle, into [-pi, pi).
        flip: branches such as eta: in half of the events all of them change their sign.
        drop: group, as ``Jet``, or branch of it -> probability with which each of its objects is left out: its values
            are missing, and the objects behind it stay in their place.
        smear: branches -> relative width: each value x becomes x (1 + width g), g of a normal distribution.
    """

    rotate: tuple[str, ...] = ()
    flip: tuple[str, ...] = ()
    drop: Mapping[str, float] = field(default_factory=dict)
    smear: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, share in self.drop.items():
            if not 0 <= share < 1:
                raise PlanError(f"augmentation: objects are dropped with a probability in [0, 1), not {name}: {share}")
        for name, width in self.smear.items():
            if not 0 <= width < math.inf:
                raise PlanError(f"augmentation: values are smeared by a positive width, not {name}: {width}")
        if not (self.rotate or self.flip or self.drop or self.smear):
            raise PlanError("augmentation: nothing is to be changed; say rotate=, flip=, drop= or smear=")

    def branches(self, specs: Specs) -> dict[str, dict[str, float]]:
        """What is done -> branch -> with which number.

        Raises:
            PlanError: a name of no branch or group.
        """
        groups = {name: [b.name for b in members] for name, members in specs.groups.items()}
        groups |= {group[1:]: names for group, names in groups.items() if group.startswith("n") and group[1:]}
        given = {"rotate": dict.fromkeys(self.rotate, 1.0), "flip": dict.fromkeys(self.flip, 1.0),
                 "drop": self.drop, "smear": self.smear}  # fmt: skip
        found: dict[str, dict[str, float]] = {}
        for what, numbers in given.items():
            found[what] = {}
            for name, number in numbers.items():
                known = groups if what == "drop" else {}
                names = known.get(name) or meant(name, tuple(specs))
                if not names:
                    near = near_misses(name, (*specs, *known))
                    raise PlanError(f"augmentation: {what}={name!r} is no feature{near}")
                found[what] |= dict.fromkeys(names, number)
        for branch in specs.flat:
            if branch.name in found["drop"]:
                raise PlanError(f"augmentation: drop is of objects, and {branch.name!r} is of the event")
        return found

    @staticmethod
    def from_json(content: Mapping[str, object]) -> Augmentation:
        """What `dataclasses.asdict` gave."""
        return Augmentation(**{name: tuple(v) if isinstance(v, list) else v for name, v in content.items()})  # type: ignore[arg-type]  # as it was written

"""What a user should know of scanned data before training on them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from mlaas4hep_tf.errors import shorten
from mlaas4hep_tf.io.branches import IDENTIFIERS, are_predictions
from mlaas4hep_tf.specs import BranchSpec, Specs, at_quantile

TRUTH = (
    "MC*",
    "nMC*",
    "mc_*",
    "Gen*",
    "nGen*",
    "gen*",
    "*_gen[A-Z]*",
    "*[a-z]Gen[A-Z]*",
    "*[np]Flavour",
    "LHE*",
    "nLHE*",
    "HTXS*",
    "*[tT]ruth*",
    "isSignal",
    "*[wW]eight*",
    "Particle.*",  # of Delphes
)
IDENTIFYING = re.compile(  # in small letters without underscores
    "(event|evt|run)(number|num|no|nr|id)?|lumi(block|section)?|luminosityblock|lbn|mcchannelnumber|dsid"
)
_APART = "; take them out by exclude= (--exclude), or as identifiers= (--identifier) if there is one an event"
_DROP = "; specs.without_constant() (--drop-constant) leaves them out"
_TRUTH = "; take them out by exclude= (--exclude) or as labels= and weights=, unless they are meant"
WIDE_COLUMNS, WIDE_FACTOR = 1000, 10  # of a group that few events make so wide, against what the others need
FLOAT32_INTEGERS = 2**24  # beyond it float32 does not hold every integer


def remarks(specs: Specs, labels: str | None = None) -> list[str]:
    """What a user should know of the data before training; `labels` is the branch of these, if there is one."""
    found = [f"branch {name!r} is left out: {why}" for name, why in specs.left_out.items()]
    if len(found) > 8:
        found = [f"{len(found)} branches are left out as they are no numbers: {shorten(specs.left_out)}"]
    unasked = [b for b in specs.branches if b.name not in specs.selection.branches]
    truth = [b.name for b in unasked if is_truth(b.name)]
    identifying = [b.name for b in unasked if "int" in b.dtype and identifies(b.name)]
    for what, names, remedy in (
        ("without a finite value (all columns masked)", [b.name for b in specs.branches if b.empty], _DROP),
        ("with one constant value (tells nothing)", [b.name for b in specs.branches if b.constant], _DROP),
        ("with integers beyond 2^24 (float32 rounds them)", [b.name for b in specs.branches if _rounds(b)], ""),
        ("with NaN or infinite values (masked)", [b.name for b in specs.branches if b.nan + b.posinf + b.neginf], ""),
        ("named like truth or weights, and yet to learn from", truth, _TRUTH),
        ("named like what tells events, runs or samples apart, and yet to learn from", identifying, _APART),
    ):
        if names:
            found.append(f"branch{'es' * (len(names) > 1)} {what}: {shorten(names)}{remedy}")
    return found + [*_one_class(specs, labels), *_too_wide(specs), *_predictions(specs), *_unknown_identifiers(specs)]


def is_truth(name: str) -> bool:
    """Whether a branch is called as the experiments call what only simulation knows, or an event's weight."""
    last = name.rsplit("/", 1)[-1]
    parts = last.split(".")
    ends = [".".join(parts[number:]) for number in range(len(parts))]
    return any(fnmatchcase(end, pattern) for end in ends for pattern in TRUTH)


def identifies(name: str) -> bool:
    """Whether a branch is called as the experiments call the numbers of events, runs, luminosity blocks and samples.

    Of ``EventInfoAuxDyn.eventNumber`` the last part is looked at, of ``Event/Event.Number`` the last two together.
    """
    last = name.rsplit("/", 1)[-1].lower().replace("_", "")
    ways = (last.replace(".", ""), last.rpartition(".")[2])
    return any(IDENTIFYING.fullmatch(way) for way in ways)


def _one_class(specs: Specs, labels: str | None) -> Iterator[str]:
    for target in specs.targets:
        if target.name == labels and target.min is not None and target.min == target.max:
            yield (
                f"all events have label {target.min:g} in {labels!r}: a classifier needs events of two classes, so add "
                "files of the others, or label files by name (labels=, --label)"
            )


def _too_wide(specs: Specs) -> Iterator[str]:
    """Groups that a few events make far wider than the others need, with the quantile that would do."""
    for group, members in specs.groups.items():
        for quantile in (0.999, 0.99):
            enough = at_quantile(members[0], quantile)
            if members[0].length * len(members) >= WIDE_COLUMNS and members[0].length >= WIDE_FACTOR * max(enough, 1):
                yield (
                    f"the largest event has {members[0].length} objects of {group!r}, which makes the vector as wide; "
                    f"{enough} hold {quantile:.1%} of the events: cut it by specs.with_lengths(quantile={quantile}) "
                    f"(--quantile {quantile})"
                )
                break


def _predictions(specs: Specs) -> Iterator[str]:
    if are_predictions([*specs]):
        yield (
            "the files hold scores that `predict` wrote, and no events: name those that were predicted; scores are "
            "read beside them as a friend (friends=, --friend)"
        )


def _unknown_identifiers(specs: Specs) -> Iterator[str]:
    unknown = [name for name in specs.selection.identifiers if name not in specs.identifiers]
    if unknown and specs.selection.identifiers != IDENTIFIERS:
        yield f"no branch is called {shorten(map(repr, unknown))}, which should identify events"


def _rounds(branch: BranchSpec) -> bool:
    big = max(abs(branch.min or 0), abs(branch.max or 0)) > FLOAT32_INTEGERS
    return big and branch.dtype.lstrip("u").startswith("int")

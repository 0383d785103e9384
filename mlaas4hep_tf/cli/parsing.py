"""What a user types, as what the package takes: pure functions on text, and lists of numbers in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep_tf.categories import Category, Index, Values
from mlaas4hep_tf.errors import ConfigError, LabelError

if TYPE_CHECKING:
    from mlaas4hep_tf.drawing import HoldOut
    from mlaas4hep_tf.transforms.augmentation import Augmentation
    from mlaas4hep_tf.transforms.image_axes import Axis


def patterns(given: list[str] | None) -> list[str]:
    """Patterns, comma-separated or repeated."""
    return [p.strip() for text in given or () for p in text.split(",") if p.strip()]


def groups(given: list[str] | None) -> dict[str, list[str]]:
    """``NAME=PATTERN,PATTERN``: name of a group -> patterns of its branches."""
    found: dict[str, list[str]] = {}
    for text in given or ():
        name, _, listed = text.partition("=")
        if not name or not patterns([listed]):
            raise ConfigError(f"--group needs NAME=PATTERN,PATTERN, such as jet=jet_*, not {text!r}")
        found[name] = found.get(name, []) + patterns([listed])
    return found


def friends(given: list[str] | None) -> dict[str, list[str]]:
    """``NAME=FILES``, repeated: name of a friend -> its files."""
    found: dict[str, list[str]] = {}
    for text in given or ():
        name, _, files = text.partition("=")
        if not name or not files:
            raise ConfigError(
                f"--friend needs NAME=FILES, such as scores=friends/*.root or scores=:Friends, not {text!r}"
            )
        found.setdefault(name, []).append(files)
    return found


def named(option: str, given: list[str] | None) -> dict[str, str]:
    """``NAME=EXPRESSION``: name -> expression, in the order given."""
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, expression = (part.strip() for part in text.partition("="))
        if not name or not equals or not expression:
            raise ConfigError(f"{option} needs NAME=EXPRESSION, such as {_EXAMPLES[option]!r}, not {text!r}")
        if name in found:
            raise ConfigError(f"{option} names {name!r} twice: {found[name]!r} and {expression!r}")
        found[name] = expression
    return found


def tags(given: list[str] | None) -> dict[str, str]:
    """``NAME=TEXT``: name of a tag -> its text."""
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(f"a tag is NAME=TEXT, such as analysis=ttH, not {text!r}")
        found[name] = value
    return found


_EXAMPLES = {"--objects": "Jet=Jet_pt > 30", "--order": "Jet=-Jet_pt", "--define": "ht=sum(Jet_pt)"}


def categories(given: list[str] | None) -> dict[str, Category]:
    """``BRANCH=auto``, ``=0,4,5``, ``=index`` or ``=index:0,4,5``: branch -> its kinds, as for `scan`."""
    return dict(map(_category, given or ()))


def _category(text: str) -> tuple[str, Category]:
    branch, equals, said = text.rpartition("=")
    form, _, listed = said.rpartition(":") if ":" in said or said != "index" else (said, "", "auto")
    try:
        values: Values | None = "auto" if listed == "auto" else tuple(int(value) for value in listed.split(","))
    except ValueError:
        values = None
    if not branch or not equals or values is None or form not in ("", "index"):
        raise ConfigError(f"--category needs BRANCH=auto, =0,4,5, =index or =index:0,4,5, not {text!r}")
    return branch, Index(values) if form else values


def replicas(given: list[str] | None) -> dict[str, list[str]]:
    """``URL=URL``: start of a URL -> what may stand there."""
    found: dict[str, list[str]] = {}
    for text in given or ():
        start, equals, other = text.partition("=")
        if not equals:
            raise ConfigError(f"--replica needs URL=URL, such as root://a//=root://b//, not {text!r}")
        found.setdefault(start, []).append(other)
    return found


def fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--split needs three fractions such as 0.64,0.16,0.20, not {text!r}") from None


def held_out(text: str | None) -> HoldOut | None:
    """``SHARE``, ``SHARE:entries``, ``SHARE:identifiers`` or a condition: what is held out."""
    from mlaas4hep_tf.drawing import HoldOut

    if text is None:
        return None
    share, _, by = text.partition(":")
    try:
        number = float(share)
    except ValueError:
        return HoldOut(by=text)
    return HoldOut(number, by or None)


def bins(option: str, given: list[str]) -> tuple[Axis, ...]:
    """``BRANCH=BINS:LOW:HIGH``: branches in bins."""
    from mlaas4hep_tf.transforms.image_axes import Axis

    found = []
    for text in given:
        branch, _, binning = text.rpartition("=")
        try:
            bins, low, high = binning.split(":")
            numbers = int(bins), float(low), float(high)
        except ValueError:
            raise ConfigError(
                f"{option} needs BRANCH=BINS:LOW:HIGH, such as Jet_eta=16:-2.5:2.5, not {text!r}"
            ) from None
        found.append(Axis(branch, *numbers))
    return tuple(found)


def mixing_law(given: list[str] | None) -> Any:
    """A mixing law as for `RootDataset.mixed`."""
    if not given:
        return "proportional"
    return given[0] if len(given) == 1 and "=" not in given[0] else dict(_pattern_number("--mix", g) for g in given)


def numbers(option: str, given: list[str]) -> dict[str, float]:
    """``PATTERN=NUMBER`` each."""
    return dict(_pattern_number(option, text) for text in given)


def augmentation(given: list[str] | None) -> Augmentation | None:
    """``rotate=PATTERN``, ``flip=PATTERN``, ``drop=GROUP:NUMBER`` and ``smear=PATTERN:NUMBER``."""
    from mlaas4hep_tf.transforms.augmentation import Augmentation

    if not given:
        return None
    turned: dict[str, list[str]] = {"rotate": [], "flip": []}
    changed: dict[str, dict[str, float]] = {"drop": {}, "smear": {}}
    for text in given:
        what, _, said = text.partition("=")
        name, _, number = said.rpartition(":")
        try:
            if what in turned and said:
                turned[what].append(said)
                continue
            changed[what][name] = float(number)
        except (KeyError, ValueError):
            raise ConfigError(
                "--augment needs rotate=BRANCHES, flip=BRANCHES, drop=GROUP:NUMBER or smear=BRANCHES:NUMBER, "
                f"not {text!r}"
            ) from None
    return Augmentation(tuple(turned["rotate"]), tuple(turned["flip"]), **changed)


def class_weights(given: list[str] | None) -> dict[str, float] | None:
    """``NAME=NUMBER``: name of a class -> factor of its weight."""
    return dict(_pattern_number("--class-weight", text) for text in given) if given else None


def losses(given: list[str] | None) -> str | dict[str, str] | None:
    """``LOSS`` or ``BRANCH=LOSS``: losses as for `tasks.loss_of`."""
    from mlaas4hep_tf.tasks import CLASS_LOSSES

    parts = [text.rpartition("=") for text in given or ()]
    if len(parts) < 2 and not any(target for target, _, _ in parts):
        return parts[0][2] if parts else None
    return {target or ("classes" if loss in CLASS_LOSSES else "*"): loss for target, _, loss in parts}


def normalization(given: list[str] | None) -> Any:
    """A normalisation as for `RootDataset`: one for all, or by pattern."""
    parts = [text.rpartition("=") for text in given or ["minmax"]]
    methods = {pattern: None if method == "none" else method for pattern, _, method in parts}
    if "" in methods and len(parts) > 1:
        raise ConfigError(f"--normalize is one method, or PATTERN=METHOD each time, such as '*=minmax', not {given}")
    return methods.get("", methods)


def label_values(by_pattern: list[str] | None, labels: str | None) -> Any:
    """Labels as for `RootDataset`, from ``--label PATTERN=NUMBER``, ``--label PATTERN=NAME`` or ``--labels``."""
    if bool(by_pattern) == bool(labels):
        raise LabelError("labels are needed once: --label '*ttH*=ttH' --label '*QCD*=QCD', or --labels BRANCH")
    if labels:
        return _numbers_or_branch(labels)
    return dict(_pattern_label(text) for text in by_pattern or ())


def _pattern_label(text: str) -> tuple[str, float | str]:
    pattern, _, label = text.rpartition("=")
    if not pattern or not label:
        raise LabelError(f"--label must be PATTERN=NAME or PATTERN=NUMBER, such as '*ttH*=ttH', not {text!r}")
    try:
        return pattern, float(label)
    except ValueError:
        return pattern, label


def branch_name(labels: str | None) -> str | None:
    """The branch that ``--labels`` names, if it is one."""
    found = _numbers_or_branch(labels) if labels else None
    return found if isinstance(found, str) else None


def _numbers_or_branch(labels: str) -> tuple[float, ...] | str:
    text = Path(labels).read_text() if os.path.isfile(labels) else labels
    numbers = [part for line in text.splitlines() for part in line.partition("#")[0].replace(",", " ").split()]
    try:
        return tuple(float(number) for number in numbers)
    except ValueError:
        if len(numbers) == 1:
            return numbers[0]
        raise LabelError(f"--labels must be a number per file or the name of one branch, not {labels!r}") from None


def _pattern_number(option: str, text: str) -> tuple[str, float]:
    pattern, _, number = text.rpartition("=")
    try:
        return pattern, float(number)
    except ValueError:
        raise LabelError(f"{option} must be PATTERN=NUMBER, such as '*signal*=1', not {text!r}") from None

"""What can go wrong, as one tree of exceptions.

    MlaasError
    ├── InputFileError       a file that is missing, unreadable, truncated or no ROOT file
    │   └── LostDataError    more of the data is lost than the user allowed
    ├── TreeError            a tree that is not in the file, or one of several that was not named
    ├── FriendError          a friend tree whose events are not those of the tree beside it
    ├── BranchError          a branch that is missing, not numeric, or of another type than expected
    ├── ExpressionError      text that is no expression of branches, or means nothing for these
    ├── SpecsError           a specs file that cannot be read, or specs that belong to other data
    ├── LabelError           labels or weights that match no file, or leave a file without one
    ├── PlanError            a batch, chunk, split or selection of events that makes no sense
    ├── ReaderError          reader processes that die again and again, or a process that cannot read
    ├── ModelError           a model that cannot be loaded, or does not fit the data
    ├── ResumeError          a training that cannot go on: no checkpoint of it, or one of other events or another model
    ├── RegistryError        a model, run or search that the registry does not know, or a change that it refuses
    ├── MissingExtra         a part that an extra installs (`mlaas4hep_tf[report]`) and that is not there
    └── ConfigError          a parameter file or command line that cannot be understood

Every message says the rule, what was received, where (file, tree, branch, entries) and what to do.  It is
one line: the command line prints it as it is.  Warnings about data are `DataWarning`, those about what is not installed
`MissingExtraWarning`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec


class MlaasError(Exception):
    """Base of every error that this package raises on purpose."""


class InputFileError(MlaasError):
    """A file that cannot be read; `passing` if another try, or another replica, may help, after so many seconds."""

    passing = False
    after_s = 0.0


class LostDataError(InputFileError): ...


class TreeError(MlaasError): ...


class FriendError(MlaasError): ...


class BranchError(MlaasError): ...


class ExpressionError(MlaasError):
    """What is wrong with an expression, and where in it."""

    def __init__(self, why: str, text: str, at: int) -> None:
        before, behind = text[max(at - 40, 0) : at], text[at : at + 40]
        super().__init__(
            f"{why}; at the mark in: {'...' * (at > 40)}{before} --> {behind}{'...' * (len(text) > at + 40)}"
        )


class SpecsError(MlaasError): ...


class LabelError(MlaasError): ...


class PlanError(MlaasError): ...


class ReaderError(MlaasError): ...


class ModelError(MlaasError): ...


class ResumeError(MlaasError): ...


class RegistryError(MlaasError): ...


class ConfigError(MlaasError): ...


class MissingExtra(MlaasError): ...


class DataWarning(UserWarning):
    """Something in the data was left out or changed, by a stated rule."""


class MissingExtraWarning(UserWarning):
    """Something is left out because the extra that it needs is not installed."""


def near_misses(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """`` (did you mean 'Jet_pt'?)`` for the closest known names that are so much alike (1: the same), or nothing."""
    known = list(known)
    folded = {k.casefold(): k for k in known}
    close = get_close_matches(name.casefold(), folded, n=3, cutoff=likeness)
    if not close:
        return ""
    return " (did you mean " + " or ".join(repr(folded[c]) for c in close) + "?)"


MOST_SHOWN = 8


def shorten(names: Iterable[object], most: int = MOST_SHOWN) -> str:
    """A comma list of at most `most` names, and how many more there are."""
    listed = [str(n) for n in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def need(extra: str, *modules: str, purpose: str) -> None:
    """Say how to install `extra`, unless all of its `modules` can be imported.

    Raises:
        MissingExtra: which module is missing for which purpose, and the line that installs it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{purpose} need {' and '.join(missing)}, not installed here; pip install 'mlaas4hep_tf[{extra}]'"
        )

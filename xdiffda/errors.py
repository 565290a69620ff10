"""Errors that name every problem at once and the call that repairs each."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_SHOWN = 12  # problems in the text of an error; all are in its attribute
_PACKAGE = str(Path(__file__).parent)


class XdiffdaError(ValueError):
    """Base of every error that xdiffda raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython and Jupyter show: the line that made the call, and the message.

        The message names what is wrong with the input; frames inside the package would only push
        it off the screen. They stay in ``__traceback__``, and a script prints all of them.
        """
        lines = [f"{type(self).__name__}: {self}"]
        frames = traceback.extract_tb(self.__traceback__)
        inside = [i for i, frame in enumerate(frames) if frame.filename.startswith(_PACKAGE)]
        if inside and inside[0] > 0 and (call := frames[inside[0] - 1]).line:
            lines.insert(0, f"line {call.lineno}: {call.line}")
        return lines


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input.

    Parameters
    ----------
    found
        What the input holds, in its own words.
    needed
        What it should hold.
    repair
        The call that repairs it, as the user would type it; empty where there is none, and
        ``needed`` says all that is known. ``f(..., n=1)`` is the call as it was, with that
        argument in place of its own.

    Examples
    --------
    >>> print(Problem("no variable temperature", "temperature in K", "ds.rename(tk='temperature')"))
    found no variable temperature; needed temperature in K; repair: `ds.rename(tk='temperature')`
    """

    found: str
    needed: str
    repair: str

    def __str__(self) -> str:
        text = f"found {self.found}; needed {self.needed}"
        return f"{text}; repair: `{self.repair}`" if self.repair else text


def _numbered(problems: Sequence[Problem], what: str) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{what}: {count}"]
    lines += [f"  {i}. {problem}" for i, problem in enumerate(problems[:MOST_SHOWN], start=1)]
    if len(problems) > MOST_SHOWN:
        lines.append(f"  and {len(problems) - MOST_SHOWN} more, in `problems` of this error")
    return "\n".join(lines)


class InputError(XdiffdaError):
    """Something given by the user cannot be used; lists all problems at once.

    Parameters
    ----------
    problems
        At least one problem, in the order in which the user should read them.
    what
        The input that was examined, for example ``"background"``.

    Attributes
    ----------
    problems : tuple of Problem
    what : str

    Examples
    --------
    >>> raise InputError([Problem("3 NaN", "none", "ds.fillna(0)")], what="background")
    Traceback (most recent call last):
    ...
    xdiffda.errors.InputError: background: 1 problem
      1. found 3 NaN; needed none; repair: `ds.fillna(0)`
    """

    def __init__(self, problems: Sequence[Problem], *, what: str) -> None:
        self.problems = tuple(problems)
        self.what = what
        if not self.problems:
            raise TypeError("InputError needs at least one Problem")
        super().__init__(_numbered(self.problems, what))

    def __reduce__(self):
        # Keyword-only arguments do not survive the default reduction, and errors cross
        # process borders (pytest-xdist, dask workers).
        return _rebuild, (type(self), self.problems, self.what)


def _rebuild(kind: type[InputError], problems: tuple[Problem, ...], what: str) -> InputError:
    return kind(problems, what=what)


class StorageError(XdiffdaError):
    """A file cannot be read or written; what existed before is untouched."""


class ModelError(XdiffdaError):
    """A model is unknown, damaged, or does not fit the state it is given."""


def raise_if(problems: Sequence[Problem], *, what: str) -> None:
    """Raise one `InputError` with all ``problems``, or do nothing if there are none.

    Parameters
    ----------
    problems
        Problems gathered by the checks, possibly none.
    what
        The input that was examined.

    Raises
    ------
    InputError
        If ``problems`` is not empty.

    Examples
    --------
    >>> raise_if([], what="background")
    """
    if problems:
        raise InputError(problems, what=what)

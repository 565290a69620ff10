"""The settings of `assimilate`, checked as a whole and frozen."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from xdiffda.assimilation.methods import METHODS, Method, as_method
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations.quality import NO_CHECKS, QUALITY, Quality, as_quality
from xdiffda.priors.prior import Prior
from xdiffda.state.times import width_of

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `assimilate` was asked for; see its parameters.

    Raises
    ------
    InputError
        With all that is wrong.
    """

    method: Any = "guided"  # the name is made the object
    n_members: int = 8
    background_error: float | str = "estimate"
    window: str | np.timedelta64 = "6h"
    quality: Any = QUALITY  # so is a truth value
    operators: Any = None
    error_correlation: Any = None
    withhold: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if self.quality is None or isinstance(self.quality, bool):
            object.__setattr__(self, "quality", QUALITY if self.quality else NO_CHECKS)
        elif self.quality in ("default", "none"):  # as `xdiffda.quality.screen` takes it
            object.__setattr__(self, "quality", as_quality(self.quality))
        problems = self._problems()
        if isinstance(self.method, Method) or self.method in METHODS:
            object.__setattr__(self, "method", as_method(self.method))
            problems += self._together()
        else:
            try:
                as_method(self.method)
            except InputError as error:
                problems = [*error.problems, *problems]
        raise_if(problems, what="settings of assimilate")

    def for_prior(self, prior: Prior) -> Settings:
        """The settings with all that depends on the prior chosen.

        Raises
        ------
        InputError
            If the method does not fit the prior.
        """
        error = self.background_error
        if error == "estimate" and not prior.estimates_background_error:
            error = 1.0
        return dataclasses.replace(
            self, method=self.method.for_prior(prior), background_error=error
        )

    def provenance(self) -> dict[str, Any]:
        """What goes into the attributes of the analysis; the method's own settings flat."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own = self.method.plain()
        # functions cannot be written down: their names can
        return kept | {
            "method": own.pop("name"),
            **own,
            "quality": dataclasses.asdict(self.quality),
            "window": str(self.window),
            "operators": sorted(self.operators or ()),
            "error_correlation": repr(self.error_correlation),
        }

    def _together(self) -> list[Problem]:
        """Settings that do not go with the method."""
        method: Any = self.method
        if method.all_together or not isinstance(self.quality, Quality):
            return []
        given = {"error_correlation": self.error_correlation, "robust": self.quality.robust}
        return [
            Problem(
                f'{name}=... with method="{method.name}"',
                "a method that solves for all observations together",
                'method="3dvar"',
            )
            for name, value in given.items()
            if value not in (None, "none")
        ]

    def _problems(self) -> list[Problem]:
        problems = []
        if not isinstance(self.n_members, int) or self.n_members < 1:
            problems.append(
                Problem(
                    f"n_members={self.n_members!r}",
                    "a whole number of 1 or more",
                    "assimilate(obs, n_members=8)",
                )
            )
        if not (_is_number(self.withhold) and 0 <= self.withhold < 1):
            problems.append(
                Problem(
                    f"withhold={self.withhold!r}",
                    "a share of the stations below 1",
                    "assimilate(obs, withhold=0.1)",
                )
            )
        if not (_is_whole(self.seed) and 0 <= self.seed < 2**32):
            problems.append(
                Problem(
                    f"seed={self.seed!r}",
                    "a whole number from 0 to 2**32 - 1",
                    "assimilate(obs, seed=0)",
                )
            )
        if not isinstance(self.quality, Quality):
            problems.append(
                Problem(
                    f"quality={self.quality!r}",
                    "settings of class Quality, or False for no quality control",
                    "assimilate(obs, quality=xdiffda.Quality())",
                )
            )
        if (problem := window_problem(self.window)) is not None:
            problems.append(problem)
        r = self.background_error
        if r not in ("estimate", "spread") and not (isinstance(r, int | float) and 0 < r < np.inf):
            problems.append(
                Problem(
                    f"background_error={r!r}",
                    'a positive number, "estimate" or "spread"',
                    "assimilate(obs, background_error=1.0)",
                )
            )
        return problems


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own, which can be written down as JSON."""
    ours = isinstance(value, np.generic) and not isinstance(value, np.timedelta64)
    return value.item() if ours else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not np.isnan(value)


def window_problem(window: Any) -> Problem | None:
    """What is wrong with the width of a window, if anything."""
    if width_of(window).total_seconds() >= 0:  # NaN where it is none
        return None
    hours = f'"{window}h"' if _is_number(window) and 0 < window < np.inf else '"6h"'
    return Problem(
        f"window={window!r}", "a positive width with its unit", f"assimilate(obs, window={hours})"
    )


# Arguments that `assimilate` had once, and where they are now.


def names_moved_settings(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Have a function say where a setting belongs that it no longer takes itself."""
    allowed = frozenset(inspect.signature(function).parameters)

    @functools.wraps(function)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        _refuse_moved(kwargs, allowed, function.__name__)
        return function(*args, **kwargs)

    return called


def _refuse_moved(given: dict[str, Any], allowed: frozenset[str], call: str) -> None:
    named = given.get("method", "guided")
    chosen = named.name if isinstance(named, Method) else named
    order = sorted(METHODS, key=lambda name: name != chosen)  # that of the call first
    moved: dict[type, list[str]] = {}
    for name in sorted(set(given) - allowed):
        owners = [of for of in (METHODS[n] for n in order) if name in _names(of)]
        if name in _names(Quality):
            owners = [Quality]
        if owners:
            moved.setdefault(owners[0], []).append(name)
    problems = []
    for kind, names in moved.items():
        where = "quality" if kind is Quality else "method"
        values = ", ".join(f"{name}={given[name]!r}" for name in names)
        problems.append(
            Problem(
                f"the argument {', '.join(names)}",
                f"{', '.join(names)} as a setting of the {where}",
                f"{call}(obs, {where}=xdiffda.{kind.__name__}({values}))",
            )
        )
    raise_if(problems, what="settings of assimilate")


def _names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}

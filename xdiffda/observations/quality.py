"""Quality control: which observations an analysis may use, and why not the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from xdiffda.errors import Problem, raise_if
from xdiffda.observations.robust import Robust, as_robust


@dataclass(frozen=True)
class Quality:
    """Settings of the quality control of observations.

    Parameters
    ----------
    gross_check : float
        Observations whose innovation exceeds so many expected standard deviations are rejected;
        infinite for no such check.
    robust : {"none", "huber", "varqc"} or Robust, optional
        Weights in the likelihood for gross errors that no check finds, at every noise level
        (`xdiffda.observations.robust`).

    Raises
    ------
    InputError
        If a setting is out of its range, with all that is wrong.

    Examples
    --------
    >>> Quality(robust="varqc").weights.gross_probability
    0.02
    """

    gross_check: float = 10.0
    robust: str | Robust | None = None

    def __post_init__(self) -> None:
        problems = []
        if not _is_positive(self.gross_check):
            problems.append(
                Problem(
                    f"gross_check={self.gross_check!r}",
                    "a positive number of standard deviations, infinite for no check",
                    "xdiffda.Quality(gross_check=10.0)",
                )
            )
        try:
            as_robust(self.robust)
        except (ValueError, TypeError) as error:
            problems.append(
                Problem(
                    str(error),
                    '"none", "huber", "varqc" or Robust(...)',
                    'xdiffda.Quality(robust="varqc")',
                )
            )
        raise_if(problems, what="quality control")
        # numpy's numbers cannot be written down as JSON
        object.__setattr__(self, "gross_check", float(self.gross_check))

    @property
    def weights(self) -> Robust | None:
        """The robust weights; None for a Gaussian likelihood."""
        return as_robust(self.robust)


def _is_positive(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return not math.isnan(value) and float(value) > 0

"""Errors correlated within the column of one station, and what whitens them.

Levels of one sounding share instrument and processing, so their errors are correlated.  Within a
station and a variable ``R = E C E``, E the standard deviations and C a correlation that falls with
the distance in ln p; other errors are independent.  R is block diagonal with small blocks, whose
Cholesky factors whiten the observations: ``L L^T = C``, ``L^-1 E^-1 (y - H x) ~ N(0, I)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations.names import KNOWN
from xdiffda.state.variables import VARIABLES, canonical_name

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float, Int


SHAPES = ("exponential", "gaussian")
# An error known to this relative variance from those of other levels is one too many: R is
# singular, as far as float32 can tell.
SMALLEST_VARIANCE = 1e-4
_USE = 'error_correlation={"temperature": VerticalCorrelation(0.3, nugget=0.1)}'


@dataclass(frozen=True)
class VerticalCorrelation:
    """Correlation of the errors of two levels of one station and variable.

    ``(1 - nugget) c(d)`` for d > 0, with d the distance in ln p and c either
    ``exp(-d / length)`` or ``exp(-d^2 / (2 length^2))``.

    Parameters
    ----------
    length
        Correlation length in ln p: 0.1 is about 800 m.
    shape
        ``"exponential"`` (always well-conditioned) or ``"gaussian"`` (smooth; nearly singular for
        levels much closer than ``length``, unless there is a nugget).
    nugget
        Share of the error's variance that is not correlated, in [0, 1).

    Raises
    ------
    InputError
        If a number or the shape is not allowed.

    Examples
    --------
    >>> VerticalCorrelation(0.5)(np.array([0.0, 0.5])).round(3).tolist()
    [1.0, 0.368]
    """

    length: float
    shape: str = "exponential"
    nugget: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.length < np.inf:
            problems.append(Problem(f"length={self.length!r}", "a positive length in ln p", _USE))
        if self.shape not in SHAPES:
            problems.append(Problem(f"shape={self.shape!r}", f"one of {', '.join(SHAPES)}", _USE))
        if not 0 <= self.nugget < 1:
            problems.append(Problem(f"nugget={self.nugget!r}", "a share in [0, 1)", _USE))
        raise_if(problems, what="error correlation")

    def __call__(self, distance: Float[np.ndarray, "*pair"]) -> Float[np.ndarray, "*pair"]:
        """Correlation at distances in ln p, without the nugget's jump at zero."""
        x = np.asarray(distance, np.float64) / self.length
        decay = np.exp(-x) if self.shape == "exponential" else np.exp(-0.5 * x**2)
        return (1 - self.nugget) * decay


class Blocks(NamedTuple):
    """Cholesky factors of correlated groups of observations.

    Attributes
    ----------
    where : int array (block, size)
        Rows of each block; places that are not needed hold the number of rows.
    factor, inverse : arrays (block, size, size)
        L and its inverse, the identity at places that are not needed.
    """

    where: Int[np.ndarray, "block size"]
    factor: Float[np.ndarray, "block size size"]
    inverse: Float[np.ndarray, "block size size"]


def read_correlation(
    spec: float | VerticalCorrelation | Mapping[str, float | VerticalCorrelation] | None,
) -> dict[str, VerticalCorrelation]:
    """Correlation by variable: of one for all on levels, of a mapping, or none.

    Raises
    ------
    InputError
        If a name is unknown, or a length not positive.
    """
    if spec is None:
        return {}
    if not isinstance(spec, Mapping):
        if isinstance(spec, bool) or not isinstance(
            spec, (VerticalCorrelation, int, float, np.number)
        ):
            raise InputError(
                [
                    Problem(
                        f"error_correlation={spec!r}",
                        "a length in ln p, VerticalCorrelation(...), or a "
                        "mapping of these by variable",
                        _USE,
                    )
                ],
                what="error correlation",
            )
        spec = dict.fromkeys([name for name, v in KNOWN.items() if v.on_levels], spec)
    problems, found = [], {}
    for user_name, given in spec.items():
        name = user_name if user_name in KNOWN else canonical_name(user_name, on_levels=True)
        if name is None:
            problems.append(
                Problem(
                    f"a correlation for {user_name!r}",
                    f"variables such as {', '.join(VARIABLES)}",
                    _USE,
                )
            )
            continue
        if isinstance(given, VerticalCorrelation):
            found[name] = given
        elif isinstance(given, (int, float, np.number)) and not isinstance(given, bool):
            found[name] = VerticalCorrelation(float(given))
        else:
            problems.append(
                Problem(
                    f"a correlation {given!r} for {user_name}",
                    "a length in ln p, or VerticalCorrelation(...)",
                    _USE,
                )
            )
    raise_if(problems, what="error correlation")
    return found


def correlated_blocks(
    tidy: xr.Dataset,
    position: Int[np.ndarray, "row"],
    good: np.ndarray,
    share: Float[np.ndarray, "row"],
    correlation: Mapping[str, VerticalCorrelation],
) -> Blocks | None:
    """Whitening of the errors that are correlated, None if there are none.

    Parameters
    ----------
    tidy
        The observations.
    position
        Row of ``tidy`` behind each row of the observation vector, -1 for padding rows.
    good
        Rows that are used; the others stay out of all blocks.
    share
        Standard deviation of the error that is correlated, relative to the whole error
        (representativeness counts as uncorrelated).
    correlation
        By variable.

    Raises
    ------
    InputError
        If R is singular: the same variable twice at one level of a station, or levels too close
        for the correlation.
    """
    import pandas as pd

    chosen = np.flatnonzero(good & (position >= 0))
    names = tidy["variable"].values[position[chosen]]
    level = tidy["level"].values[position[chosen]]
    mine = np.isin(names, list(correlation)) & np.isfinite(level)
    chosen, names, level = chosen[mine], names[mine], level[mine]
    if not chosen.size:
        return None
    keys = [k for k in ("lat", "lon", "time", "station", "kind") if k in tidy.variables]
    frame = pd.DataFrame({k: tidy[k].values[position[chosen]] for k in keys} | {"name": names})
    code = frame.groupby(list(frame.columns), dropna=False, sort=False).ngroup().to_numpy()
    order = np.lexsort((level, code))
    members = np.split(order, np.flatnonzero(np.diff(code[order])) + 1)
    members = [m for m in members if m.size > 1]
    if not members:
        return None
    where = np.full((len(members), max(m.size for m in members)), position.size, np.int64)
    for block, m in enumerate(members):
        where[block, : m.size] = chosen[m]
    names = names[[m[0] for m in members]]
    matrix = _matrices(tidy["level"].values, position, where, share, names, correlation)
    # the conditional variance of a row given those before it: zero for a duplicate
    factor = np.linalg.cholesky(matrix + 1e-9 * np.eye(where.shape[1]))
    bad = np.flatnonzero((np.einsum("bii->bi", factor) ** 2).min(1) < SMALLEST_VARIANCE)
    if bad.size:
        problems = [_singular(tidy, position[chosen[members[b]]], matrix[b]) for b in bad[:3]]
        if bad.size > 3:
            problems.append(Problem(f"{bad.size - 3} more stations like these", "as above", ""))
        raise InputError(problems, what="observation error covariance R")
    return Blocks(where, factor, np.linalg.inv(factor))


def _matrices(
    levels: np.ndarray,
    position: np.ndarray,
    where: np.ndarray,
    share: np.ndarray,
    names: np.ndarray,
    correlation: Mapping[str, VerticalCorrelation],
) -> Float[np.ndarray, "block size size"]:
    """Correlation matrices of all blocks, the identity at places that are not needed."""
    real = where < position.size
    safe = np.where(real, where, 0)
    log_p = np.log(np.where(real, levels[position[safe]], 1.0))
    part = np.where(real, share[safe], 0.0)
    matrix = np.abs(log_p[:, :, None] - log_p[:, None])
    for name in np.unique(names):
        mine = names == name
        matrix[mine] = correlation[str(name)](matrix[mine])
    matrix *= part[:, :, None] * part[:, None]
    diagonal = np.arange(where.shape[1])
    matrix[:, diagonal, diagonal] = 1.0
    return matrix


def _singular(tidy: xr.Dataset, rows: np.ndarray, matrix: np.ndarray) -> Problem:
    n = rows.size
    first, second = np.unravel_index(np.argmax((matrix - np.eye(len(matrix)))[:n, :n]), (n, n))
    level = tidy["level"].values[rows]
    name, lat, lon = (tidy[k].values[rows[0]] for k in ("variable", "lat", "lon"))
    same = level[first] == level[second]
    return Problem(
        f"singular: errors of {name} at lat {lat:g}, lon {lon:g} on {level[first]:g} and "
        f"{level[second]:g} hPa correlated by {matrix[first, second]:.6f}",
        "each level of a station once, or an error that is independent between the two"
        if same
        else "a shorter or exponential correlation, or a part that is not correlated",
        f'error_correlation={{"{name}": VerticalCorrelation(0.1, nugget=0.1)}}',
    )

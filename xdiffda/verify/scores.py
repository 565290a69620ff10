"""Scores of a state against the truth, and increments.

RMSE, bias and CRPS come from the library ``scores``; what is added here is the matching of
two datasets, whatever their conventions, and the ensemble's spread.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.canonical import canonical, row_weights
from xdiffda.state.matching import matched, same_channels
from xdiffda.state.variables import canonical_name
from xdiffda.verify.partners import (
    NONE,
    Partners,
    distance_of_partners,
    fair_crps,
    partners,
    variance,
    variance_of_mean,
)

# What all scores of fields share: matching, averaging, attributes.

REDUCED = ("time", "lat", "lon")


def pair(analysis: xr.Dataset, truth: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both in canonical names on their common variables, levels and times."""
    return pair_with(canonical_state(analysis, what="analysis"), truth, what="truth")


def pair_with(
    state: xr.Dataset, other: xr.Dataset, *, what: str, first: str = "analysis"
) -> tuple[xr.Dataset, xr.Dataset]:
    """Do as `pair`, for a state in canonical names; ``what`` and ``first`` are for errors."""
    one, two = matched(state, canonical_state(other, what=what), what=first, other=what)
    problems = []
    for name in one.data_vars:
        here, there = (str(ds[name].attrs.get("units", "")).strip() for ds in (one, two))
        if here and there and here != there:
            found = f"{name} in {here!r} in the {first}, {there!r} in the {what}"
            problems.append(Problem(found, "one unit: convert one of the two", ""))
    raise_if(problems, what=f"{first} and {what}")
    return one, two


def canonical_state(ds: xr.Dataset, *, what: str) -> xr.Dataset:
    """Do as `xdiffda.state.canonical.canonical`, for fields whose times are all different.

    Raises
    ------
    InputError
        If it is none.
    """
    if not isinstance(ds, xr.Dataset):
        repair = "xdiffda.open_dataset(path)"
        if isinstance(ds, xr.DataArray):
            repair = f'{what}.to_dataset(name="{ds.name or "temperature"}")'
        raise InputError([Problem(f"a {type(ds).__name__}", "a Dataset", repair)], what=what)
    on = next((d for d in ("obs", "station") if d in ds.dims), None)
    if on is not None and {"lat", "lon"}.isdisjoint(ds.dims):
        raise InputError(
            [
                Problem(
                    f"observations, on {on}",
                    "a state on latitudes and longitudes",
                    "xdiffda.verify.withheld_report(background, analysis, obs)",
                )
            ],
            what=what,
        )
    out = canonical(ds, what=what)
    for dim in ("time", "level"):
        if dim in out.indexes and not out.indexes[dim].is_unique:
            found = f"{out.sizes[dim]} states along {dim}, {out.indexes[dim].nunique()} of them"
            raise InputError(
                [
                    Problem(
                        f"{found} different by their {dim}",
                        f"each {dim} once",
                        f'{what}.drop_duplicates("{dim}")',
                    )
                ],
                what=what,
            )
    return out


def ensemble_pair(
    analysis: xr.Dataset, truth: xr.Dataset, *, what: str
) -> tuple[xr.Dataset, xr.Dataset]:
    """Do as `pair`, for an ensemble of two members or more."""
    state, reference = pair(analysis, truth)
    need_members(state.sizes.get("member", 1), what=what)
    return state, reference


def need_members(n: int, *, what: str) -> None:
    """Raise where there is no ensemble."""
    if n < 2:
        raise InputError(
            [
                Problem(
                    "a single state",
                    "an ensemble of 2 members or more",
                    "background.diffda.assimilate(obs, n_members=8)",
                )
            ],
            what=what,
        )


def reduced(field: xr.DataArray | xr.Dataset) -> list[Hashable]:
    """The dimensions that averages run over: those of `REDUCED` that ``field`` has."""
    return [d for d in REDUCED if d in field.dims]


def variable_of(name: str, ds: xr.Dataset, *, what: str) -> str:
    """Canonical name in ``ds`` of a variable known by any of its names."""
    for found in (name, canonical_name(name, on_levels=True), canonical_name(name)):
        if found is not None and found in ds:
            return found
    known = ", ".join(map(str, ds.data_vars))
    raise InputError([Problem(f"no {name}", f"one of {known}", "list(ds)")], what=what)


PROTOCOL = (
    "averages weighted by cell area, pooled over times; RMSE and bias of the ensemble mean; "
    "fair CRPS (of one member: absolute error); spread = root of the mean ensemble variance "
    "(N - 1); spread/skill = root of (spread^2 + sampling variance of the mean) / RMSE, without "
    "pairs sqrt((N + 1) / N) x spread / RMSE; of antithetic pairs only members of different "
    "pairs are compared with each other"
)


def verify(
    analysis: xr.Dataset, truth: xr.Dataset, *, background: xr.Dataset | None = None
) -> xr.Dataset:
    r"""Score an analysis, an ensemble or a single state, against the truth.

    With the ensemble mean :math:`\bar x`, truth :math:`t`, N members, and the average
    :math:`\langle\cdot\rangle` weighted by cell area and pooled over times:

    - ``rmse`` :math:`\langle(\bar x - t)^2\rangle^{1/2}`, ``bias`` :math:`\langle\bar x - t\rangle`
    - ``crps`` fair: :math:`\langle \frac1N\sum_i|x_i - t|
      - \frac{1}{2N(N-1)}\sum_{ij}|x_i - x_j| \rangle` (Ferro 2014)
    - ``spread`` :math:`\langle \frac{1}{N-1}\sum_i(x_i - \bar x)^2\rangle^{1/2}`
    - ``spread_skill`` :math:`\sqrt{(N+1)/N}` spread / rmse: 1 where truth and members are
      exchangeable (Fortin et al. 2014)

    The sums over two members leave out antithetic partners, which are not independent of each
    other (the attributes of an analysis tell of them), and spread/skill takes the sampling
    variance of the mean, spread²/N without pairs, from the means of the pairs.

    Parameters
    ----------
    analysis
        State in any known convention, with or without ``member`` and ``time``.
    truth
        State on the same grid; more times, levels or variables than needed are ignored.
        Points where it is NaN are left out.
    background
        What the analysis started from; adds ``background_rmse``, ``background_crps`` and
        ``rmse_reduction`` = 1 - rmse / background_rmse.

    Returns
    -------
    xarray.Dataset
        Variables in canonical names on (``score``[, ``level``]), in the units of the
        variable (ratios: 1), with the protocol in the attributes. Lazy where the input is.
        NaN where the analysis is NaN and the truth is not.

    Raises
    ------
    InputError
        If nothing can be compared: no common variable, level or time, or another grid.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> truth = xr.Dataset({"2m_temperature": (("lat", "lon"), np.full((3, 4), 280.0))}, grid)
    >>> scores = verify(truth + 2, truth)
    >>> float(scores["2m_temperature"].sel(score="rmse"))
    2.0
    """
    state, reference = pair(analysis, truth)
    weights = row_weights(reference)
    columns = _scores(state, reference, weights, partners(analysis))
    if background is not None:
        first, same = pair_with(
            canonical_state(background, what="background"),
            reference,
            what="truth",
            first="background",
        )
        same_channels(same, reference)
        base = _scores(first, same, weights)
        columns["background_rmse"], columns["background_crps"] = base["rmse"], base["crps"]
        columns["rmse_reduction"] = 1 - columns["rmse"] / base["rmse"]
    out = xr.concat(
        list(columns.values()), dim="score", coords="minimal", compat="override", join="outer"
    ).assign_coords(score=list(columns))
    for name, score in out.data_vars.items():
        score.attrs = {
            k: v for k, v in reference[name].attrs.items() if k in ("units", "long_name")
        }
    out.attrs = {
        "protocol": PROTOCOL,
        "n_member": int(state.sizes.get("member", 1)),
        "n_antithetic_pairs": len(partners(analysis)[0]),
        "n_time": int(state.sizes.get("time", 1)),
        "grid": f"{state.sizes['lat']} x {state.sizes['lon']}",
    }
    return out


def _scores(
    state: xr.Dataset, truth: xr.Dataset, weights: xr.DataArray, pairs: Partners = NONE
) -> dict[str, xr.Dataset]:
    """Return score name -> Dataset; errors are formed first, in float64, because CRPS by
    sorting loses the spread of 32-bit geopotential."""
    from scores.continuous import mean_error, rmse
    from scores.probability import crps_for_ensemble

    error = state.astype(np.float64) - truth.astype(np.float64)
    ensemble = "member" in state.dims
    mean = error.mean("member", skipna=False) if ensemble else error
    zero = xr.zeros_like(mean)
    dims = [d for d in REDUCED if d in mean.dims]
    keywords: dict[str, Any] = {"reduce_dims": dims, "weights": weights}
    out = {"rmse": rmse(mean, zero, **keywords), "bias": mean_error(mean, zero, **keywords)}
    if ensemble and state.sizes["member"] > 1:
        n = state.sizes["member"]

        def average(field: xr.Dataset) -> xr.Dataset:
            return field.weighted(weights).mean(dims)

        fair = crps_for_ensemble(error, zero, "member", method="fair", **keywords)
        if pairs[0]:
            absolute = average(abs(error).mean("member"))
            fair = fair_crps(absolute, fair, average(distance_of_partners(error, pairs)), n, pairs)
        out["crps"] = fair
        spread2 = average(variance(error, pairs))
        out["spread"] = spread2**0.5
        expected = spread2 + average(variance_of_mean(error, pairs))
        out["spread_skill"] = expected**0.5 / out["rmse"]
    else:
        out["crps"] = abs(mean).weighted(weights).mean(dims)
    # skipping NaN must not reward an analysis that is missing where the truth is known
    holes = (mean.isnull() & truth.notnull()).any(dims)
    return {name: score.where(~holes) for name, score in out.items()}


def increment(analysis: xr.Dataset, background: xr.Dataset) -> xr.Dataset:
    """Return analysis minus background, lazily on dask.

    Parameters
    ----------
    analysis
        State in any known convention, with or without ``member`` and ``time``.
    background
        State on the same grid; it may have more times, levels and variables.

    Returns
    -------
    xarray.Dataset
        In the convention that the two share; else in canonical names and units, on the
        common variables, levels and times. Of a background with as many members, each
        member's own increment; of another ensemble, that from its mean.

    Raises
    ------
    InputError
        If nothing can be compared: no common variable, level or time, or another grid.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> background = xr.Dataset({"t2m": (("lat", "lon"), np.full((3, 4), 280.0))}, grid)
    >>> increment(background + 2, background)["t2m"].values[0]
    array([2., 2., 2., 2.])
    """
    given = canonical_state(analysis, what="analysis")
    other = canonical_state(background, what="background")
    if "member" in background.dims and background.sizes["member"] != analysis.sizes.get("member"):
        background = background.mean("member", keep_attrs=True)
    if not (_same_convention(analysis, background) and _same_place(given, other)):
        analysis, background = pair_with(given, background, what="background")
    else:
        background = background[list(analysis.data_vars)]
    if "member" in background.dims:
        background = background.assign_coords(member=analysis["member"])  # pair by position
    with xr.set_options(keep_attrs=True):
        return analysis - background


def _same_place(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Return whether two canonical states share times and levels, where they have them."""
    return all(
        one[n].dims == other[n].dims and np.array_equal(one[n], other[n])
        for n in ("time", "valid_time", "level")
        if n in one.coords and n in other.coords
    )


def _same_convention(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Return whether two datasets can be subtracted directly: names, units, axes."""
    for name, field in one.data_vars.items():
        if name not in other or field.attrs.get("units") != other[name].attrs.get("units"):
            return False
    shared = [d for d in one.dims if d in other.dims and d != "member"]
    return {"member", *shared} >= set(other.dims) and all(
        d in one.indexes and d in other.indexes and one.indexes[d].equals(other.indexes[d])
        for d in shared
    )

"""What the store keeps of one cycle: states, scores, and the account of the observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda._cycle_observations import OTHER, REASONS, label, observation_record
from xdiffda._cycle_plan import Plan, State
from xdiffda._cycle_store import PREFIX, SCORE_LEVEL

SCORES = ("rmse", "bias", "crps", "spread", "spread_skill")
STATES = ("analysis", "background", "free_run")


class Outcome(NamedTuple):
    """One cycle.

    Attributes
    ----------
    time : datetime64
    analysis : array (member, node, channel)
    forecasts : array ([member,] node, channel)
        What `assimilate` was given.
    background : array (node, channel)
        Their mean.
    free : array (node, channel)
        The free-running forecast.
    truth : Dataset or None
    observed : mapping
        ``used``, ``rejected`` (reason to number), ``r``, and ``parts``, the observations
        with what became of each.
    inflation : array (node, channel), optional
        Adaptive inflation for the next cycle.
    """

    time: np.datetime64
    analysis: State
    forecasts: State
    background: State
    free: State
    truth: xr.Dataset | None
    observed: Mapping[str, Any]
    inflation: Float[np.ndarray, "node channel"] | None = None


def make_record(plan: Plan, outcome: Outcome) -> xr.Dataset:
    """Everything of one cycle as a Dataset along ``time`` (size 1)."""
    kept = {"analysis": outcome.analysis, "background": outcome.background}
    if outcome.truth is not None:
        kept["free_run"] = outcome.free
    record = xr.Dataset(attrs=dict(plan.states.convention.template.attrs))
    for part, x in kept.items():
        ds = plan.states.dataset(x, outcome.time)[plan.states.names]
        ds = ds.drop_vars([name for name in ds.coords if name not in ds.dims])
        for name in ds.data_vars:
            attrs = dict(ds[name].attrs)
            if part != "analysis":  # only the analysis answers to the name of the quantity
                attrs.pop("standard_name", None)
                attrs["long_name"] = f"{attrs.get('long_name', name)} ({part.replace('_', ' ')})"
            ds[name].attrs = attrs
        record = record.merge(ds.rename({n: f"{PREFIX[part]}{n}" for n in ds.data_vars}))
    record = record.assign(account(outcome.observed))
    record = record.assign(observation_record(outcome.observed["parts"]))
    if outcome.inflation is not None:
        attrs = {"long_name": "inflation of the background's variance, for the next cycle",
                 "units": "1"}  # fmt: skip
        record["inflation_factor"] = ("node", "channel"), outcome.inflation, attrs
        record = record.assign_coords(channel=list(plan.prior.layout.channel_names))
    if outcome.truth is not None:
        record = record.merge(_scores(plan, outcome))
    clock = ("time", [outcome.time], {"standard_name": "time", "long_name": "analysis time"})
    return record.expand_dims("time").assign_coords(time=clock)


def error_of(record: xr.Dataset) -> str:
    """What the progress bar says of one cycle."""
    if "normalized_error" not in record:
        r = float(record["background_error"].item())
        return f"{int(record['n_obs_used'].item())} obs, r {r:.2f}"
    return "error " + ", ".join(
        f"{state.replace('_', ' ')} {float(record['normalized_error'].sel(state=state).item()):.3f}"
        for state in STATES
    )


def account(observed: Mapping[str, Any]) -> xr.Dataset:
    labels = [*REASONS.values(), OTHER]
    counts = dict.fromkeys(labels, 0)
    for reason, n in observed["rejected"].items():
        counts[label(reason)] += int(n)
    return xr.Dataset(
        {
            "n_obs_used": ((), np.int32(observed["used"]),
                           {"long_name": "observations assimilated", "units": "1"}),
            "n_obs_rejected": ("reason", np.array([counts[k] for k in labels], np.int32),
                               {"long_name": "observations rejected", "units": "1"}),
            "background_error": ((), np.float32(observed["r"]),
                                 {"long_name": "scale r of the background error", "units": "1"}),
        },
        coords={"reason": labels},
    )  # fmt: skip


def _scores(plan: Plan, outcome: Outcome) -> xr.Dataset:
    """Scores of analysis, background and free run on (state, score[, level])."""
    from xdiffda.verify import verify

    scored = {"analysis": outcome.analysis, "background": outcome.forecasts,
              "free_run": outcome.free}  # fmt: skip
    parts, errors = [], []
    for x in scored.values():
        ds = verify(plan.states.dataset(x, outcome.time), outcome.truth)
        ds = ds.drop_vars([name for name in ds.coords if name not in ds.dims])
        wanted: dict[str, Any] = {"score": list(SCORES)}
        if "level" in ds.dims:
            wanted["level"] = list(plan.prior.layout.levels)
        ds = ds.reindex(wanted).astype(np.float32)
        parts.append(ds)
        errors.append(_normalized(plan, ds.sel(score="rmse")))
    out = xr.concat(parts, dim="state", combine_attrs="override").assign_coords(state=list(STATES))
    out = out.rename({name: f"{PREFIX['scores']}{name}" for name in out.data_vars})
    if "level" in out.dims and not _shares_levels(plan):
        out = out.rename(level=SCORE_LEVEL)
    out["normalized_error"] = "state", np.array(errors, np.float32), {
        "long_name": "root mean square over variables and levels of rmse / s", "units": "1",
    }  # fmt: skip
    return out.drop_attrs(deep=False)


def _normalized(plan: Plan, rmse: xr.Dataset) -> float:
    """Error of a state in units of s, the standard deviation of the background error."""
    layout, weight = plan.prior.layout, plan.prior.layout.grid.area_weights()
    s = np.sqrt(np.average(np.asarray(plan.prior.scale, np.float64) ** 2, axis=0, weights=weight))
    ratios = [
        np.atleast_1d(rmse[name].values) / s[layout.channel_slice(name)]
        for name in layout.variables
        if name in rmse
    ]
    return float(np.sqrt(np.nanmean(np.concatenate(ratios) ** 2)))


def _shares_levels(plan: Plan) -> bool:
    """Whether the user's levels are those of the scores: hPa, ascending, of that name."""
    axis = plan.states.convention.axes.get("level")
    if axis is None or axis.dim != "level":
        return False
    levels = plan.states.convention.template["level"].values
    return np.array_equal(levels, plan.prior.layout.levels)

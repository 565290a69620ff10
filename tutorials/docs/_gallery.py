"""Figures of the gallery, drawn from the bundled sample when the site is built.

Every function is shown as it stands, beside what it draws; `state` holds what they share. No
network is run: the ensemble is the 48 h forecast, dressed in its own errors of other times.
"""

from __future__ import annotations

import base64
import functools
import inspect
import io
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@functools.cache
def state() -> Any:
    """Truth, background, an ensemble, observations, and scores of forecasts."""
    from types import SimpleNamespace

    import numpy as np
    import xarray as xr

    import xdiffda

    truth = xdiffda.open_sample("truth").load()
    background = xdiffda.open_sample("background").load()
    errors = background - truth
    members = [background - errors.roll(time=shift, roll_coords=False) for shift in range(2, 15)]
    obs = truth.isel(time=slice(0, 5)).diffda.emulate_obs(n_columns=200, seed=0)
    leads = np.arange(0, 49, 6).astype("timedelta64[h]").astype("timedelta64[ns]")

    def persistence(start: xr.Dataset) -> xr.Dataset:
        start = start.isel(time=slice(0, 9)).rename(time="init_time")
        forecast = start.expand_dims(lead_time=leads)
        return forecast.assign_coords(valid_time=start.init_time + forecast.lead_time)

    def interpolated(n_columns: int) -> xr.Dataset:
        seen = truth.diffda.emulate_obs(n_columns=n_columns, seed=0)
        times = [seen.isel(time=i).diffda.interpolate(like=truth.isel(time=i)) for i in range(9)]
        return xr.concat(times, truth.time[:9])

    return SimpleNamespace(
        truth=truth,
        background=background,
        forecast_6h=xdiffda.open_sample("background_6h").load(),
        ensemble=xr.concat(members, "member"),
        obs=obs,
        persistence=persistence,
        interpolated={n: interpolated(n) for n in (250, 416, 1000)},
    )


def maps(truth: Any, background: Any, ensemble: Any, obs: Any) -> Figure:
    from xdiffda.plot import map_panels

    return map_panels(
        ensemble,
        "temperature",
        level=500,
        time="2012-12-22T06",
        truth=truth,
        background=background,
        obs=obs,
        panels=("background", "analysis", "truth", "increment", "error", "spread"),
    )


def scorecards(truth: Any, background: Any, forecast_6h: Any, persistence: Any) -> Figure:
    from xdiffda.plot import scorecard
    from xdiffda.verify import verify

    starts = {"48 h forecast": background, "6 h forecast": forecast_6h}
    scores = {name: verify(persistence(start), truth) for name, start in starts.items()}
    return scorecard(
        scores,
        reference="48 h forecast",
        channels=["z@500", "t@850", "t@500", "u@300", "q@850", "2t", "msl"],
    )


def profiles(truth: Any, background: Any, forecast_6h: Any) -> Figure:
    from xdiffda.plot import profiles
    from xdiffda.verify import verify

    return profiles(
        {"48 h forecast": verify(background, truth), "6 h forecast": verify(forecast_6h, truth)}
    )


def rank_histograms(truth: Any, ensemble: Any) -> Figure:
    from xdiffda.plot import rank_histogram
    from xdiffda.verify import rank_histogram as count_ranks

    return rank_histogram(count_ranks(ensemble, truth=truth))


def spread_and_error(truth: Any, ensemble: Any) -> Figure:
    from xdiffda.plot import spread_error
    from xdiffda.verify import spread_error as in_bins

    return spread_error(in_bins(ensemble, truth))


def reliability(truth: Any, ensemble: Any) -> Figure:
    from xdiffda.plot import reliability
    from xdiffda.verify import reliability as of_thresholds

    events = {"2m_temperature": 273.15, "mean_sea_level_pressure": 100000.0}
    return reliability(of_thresholds(ensemble, truth, thresholds=events))


def innovations(background: Any, forecast_6h: Any, obs: Any) -> Figure:
    from xdiffda.plot import innovation_histogram
    from xdiffda.verify import equivalents

    seen = {
        "48 h forecast": equivalents(background, obs),
        "6 h forecast": equivalents(forecast_6h, obs),
    }
    return innovation_histogram(
        seen, variables=["temperature", "u_component_of_wind", "mean_sea_level_pressure"]
    )


def spectra(truth: Any, background: Any, ensemble: Any) -> Figure:
    from xdiffda.plot import spectra
    from xdiffda.verify import zonal_spectrum

    mean = ensemble.mean("member", keep_attrs=True)
    return spectra(
        {
            "truth": zonal_spectrum(truth),
            "48 h forecast": zonal_spectrum(background),
            "mean of 13": zonal_spectrum(mean),
        }
    )


def lead_times(truth: Any, background: Any, persistence: Any) -> Figure:
    from xdiffda.plot import lead_time_curves
    from xdiffda.verify import verify

    return lead_time_curves(
        {
            "persistence of the truth": verify(persistence(truth), truth),
            "persistence of a 48 h forecast": verify(persistence(background), truth),
        }
    )


def lead_time_losses(truth: Any, persistence: Any, interpolated: Any) -> Figure:
    from xdiffda.plot import lead_time_loss
    from xdiffda.verify import lead_time_loss as loss_of
    from xdiffda.verify import verify

    best = verify(persistence(truth), truth)
    losses = {
        n_columns: loss_of(verify(persistence(start), truth), best)
        for n_columns, start in interpolated.items()
    }
    return lead_time_loss(
        {"interpolated": losses}, lead_time=24.0, channels=["z@500", "u@300", "msl"]
    )


def errors_by_columns(truth: Any, background: Any, persistence: Any, interpolated: Any) -> Figure:
    from xdiffda.plot import error_against_columns
    from xdiffda.verify import verify

    scores = {n: verify(states, truth) for n, states in interpolated.items()}
    return error_against_columns(
        {"interpolated": scores},
        background=verify(background, truth),
        forecasts=verify(persistence(truth), truth),
        lead_times=(6, 24),
        channels=["z@500", "u@300", "msl"],
    )


def maps_of_errors(truth: Any, background: Any, forecast_6h: Any) -> Figure:
    from xdiffda.plot import error_maps

    states = {"48 h forecast": background, "6 h forecast": forecast_6h}
    return error_maps(states, truth, "temperature", level=850, time="2012-12-22T06")


def draw(name: str) -> Figure:
    """The figure of this name."""
    function, shared = globals()[name], vars(state())
    return function(**{key: shared[key] for key in inspect.signature(function).parameters})


def gallery(name: str) -> str:
    """Code and picture of one figure, as Markdown."""
    from xdiffda.plot import style

    body = inspect.getsource(globals()[name]).split(") -> Figure:\n", 1)[1]
    code = textwrap.dedent(body).replace("return ", "figure = ").strip()
    picture = io.BytesIO()
    with style():
        draw(name).savefig(picture, format="png", dpi=110, bbox_inches="tight")
    data = base64.b64encode(picture.getvalue()).decode()
    alt = name.replace("_", " ")
    image = f'```{{raw}} html\n<img alt="{alt}" src="data:image/png;base64,{data}">\n```'
    return f"{image}\n\n```python\n{code}\n```"

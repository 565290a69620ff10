"""Figures of an experiment, written beside its scores."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda import plot
from xdiffda.experiments import measure
from xdiffda.experiments import results as make
from xdiffda.experiments.config import FORMATS, ExperimentConfig, plain
from xdiffda.experiments.world import open_world
from xdiffda.plot.channels import Channel
from xdiffda.plot.styles import legend, line, panels, style
from xdiffda.priors.prior import Prior
from xdiffda.storage.files import open_dataset, write_dataset
from xdiffda.verify.table import HEADLINES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LONG = np.timedelta64(4, "D")
MAPS = (("geopotential", 500.0), ("temperature", 850.0), ("2m_temperature", None))


def write_figures(
    kind: str,
    results: xr.Dataset,
    folder: Path,
    *,
    dpi: float = 130.0,
    figure_format: str = FORMATS[0],
) -> list[Path]:
    """Draw what belongs to an experiment; return the files.

    Parameters
    ----------
    kind : str
        As in `xdiffda.experiments.run`.
    results : Dataset
        What it returned.
    folder : path
        Made if it is not there.
    dpi : float
        Of raster formats.
    figure_format : {"png", "svg", "pdf"}
    """
    drawn: dict[str, Callable[[], Figure]] = {
        f"scorecard-{n}": lambda n=n: scorecard(results, n) for n in _columns(results)
    }
    drawn |= {f"balance-{n}": lambda n=n: balance(results, n) for n in _columns(results)}
    drawn |= {
        f"spectra-{n}": lambda n=n: plot.spectra(make.spectra(results, n), reference="truth")
        for n in _columns(results)
    }
    if kind != "sigma-g":
        drawn["error-against-columns"] = lambda: error_against_columns(results)
    else:
        drawn["width"] = lambda: width_curves(results)
    if "forecast_squared" in results and kind != "sigma-g":
        drawn |= {"loss": lambda: lead_time_loss(results)}
        drawn |= {
            f"forecast-error-{n}": lambda n=n: forecast_error(results, n) for n in _columns(results)
        }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in drawn.items():
        paths.append(folder / f"{kind}-{name}.{figure_format}")
        plot.save(draw(), paths[-1], dpi=dpi)
    return paths


def error_against_columns(results: xr.Dataset) -> Figure:
    """Experiment 1: errors of analyses, the background's, and those of forecasts by age."""
    return plot.error_against_columns(
        make.rmse(results),
        background=make.background_rmse(results),
        forecasts=make.truth_forecast_rmse(results),
    )


def lead_time_loss(results: xr.Dataset, *, start: str = "mean") -> Figure:
    """Experiment 3: hours lost at the end of the forecasts."""
    lead = float(results["lead_time"].values[-1] / np.timedelta64(1, "h"))
    return plot.lead_time_loss(
        make.losses(results, start=_start(results, start)), lead_time=min(lead, 48.0)
    )


def forecast_error(results: xr.Dataset, columns: int, *, start: str = "mean") -> Figure:
    """Errors of forecasts from analyses, from the background and from the truth."""
    last = results["lead_time"].values[-1]
    truth = make.truth_forecast_rmse(results)
    curves = {
        "truth": truth.sel(lead_time=slice(None, last)),
        "background": make.background_forecast_rmse(results),
    }
    by = make.forecast_rmse(results, start=_start(results, start))
    curves |= {method: of[columns] for method, of in by.items() if columns in of}
    longer = last > LONG  # before that, no error is near its end
    return plot.lead_time_curves(curves, levels=make.saturation_rmse(results) if longer else None)


def scorecard(results: xr.Dataset, columns: int) -> Figure:
    """RMSE of the analyses over the background's, every channel."""
    return plot.scorecard(make.rmse_ratios(results, columns), reference="background")


def balance(results: xr.Dataset, columns: int, *, channels: Sequence[str] | None = None) -> Figure:
    """Tendencies of the first 6 h, divergence and ageostrophic wind over the truth's.

    ``channels`` chooses rows, such as ``divergence@500`` or ``tendency of msl``.
    """
    cards = make.balance_ratios(results, columns)
    return plot.scorecard(cards, reference="truth", score="magnitude", channels=channels)


def width_curves(results: xr.Dataset) -> Figure:
    """The ablation of sigma_G: analyses above, forecasts from them below."""
    widths = [float(name.rpartition(" ")[2]) for name in results["scheme"].values.tolist()]
    order = np.argsort(widths)
    squares = (make.pooled(results, n) for n in ("squared", "background_squared"))
    rows = {"analysis / background": operator.truediv(*squares) ** 0.5}
    if "forecast_squared" in results:
        last = {"lead_time": -1, "start": 0}
        own = make.pooled(results, "forecast_squared").isel(last)
        base = make.pooled(results, "background_forecast_squared").isel(last)
        hours = results["lead_time"].values[-1] / np.timedelta64(1, "h")
        rows[f"{hours:g} h forecast / background's"] = (own / base) ** 0.5
    shown = _channels(results)
    with style():
        figure, axes = panels(
            len(rows) * len(shown),
            width=1.9,
            height=2.0,
            n_column=len(shown),
            sharex=True,
            sharey="row",
        )
        for ax, (label, field, name) in zip(
            axes, ((k, f, c) for k, f in rows.items() for c in shown), strict=True
        ):
            for number, n in enumerate(results["columns"].values.tolist()):
                values = field.sel(columns=n, channel=name).values[order]
                ax.plot(np.array(widths)[order], values, label=f"{n:,} columns", **line(number))
            ax.axhline(1, color="0.4", linewidth=0.9, zorder=1)
            ax.set(title=_channel(name).short, xlabel="sigma_G (cells)")
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel(label)
        legend(figure, axes)
    return figure


def write_maps(
    states: Mapping[str, xr.Dataset],
    folder: Path,
    *,
    dpi: float = 130.0,
    figure_format: str = FORMATS[0],
) -> list[Path]:
    """Maps of errors of one case; ``states`` as `xdiffda.experiments.figures.states_of_case`."""
    truth, rest = states["truth"], {k: ds for k, ds in states.items() if k != "truth"}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, level in MAPS:
        if name in truth and (level is None or level in truth["level"].values):
            figure = plot.error_maps(rest, truth, name, level=level)
            text = name if level is None else f"{name}-{level:g}"
            paths.append(folder / f"maps-{text}.{figure_format}")
            plot.save(figure, paths[-1], dpi=dpi)
    return paths


def _columns(results: xr.Dataset) -> list[int]:
    return results["columns"].values.tolist()


def _start(results: xr.Dataset, wanted: str) -> str:
    known: list[Any] = results["start"].values.tolist()
    return wanted if wanted in known else known[0]


def _channels(results: xr.Dataset) -> list[str]:
    known = results["channel"].values.tolist()
    return [c for c in HEADLINES.values() if c in known] or known[:6]


def _channel(text: str) -> Channel:
    name, _, level = text.partition("@")
    return Channel(name, float(level) if level else None)


# One case in full: the states whose errors are drawn on maps.

STORE = "maps.nc"


def states_of_case(
    config: ExperimentConfig,
    *,
    prior: Prior | None = None,
    truth: xr.Dataset | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None,
) -> dict[str, xr.Dataset]:
    """Truth, background and the analyses' means at the first time, with ``map_columns`` columns.

    They are kept in ``maps.nc`` in the folder ``out``, and read from there the next time.

    Parameters
    ----------
    config, prior, truth, forecaster
        As in `xdiffda.experiments.run`.

    Returns
    -------
    dict of str to Dataset
        ``truth``, ``background`` and the names of the methods.

    Raises
    ------
    InputError, StorageError
        As `xdiffda.experiments.run`.
    """
    world = open_world(config, prior=prior, truth=truth, forecaster=forecaster)
    path = Path(config.out) / STORE
    key = plain([world.key, config.map_columns, str(world.times[0]), config.methods])
    if path.exists() and (kept := open_dataset(path)).attrs.get("key") == key:
        kept = kept.load()
    else:
        case = measure.open_case(world, world.times[0], "0h")
        states = {"truth": case.truths[0]}
        background = measure.members_of(world, case.background, what="background")
        states["background"] = background.mean(0)
        for name, method in config.methods.items():
            analysis, _ = measure.timed_analysis(world, case, method, config.map_columns)
            states[name] = measure.members_of(world, analysis, what="analysis").mean(0)
        every = [world.states.dataset(x.astype(np.float32), case.time) for x in states.values()]
        kept = xr.concat(every, "state").assign_coords(state=list(states)).assign_attrs(key=key)
        Path(config.out).mkdir(parents=True, exist_ok=True)
        write_dataset(kept, path, overwrite=True)
    return {name: kept.sel(state=name, drop=True) for name in kept["state"].values.tolist()}

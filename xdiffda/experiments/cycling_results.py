"""Table and figure of the experiment on cycles, and its command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr

from xdiffda.cycling.store import CONFIG
from xdiffda.experiments.cycling import NETWORKS, CyclingConfig, Run, run
from xdiffda.state.variables import VARIABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TABLE, FIGURE = "cycling.md", "cycling.{}"
SETTLED = 0.25  # share of a run at its end, over which the settled error is averaged
LAST = np.timedelta64(10, "D")  # at the end of a run: does the error stay?
# RMSE in the units of the field, where the model has them
SHOWN = (
    ("temperature", 500),
    ("u_component_of_wind", 500),
    ("geopotential", 500),
    ("specific_humidity", 850),
    ("mean_sea_level_pressure", None),
)


def main(path: str | Path, *, progress: bool | None = True) -> str:
    """Run or resume, write table and figure beside the stores, and return the table."""
    from xdiffda.plot.styles import save

    config = CyclingConfig.read(path)
    found = run(config, progress=progress)
    text = f"{table(found)}\n{about(config, found)}\n"
    (Path(config.out) / TABLE).write_text(text)
    save(figure(found), Path(config.out) / FIGURE.format(config.figure_format))
    return text


def table(found: Mapping[Run, xr.Dataset]) -> str:
    """Markdown: error at the first analysis and when settled, in units of s and of the fields.

    Roots of mean squares over the settled part, the last quarter of each run, and the largest
    error of a single analysis of the last 10 days: whether it stays there.
    """
    first = next(iter(found.values()))
    shown = [(n, p) for n, p in SHOWN if f"score_{n}" in first]
    names = [
        f"{n.replace('_', ' ')}{f' {p} hPa' if p else ''} ({_unit(first, n)})" for n, p in shown
    ]
    head = [
        "columns",
        "sites",
        "method",
        "cycles",
        "first analysis",
        "settled analysis",
        "largest of the last 10 days",
        "settled background",
        "free run",
        "r",
        "spread/skill",
        *names,
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for own, ds in found.items():
        error = ds["normalized_error"]
        late = ds.isel(time=slice(-max(1, round(SETTLED * ds.sizes["time"])), None))
        settled = {
            s: _number(_rms(late["normalized_error"].sel(state=s)))
            for s in ("analysis", "background", "free_run")
        }
        cells = [
            f"{own.columns}",
            own.network,
            own.name,
            f"{ds.sizes['time']}",
            _number(error.sel(state="analysis")[0]),
            settled["analysis"],
            _number(largest(ds)),
            settled["background"],
            settled["free_run"],
            _number(late["background_error"].mean()),
            _number(spread_skill(late)),
            *(_number(_rms(_score(late, n, p, "rmse"))) for n, p in shown),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def about(config: CyclingConfig, found: Mapping[Run, xr.Dataset]) -> str:
    """Describe how the table was made: time, seed, model, versions, meaning of its columns."""
    from xdiffda import __version__

    store = next(iter(found.values()))
    made, first = json.loads(store.attrs[CONFIG]), store["time"].values[0]
    relaxed = (
        ""
        if config.relaxation is None
        else (
            f", small scales relaxed to a climatology ({config.relaxation.hours:g} h, power "
            f"{config.relaxation.power:g})"
        )
    )
    return (
        f"Cycles of {config.cycle_length} from {np.datetime_as_string(first, 'h')}, first "
        f"background {config.background}{relaxed}; seed {config.seed}, prior {made['model']}, "
        f"forecaster {made['forecaster']}, xdiffda {__version__}, jax {jax.__version__}. Errors of "
        "the mean in units of s (the typical error of a background of the training pairs), root "
        "mean square over channels and area; settled: the last quarter of the cycles; largest: of "
        "the single analyses of the last 10 days; r: scale of the background error that the "
        "analysis worked with."
    )


def largest(ds: xr.Dataset) -> xr.DataArray:
    """Largest error of an analysis of the last 10 days, in units of s; of all, if there are fewer.

    Not a number where one of them is none: a run that broke has no largest error.
    """
    late = ds["time"] > ds["time"][-1] - LAST
    error = ds["normalized_error"].sel(state="analysis").isel(time=late.values)
    return error.max("time", skipna=False)


def spread_skill(ds: xr.Dataset) -> xr.DataArray:
    """Spread over RMSE of the analysis, mean squares over times, channels with equal weight."""
    ratios = []
    for name in map(str, ds.data_vars):
        if name.startswith("score_"):
            own = ds[name].sel(state="analysis")
            spread = _rms(own.sel(score="spread")) / _rms(own.sel(score="rmse"))
            ratios.append(np.atleast_1d(spread.values))
    return xr.DataArray(np.mean(np.concatenate(ratios)))


def figure(found: Mapping[Run, xr.Dataset]) -> Figure:
    """Error of analyses against time; the free run and the first analysis beside it."""
    from xdiffda.plot.styles import legend, lines, panels, style

    rows = sorted(
        {(own.columns, own.network) for own in found},
        key=lambda k: (k[0], list(NETWORKS).index(k[1])),
    )
    names = list(dict.fromkeys(own.name for own in found))
    with style():
        drawn, axes = panels(len(rows), height=2.6, sharex=True)
        look = lines(names)
        for ax, (columns, network) in zip(axes, rows, strict=True):
            here = {
                own.name: ds
                for own, ds in found.items()
                if (own.columns, own.network) == (columns, network)
            }
            for name, ds in here.items():
                days = (ds["time"] - ds["time"][0]).values / np.timedelta64(1, "D")
                error = ds["normalized_error"].sel(state="analysis")
                choice = look[name] | {"markevery": max(1, len(days) // 8)}
                ax.plot(days, error, label=name, **choice)
                ax.axhline(error[0], color=choice["color"], linestyle=":", linewidth=0.8)
            longest = max(here.values(), key=lambda ds: ds.sizes["time"])
            days = (longest["time"] - longest["time"][0]).values / np.timedelta64(1, "D")
            free = longest["normalized_error"].sel(state="free_run")
            ax.plot(days, free, color="0.3", linestyle="--", label="free run")
            ax.set(
                title=f"{columns} columns, {network} sites",
                xlabel="days",
                ylabel="RMSE / typical background error",
            )
            _log(ax)
        legend(drawn, axes)
    return drawn


def _log(ax: Axes) -> None:
    """Errors of analyses beside those of the free run, several times as large."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _score(ds: xr.Dataset, name: str, level: float | None, score: str) -> xr.DataArray:
    field = ds[f"score_{name}"].sel(state="analysis", score=score)
    axis = next((d for d in ("level", "score_level") if d in field.dims), None)
    return field if level is None or axis is None else field.sel({axis: level}, method="nearest")


def _rms(field: xr.DataArray) -> xr.DataArray:
    return (field**2).mean("time", skipna=False) ** 0.5


def _unit(ds: xr.Dataset, name: str) -> str:
    """Units of a field: what the truth said, or else those in which it is known."""
    own = ds[name].attrs.get("units") if name in ds else None
    return str(own or VARIABLES[name].units)


def _number(value: xr.DataArray) -> str:
    number = float(value)
    return f"{number:.3g}" if np.isfinite(number) else "-"


if __name__ == "__main__":
    import sys

    print(main(sys.argv[1]))

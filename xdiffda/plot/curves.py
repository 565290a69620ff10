"""Curves of training: loss against steps, as the training module logs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, StorageError
from xdiffda.plot.channels import choose_channels, in_display_units, labelled
from xdiffda.plot.styles import DASHES, legend, lines, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe, Ito


def loss_curves(path: str | Path | Mapping[str, str | Path], *, smooth: int = 20) -> Figure:
    """Draw training and validation loss against steps.

    Parameters
    ----------
    path
        A CSV file with columns ``step``, ``train_loss``, ``validation_loss`` (empty where
        it was not computed) and ``seconds``; or label -> file, for several runs in one
        figure.
    smooth
        Rows averaged in the drawn training loss; the raw one is drawn faintly behind.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    StorageError
        If a file lacks a column or is empty.
    """
    import matplotlib.pyplot as plt

    runs = path if isinstance(path, Mapping) else {"": path}
    figure, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    plt.close(figure)
    for colour, (label, file) in zip(_COLOURS * len(runs), runs.items(), strict=False):
        log = read_log(file)
        step, train, validation = log["step"], log["train_loss"], log["validation_loss"]
        prefix = f"{label}: " if label else ""
        has_train, has_validation = np.isfinite(train), np.isfinite(validation)
        ax.plot(step[has_train], train[has_train], color=colour, alpha=0.2, linewidth=0.6)
        mean = _running_mean(train[has_train], smooth)
        ax.plot(step[has_train], mean, color=colour, linewidth=1.2, label=f"{prefix}training")
        if has_validation.any():
            ax.plot(
                step[has_validation],
                validation[has_validation],
                color=colour if len(runs) > 1 else _COLOURS[1],
                linestyle="--",
                marker="o",
                markersize=3,
                linewidth=1.0,
                label=f"{prefix}validation ({validation[has_validation][-1]:.4g} at the end)",
            )
    ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="loss")
    ax.grid(color="0.9", linewidth=0.5, which="both")
    ax.spines[["top", "right"]].set_visible(False)
    legend(figure, [ax], n_column=2)
    return figure


def read_log(path: str | Path) -> dict[str, np.ndarray]:
    """Read a training log into columns of floats, NaN where a cell is empty."""
    import csv

    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    needed = ("step", "train_loss", "validation_loss")
    if not rows or any(name not in rows[0] for name in needed):
        raise StorageError(f"{path} is not a training log: it needs rows with {', '.join(needed)}")
    return {
        name: np.array([float(row[name]) if row[name] else np.nan for row in rows])
        for name in rows[0]
    }


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of up to ``width`` values so far."""
    total = np.cumsum(np.r_[0.0, values])
    start = np.maximum(np.arange(1, values.size + 1) - width, 0)
    return (total[1:] - total[start]) / (np.arange(1, values.size + 1) - start)


# Spectra: variance against wavenumber, and its ratio to a reference.


def spectra(
    results: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    band: str = "globe",
    reference: str | None = None,
    channels: Sequence[str] | None = None,
) -> Figure:
    """Draw variance against wavenumber, on logarithmic axes.

    Parameters
    ----------
    results
        Result of `xdiffda.verify.zonal_spectrum` or `total_spectrum`, or label -> result:
        truth, background, one member, the mean, errors.
    band
        Band of latitudes, of zonal spectra.
    reference
        A label by whose spectrum all are divided: a state without enough small scales is
        below 1 there.
    channels
        Such as ``temperature@850``; headline channels if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If band, reference or a channel is missing.

    Examples
    --------
    >>> found = xr.Dataset({"2m_temperature": ("total_wavenumber", [9.0, 4.0, 1.0],
    ...                                        {"units": "(K)^2"})},
    ...                    {"total_wavenumber": [0, 1, 2]})
    >>> spectra(found).axes[0].get_ylabel()
    'variance (K²)'
    """
    along = "wavenumber", "zonal_wavenumber", "total_wavenumber"
    given = labelled(
        results, along=along, what="spectra", made="xdiffda.verify.zonal_spectrum(analysis)"
    )
    _check(given, band, reference)
    chosen = choose_channels(given, channels, what="spectra")
    with style():
        figure, axes = panels(len(chosen), height=2.3)
        for ax, channel in zip(axes, chosen, strict=True):
            curves, units, dim = {}, "", ""
            for label, ds in given.items():
                field = channel.of(ds.sel(band=band) if "band" in ds.dims else ds)
                curve, units = in_display_units(field, power=2)
                dim = str(curve.dims[0])
                curves[label] = curve.isel({dim: curve[dim].values > 0})
            look = lines(curves)
            for number, (label, curve) in enumerate(curves.items()):
                shown = curve if reference is None else curve / curves[reference]
                ax.plot(
                    curve[dim],
                    shown,
                    color=look[label]["color"],
                    label=label or None,
                    linestyle=DASHES[number % len(DASHES)],
                )
            ax.set(xscale="log", yscale="log")
            ax.set(
                title=channel.title,
                xlabel=dim.replace("_", " ") if "total" in dim else "zonal wavenumber",
            )
            _wavenumber_ticks(ax, curve[dim].values)
            if reference is None:
                ax.set_ylabel(f"variance ({units})")
            else:
                ax.set_ylabel(f"variance / {reference}")
                _ratio_ticks(ax)
        legend(figure, axes)
    return figure


def _check(given: Mapping[str, xr.Dataset], band: str, reference: str | None) -> None:
    problems = []
    for label, ds in given.items():
        if "band" in ds.dims and band not in ds["band"].values:
            known = ", ".join(map(str, ds["band"].values))
            problems.append(
                Problem(
                    f"no band {band!r} of {label or 'the spectrum'}",
                    f"one of {known}",
                    'band="globe"',
                )
            )
    if reference is not None and reference not in given:
        problems.append(
            Problem(f"reference {reference!r}", f"one of {', '.join(given)}", 'reference="truth"')
        )
    if problems:
        raise InputError(problems, what="spectra")


def _ratio_ticks(ax: Any) -> None:
    """Plain numbers, and not less than a factor of two either way: noise is not a finding."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.5), max(high, 2.0))
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _wavenumber_ticks(ax: Any, wavenumber: np.ndarray) -> None:
    from matplotlib.ticker import NullLocator

    largest = wavenumber.max()
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k <= largest]
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.xaxis.set_minor_locator(NullLocator())

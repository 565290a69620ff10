"""Spectra: variance against wavenumber, and its ratio to a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.plot.channels import choose_channels, in_display_units, labelled
from xdiffda.plot.styles import DASHES, legend, lines, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    given = labelled(results, along=along, what="spectra",
                     made="xdiffda.verify.zonal_spectrum(analysis)")  # fmt: skip
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
                    curve[dim], shown, color=look[label]["color"], label=label or None,
                    linestyle=DASHES[number % len(DASHES)],
                )  # fmt: skip
            ax.set(xscale="log", yscale="log")
            ax.set(title=channel.title, xlabel=dim.replace("_", " ") if "total" in dim
                   else "zonal wavenumber")  # fmt: skip
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
                Problem(f"no band {band!r} of {label or 'the spectrum'}", f"one of {known}",
                        'band="globe"')
            )  # fmt: skip
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

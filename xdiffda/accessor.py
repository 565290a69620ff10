"""The accessor ``.diffda``: a thin face, one line for each public function."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.formatting import BAD, CHIPS, GOOD, Row, card

# What ``ds.diffda`` says of a Dataset, as text and as a card: what is recognised, and whether a
# model can take it.

_MOST_DOTS = 1500  # of a thumbnail


def describe(ds: xr.Dataset) -> str:
    """Describe a Dataset as xdiffda sees it, from metadata only.

    Examples
    --------
    >>> print(describe(xr.Dataset()).splitlines()[0])
    <xdiffda accessor>
    """
    _, rows = _facts(ds)
    width = max((len(r.label) for r in rows if r.label != "" and "Model" not in r.label), default=0)
    lines = [f"{r.label + ':':{width + 1}} {r.value}" if r.label else r.value for r in rows]
    return "\n".join(["<xdiffda accessor>", *lines])


def describe_html(ds: xr.Dataset) -> str:
    """Return the card of `describe` in HTML; that of observations has a map of their sites.

    Examples
    --------
    >>> describe_html(xr.Dataset()).startswith('<div class="xdiffda-card">')
    True
    """
    title, rows = _facts(ds)
    sizes = ", ".join(f"{dim}: {n}" for dim, n in ds.sizes.items())
    picture = _sites(ds) if title == "Observations" else ""
    return card(title, sizes, rows, picture=picture)


def _facts(ds: xr.Dataset) -> tuple[str, list[Row]]:
    """Return the kind of object and the rows of its card."""
    from xdiffda.errors import InputError
    from xdiffda.options import get_options
    from xdiffda.state.convert import infer_layout

    if "model" in ds.dims and "parameters" in ds:
        every = ds.transpose("model", ...)
        return "Models", [
            Row(str(name), ", ".join(str(every[v].values[i]) for v in every.data_vars))
            for i, name in enumerate(every["model"].values)
        ]
    if {"station", "obs"} & set(map(str, ds.dims)):
        sizes = ", ".join(f"{n} {dim}" for dim, n in ds.sizes.items())
        every = [str(n) for n in ds.data_vars]
        names = ", ".join(n for n in every if not n.endswith("_error_std")) or ", ".join(every)
        rows = [Row("Observations", sizes), Row("Variables", names, CHIPS)]
        if dropped := ds.attrs.get("xdiffda_observations_dropped"):
            rows.append(Row("Left out", _in_words(dropped)))
        return "Observations", rows
    try:
        layout = infer_layout(ds)
    except InputError as error:
        return "Not a state", [Row("", line, "") for line in str(error).splitlines()]
    rows = [
        Row("Grid", str(layout.grid)),
        Row("Levels (hPa)", ", ".join(map(str, layout.levels)) or "none"),
        Row("Recognised", ", ".join(layout.variables), CHIPS),
        Row("Units", _units(ds)),
        *_times(ds),
        *_provenance(ds.attrs),
        *_against_model(layout, get_options().default_model),
    ]
    return ("Analysis" if "xdiffda_method" in ds.attrs else "State"), rows


def _units(ds: xr.Dataset) -> str:
    """Units as written, and what is assumed where none are."""
    from xdiffda.state.recognise import recognise
    from xdiffda.state.variables import user_default_units

    by_unit: dict[str, list[str]] = {}
    for user, name in recognise(ds).items():
        if user in ds.data_vars:
            written = str(ds[user].attrs.get("units", ""))
            unit = written or f"{user_default_units(user, name)} (assumed)"
            by_unit.setdefault(unit, []).append(user)
    return "; ".join(f"{unit}: {', '.join(names)}" for unit, names in by_unit.items())


def _times(ds: xr.Dataset) -> list[Row]:
    from xdiffda.state.clock import clock_text

    text = clock_text(ds)
    return [Row("Valid time", text)] if text else []


def _provenance(attrs: dict[Any, Any]) -> list[Row]:
    """Return the rows that say how an analysis was made, from its attributes."""
    if "xdiffda_method" not in attrs:
        return []
    rows = [Row("Method", f"{attrs['xdiffda_method']}, model {attrs.get('xdiffda_model', '?')}")]
    for label, key in (
        ("Seed", "seed"),
        ("Evaluations", "network_evaluations"),
        ("Obs used", "observations_used"),
        ("Obs rejected", "observations_rejected"),
        ("Error scale", "background_error"),
        ("Left out", "left_out"),
        ("Version", "version"),
    ):
        value = attrs.get(f"xdiffda_{key}")
        if value is not None:
            rows.append(Row(label, _in_words(value)))
    return rows


def _in_words(value: Any) -> str:
    """An attribute as stored: a number, one for each time, or JSON of counts by reason."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        total: dict[str, int] = {}
        for counts in value:
            for reason, n in counts.items():
                word = reason.partition(" (")[0]  # without the hour, which differs by time
                total[word] = total.get(word, 0) + int(n)
        return ", ".join(f"{n:,} {reason}" for reason, n in total.items()) or "none"
    numbers = np.atleast_1d(np.asarray(value))
    if numbers.dtype.kind not in "iuf" or numbers.size == 1:
        return f"{numbers[0]:,}" if numbers.dtype.kind in "iu" else str(numbers[0])
    low, high = numbers.min(), numbers.max()
    text = f"{low:,} to {high:,}" if low != high else f"{low:,}"
    return f"{text} at each of {numbers.size} times"


def _against_model(layout: Any, name: str) -> list[Row]:
    """Compare with the model's card; weights are not read."""
    path = resources.files("xdiffda") / "models" / name / "card.json"
    if not path.is_file():
        return []
    stored = json.loads(path.read_text())
    missing = sorted(set(stored["variables"]) - set(layout.variables))
    levels = sorted(set(stored["levels"]) - set(layout.levels))
    shape = tuple(stored["shape"])
    problems = []
    if missing:
        problems.append(f"missing {', '.join(missing)}")
    if levels:
        problems.append(f"missing levels {', '.join(map(str, levels))}")
    if layout.grid.shape != shape:
        problems.append(f"grid is not {shape[0]} x {shape[1]}: xdiffda.regrid(ds, like={name!r})")
    verdict = "; ".join(problems) or "can take it"
    chosen = f"{name}, on its grid with its variables and levels"
    if problems:
        chosen = "reference, background errors of the real atmosphere on any grid"
    return [Row(f"Model {name}", verdict, BAD if problems else GOOD), Row("By default", chosen)]


def _sites(ds: xr.Dataset) -> str:
    """A map of the sites as SVG, if their coordinates are in memory."""
    if not {"lat", "lon"} <= set(ds.variables):
        return ""
    lat, lon = ds["lat"], ds["lon"]
    if lat.chunks is not None or lon.chunks is not None or lat.dims != lon.dims:
        return ""
    places = np.unique(np.stack([lat.values.ravel(), lon.values.ravel()], -1).round(1), axis=0)
    places = places[np.isfinite(places).all(-1)]
    places = places[:: -(-len(places) // _MOST_DOTS) or 1]
    dots = "".join(
        f'<circle cx="{(x + 180) % 360:.1f}" cy="{90 - y:.1f}" r="1.6"/>' for y, x in places
    )
    return (
        '<svg viewBox="0 0 360 180" width="360" height="180" role="img" aria-label="sites">'
        '<rect width="360" height="180" fill="none" stroke="currentColor" stroke-opacity=".25"/>'
        f'<path d="{_coastline()}" fill="none" stroke="currentColor" stroke-opacity=".45" '
        f'stroke-width=".6"/><g fill="#0072B2">{dots}</g></svg>'
    )


def _coastline() -> str:
    """Larger coastlines, generalised to a degree: some kilobytes."""
    from xdiffda.plot.coastline import coastline_lines

    paths = []
    for line in coastline_lines():
        if len(line) >= 16:
            points = np.stack([line[::3, 0] + 180, 90 - line[::3, 1]], -1).round().astype(int)
            paths.append("M" + "L".join(f"{x} {y}" for x, y in points))
    return "".join(paths)


class Method:
    """A public function as a method: the object of the accessor is its first argument.

    The function's own signature and documentation are what help and completion show; its
    module is imported when the method is first looked at, not with the package.
    """

    def __init__(self, path: str) -> None:
        self._module, self._name = path.split(":")
        self.__doc__ = f"`{self._module}.{self._name}` of this object."

    def __get__(self, accessor: Any, owner: type | None = None) -> Callable[..., Any]:
        function = getattr(importlib.import_module(self._module), self._name)

        @functools.wraps(function)
        def method(*args: Any, **settings: Any) -> Any:
            return function(*args, **settings)

        if accessor is None:
            return method
        bound = functools.wraps(function)(functools.partial(method, accessor._obj))
        _, *rest = inspect.signature(function).parameters.values()
        bound.__signature__ = inspect.Signature(rest)  # type: ignore[attr-defined]
        return bound


@xr.register_dataset_accessor("diffda")
class DatasetAccessor:
    """Data assimilation of a Dataset; see ``repr(ds.diffda)`` for what is recognised."""

    def __init__(self, obj: xr.Dataset) -> None:
        self._obj = obj

    # of a background
    assimilate = Method("xdiffda.assimilation.assimilate:assimilate")
    assimilate_store = Method("xdiffda.cycling.reanalysis:assimilate_store")
    cycle = Method("xdiffda.cycling.cycle:cycle")
    # of a state
    forecast = Method("xdiffda.cycling.forecast:forecast")
    emulate_obs = Method("xdiffda.observations:emulate_obs")
    # of observations
    dilate_mask = Method("xdiffda.observations:dilate_mask")
    interpolate = Method("xdiffda.observations:interpolate")
    # of an analysis
    increment = Method("xdiffda.verify:increment")
    verify = Method("xdiffda.verify:verify")
    rank_histogram = Method("xdiffda.verify:rank_histogram")
    spread_error = Method("xdiffda.verify:spread_error")
    zonal_spectrum = Method("xdiffda.verify:zonal_spectrum")
    balance = Method("xdiffda.verify:balance")
    map = Method("xdiffda.plot:map_panels")
    explore = Method("xdiffda.plot.explore:explore")

    def __repr__(self) -> str:
        return describe(self._obj)

    def _repr_html_(self) -> str:
        return describe_html(self._obj)


@xr.register_dataarray_accessor("diffda")
class DataArrayAccessor:
    """Maps of a DataArray; everything else needs a Dataset."""

    def __init__(self, obj: xr.DataArray) -> None:
        self._obj = obj

    def map(self, **choices: Any) -> Any:
        """Draw maps of this field: `xdiffda.plot.map_panels`."""
        from xdiffda.plot import map_panels

        name = str(self._obj.name or "field")
        return map_panels(self._obj.to_dataset(name=name), name, **choices)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in vars(DatasetAccessor):
            raise AttributeError(name)
        word = self._obj.name or "temperature"
        raise TypeError(f"{name} needs a Dataset: use da.to_dataset(name={word!r}).diffda.{name}")

    def __repr__(self) -> str:
        return "<xdiffda accessor of a DataArray: .map(); for the rest, da.to_dataset(name=...)>"

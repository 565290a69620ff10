"""What ``repr(ds.diffda)`` says: what is recognised, and whether a model can take it."""

from __future__ import annotations

import json
from importlib import resources

import xarray as xr


def describe(ds: xr.Dataset) -> str:
    """Describe a Dataset as xdiffda sees it, from metadata only.

    Examples
    --------
    >>> print(describe(xr.Dataset()).splitlines()[0])
    <xdiffda accessor>
    """
    from xdiffda.errors import InputError
    from xdiffda.options import get_options
    from xdiffda.state import infer_layout

    lines = ["<xdiffda accessor>"]
    if {"station", "obs"} & set(map(str, ds.dims)):
        sizes = ", ".join(f"{n} {dim}" for dim, n in ds.sizes.items())
        return "\n".join(
            [*lines, f"Observations: {sizes}", f"Variables:    {', '.join(map(str, ds.data_vars))}"]
        )
    try:
        layout = infer_layout(ds)
    except InputError as error:
        return "\n".join([*lines, *str(error).splitlines()])
    lines.append(f"Grid:         {layout.grid}")
    lines.append(f"Levels (hPa): {', '.join(map(str, layout.levels)) or 'none'}")
    lines.append(f"Recognised:   {', '.join(layout.variables)}")
    lines += _against_model(layout, get_options().default_model)
    return "\n".join(lines)


def _against_model(layout, name: str) -> list[str]:
    """Compare with the model's card; weights are not read."""
    path = resources.files("xdiffda") / "models" / name / "card.json"
    if not path.is_file():
        return []
    card = json.loads(path.read_text())
    missing = sorted(set(card["variables"]) - set(layout.variables))
    levels = sorted(set(card["levels"]) - set(layout.levels))
    shape = tuple(card["shape"])
    problems = []
    if missing:
        problems.append(f"missing {', '.join(missing)}")
    if levels:
        problems.append(f"missing levels {', '.join(map(str, levels))}")
    if layout.grid.shape != shape:
        problems.append(f"grid is not {shape[0]} x {shape[1]}: xdiffda.regrid(ds, like={name!r})")
    return [f"Model {name}: {'; '.join(problems) or 'can take it'}"]

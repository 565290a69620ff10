"""Look at states interactively: maps, profiles and plumes, with observations on top.

Needs the extra ``interactive`` (panel, which brings bokeh); nothing is fetched from a network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from xdiffda.errors import Problem, XdiffdaError, raise_if

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.plot.explore.app import Explorer


__all__ = ["explore"]


def explore(
    ds: xr.Dataset,
    *,
    obs: xr.Dataset | pd.DataFrame | None = None,
    background: xr.Dataset | None = None,
    truth: xr.Dataset | None = None,
    variable: str | None = None,
    level: float | None = None,
    view: str | None = None,
) -> Explorer:
    """Look at an analysis, or any state, interactively.

    The map shows one variable at one level and time: mean, one member, spread, and with
    ``background`` the increment, with ``truth`` the error. Observations lie on it, coloured on
    fields by their value, on the increment by their innovation. A click on the map chooses the
    point of the profile and of the plume (members against time, where there are several
    times); both are drawn relative to the background when the map shows the increment, to the
    truth when it shows the error. A click on the profile changes the level, one on the plume
    the time. Colour limits stay as time and member change.

    Parameters
    ----------
    ds
        Analysis or any other state, with or without ``member``, ``time`` and ``lead_time``, in
        any known convention, on any latitude-longitude grid. Lazy (dask) input is read slice
        by slice, as it is looked at.
    obs
        Observations in either form.
    background, truth
        States to compare with, on the same grid, that cover the times.
    variable
        What to begin with, by any of its names; default the first.
    level
        Pressure in hPa to begin with; default the nearest to 500.
    view
        ``mean``, ``member``, ``spread``, ``background``, ``increment``, ``truth`` or ``error``;
        default ``mean``.

    Returns
    -------
    Explorer
        Shows itself in a notebook. ``.servable()`` puts it on a page of ``panel serve``,
        ``.show()`` opens a browser, ``.save("view.html")`` writes the present view to one file
        that needs neither network nor Python. ``.variable``, ``.level``, ``.time``,
        ``.lead_time``, ``.member``, ``.view``, ``.observations`` and ``.point`` can be set.

    Raises
    ------
    InputError
        If states do not fit each other, or what to begin with is not there.
    XdiffdaError
        If panel is not installed.

    Examples
    --------
    >>> import xdiffda
    >>> explorer = explore(xdiffda.open_sample("truth"), variable="t", level=850)
    >>> explorer.view, explorer.frame().field.sizes["lon"]
    ('mean', 64)
    """
    try:
        import panel
    except ImportError as error:
        raise XdiffdaError(
            'explore() needs panel, which is not installed: pip install "xdiffda[interactive]"'
        ) from error
    from xdiffda.plot.explore.app import Explorer
    from xdiffda.plot.explore.states import States

    states = States(ds, background=background, truth=truth, obs=obs)
    chosen = _beginning(states, variable, level, view)
    _prepare_notebook(panel)
    return Explorer(states, **chosen)


def _beginning(
    states: Any, variable: str | None, level: float | None, view: str | None
) -> dict[str, Any]:
    """What to show first, checked."""
    from xdiffda.plot.explore.frames import VIEWS, views_of
    from xdiffda.state.variables import canonical_name

    name, problems = states.variables[0], []
    if variable is not None:
        on_levels = True if level is not None else None
        wanted = [variable, canonical_name(variable, on_levels=on_levels), canonical_name(variable)]
        found = [w for w in wanted if w in states.variables]
        if found:
            name = found[0]
        else:
            known = ", ".join(states.variables)
            problems.append(Problem(f"no variable {variable}", f"one of {known}", ""))
    levels = states.levels(name)
    if level is not None and levels and level not in levels:
        known = ", ".join(f"{v:g}" for v in levels)
        problems.append(
            Problem(f"no level {level:g} hPa", f"one of {known}", f"level={levels[0]:g}")
        )
    views = views_of(states, name)
    if view is not None and view not in views:
        needed = VIEWS[view].needs if view in VIEWS else None
        repair = f"explore(..., {needed}={needed})" if needed else f'view="{views[0]}"'
        problems.append(Problem(f"view {view!r}", f"one of {', '.join(views)}", repair))
    raise_if(problems, what="explore")
    start = {"variable": name, "view": view or views[0]}
    if levels and level is not None:
        start["level"] = level
    return start


def _prepare_notebook(panel: Any) -> None:
    """Load panel's scripts into a notebook, from the package and not from a network."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None and hasattr(shell, "kernel"):
        panel.extension(inline=True)

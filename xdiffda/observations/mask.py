"""Soft masks: how much each grid point is covered by observations, from 0 to 1."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.sites import channel_sites, node_vectors
from xdiffda.observations.table import to_tidy
from xdiffda.observations.threads import n_threads
from xdiffda.state.convention import Convention
from xdiffda.state.convert import from_state, read_metadata
from xdiffda.state.grid import Grid, Layout

if TYPE_CHECKING:
    from jaxtyping import Float


def dilate_mask(
    obs: xr.Dataset | xr.DataArray, *, like: xr.Dataset, sigma: float = 1.5
) -> xr.Dataset:
    r"""Dilate the 0/1 mask of observed points to a soft one (DiffDA).

    .. math:: m(x) = \max_i \exp\left(-\frac{d(x, x_i)^2}{2 \sigma^2 \delta^2}\right)

    with :math:`d` the great-circle distance to site :math:`i` and :math:`\delta` the grid
    spacing at the equator. The maximum belongs to the nearest site.

    Parameters
    ----------
    obs
        Observations in any accepted form, or a 0/1 DataArray on latitude and longitude.
        Those between levels count for both, if the station also has the other side of the level
        (see `interpolate`); their times are not looked at.
    like
        State whose grid, variables, levels and convention the mask takes; its values are not
        computed.
    sigma
        Width in grid cells.

    Returns
    -------
    Dataset
        One mask per variable of ``like`` on its ([level,] lat, lon), in its own names and order,
        float32: exactly 1 at observed grid points, 0 for what is not observed at all.

    Raises
    ------
    InputError
        If ``sigma`` is not positive, or the observations or ``like`` are wrong.

    Examples
    --------
    >>> field = xr.DataArray(np.zeros((4, 8)), dims=("lat", "lon"),
    ...                      coords={"lat": [67.5, 22.5, -22.5, -67.5], "lon": range(0, 360, 45)})
    >>> like = field.to_dataset(name="2m_temperature")
    >>> obs = xr.Dataset({"2t": ("station", [280.0])},
    ...                  {"lat": ("station", [22.5]), "lon": ("station", [45.0])})
    >>> mask = dilate_mask(obs, like=like, sigma=0.5)["2m_temperature"]
    >>> mask.sel(lat=22.5).values[:4].astype(float).round(2).tolist()
    [0.18, 1.0, 0.18, 0.0]
    """
    if not (isinstance(sigma, (int, float, np.number)) and sigma > 0):
        raise InputError(
            [
                Problem(
                    f"sigma={sigma!r}",
                    "a positive width in grid cells",
                    "dilate_mask(..., sigma=1.5)",
                )
            ],
            what="dilate_mask",
        )
    convention = read_metadata(like, what="like")
    layout = convention.layout
    if isinstance(obs, xr.DataArray):
        seen = _observed_nodes(obs, layout.grid)
        one = _dilated(layout.grid, node_vectors(layout.grid)[seen], sigma)
        mask = np.repeat(one[:, None], layout.n_channel, axis=1)
    else:
        mask = soft_mask(to_tidy(obs), layout, sigma=sigma)
    out = in_convention(mask, convention, units="1")
    for variable in out.data_vars.values():
        variable.attrs["long_name"] = "soft mask of observations"
    return out.assign_attrs(sigma_cells=float(sigma))


def soft_mask(
    tidy: xr.Dataset, layout: Layout, *, sigma: float = 1.5
) -> Float[np.ndarray, "node channel"]:
    """The soft mask of `dilate_mask` as a state array, float32.

    Examples
    --------
    >>> import pandas as pd
    >>> layout = Layout(Grid.from_coords([-45, 0, 45], [0, 120, 240]), ("2m_temperature",))
    >>> frame = pd.DataFrame({"variable": ["2t"], "lat": 0.0, "lon": 120.0, "value": 280.0})
    >>> soft_mask(to_tidy(frame), layout, sigma=0.2)[:, 0].argmax()
    np.int64(4)
    """
    mask = np.zeros((layout.grid.n_node, layout.n_channel), np.float32)
    for sites in channel_sites(tidy, layout):
        mask[:, sites.columns] = _dilated(layout.grid, sites.place, sigma)[:, None]
    return mask


def _dilated(grid: Grid, place: Float[np.ndarray, "site 3"], sigma: float) -> np.ndarray:
    """Gaussian of the distance to the nearest site, at each node."""
    from scipy.spatial import KDTree

    if not place.size:
        return np.zeros(grid.n_node, np.float32)
    chord, _ = KDTree(place).query(node_vectors(grid), workers=n_threads())
    angle = 2.0 * np.arcsin(np.clip(0.5 * chord, 0.0, 1.0))
    cell = 2.0 * np.pi / grid.n_lon
    return np.exp(-0.5 * (angle / (sigma * cell)) ** 2).astype(np.float32)


def _observed_nodes(mask: xr.DataArray, grid: Grid) -> np.ndarray:
    """Nodes where a 0/1 field on the grid is positive."""
    from xdiffda.state.coordinates import find_axes

    axes, _ = find_axes(mask.to_dataset(name="mask"))
    if not {"lat", "lon"} <= set(axes) or {axes["lat"].dim, axes["lon"].dim} != set(mask.dims):
        raise InputError(
            [
                Problem(
                    f"a DataArray on {', '.join(map(str, mask.dims))}",
                    "observations as a Dataset, or a 0/1 field on latitude and longitude",
                    "obs.to_dataset()",
                )
            ],
            what="observations",
        )
    lat, lon = axes["lat"], axes["lon"]
    field = mask.transpose(lat.dim, lon.dim)
    own = Grid.from_coords(mask[lat.coord].values, mask[lon.coord].values)
    if not own.is_close(grid):
        raise InputError(
            [
                Problem(
                    f"a mask on {own}",
                    f"the grid of like, {grid}",
                    "mask.interp_like(like, method='nearest')",
                )
            ],
            what="observations",
        )
    rows = np.argsort(mask[lat.coord].values)
    folded = np.mod(mask[lon.coord].values.astype(np.float64), 360.0)
    columns = np.argsort(np.where(360.0 - folded < 1e-5, 0.0, folded))
    return field.values[rows][:, columns].ravel() > 0


def in_convention(
    x: Float[np.ndarray, "node channel"], convention: Convention, *, units: str | None = None
) -> xr.Dataset:
    """A state array without batch dimensions in the user's convention.

    Parameters
    ----------
    x
        State array.
    convention
        The user's convention.
    units
        If given, ``x`` is in these units and is not converted.
    """
    bare = replace(
        convention, template=convention.template.drop_vars(list(convention.template.data_vars))
    )
    if units is not None:
        fields = tuple(
            replace(one, factor=1.0, offset=0.0, units=units, attrs={"units": units})
            for one in convention.fields
        )
        bare = replace(bare, fields=fields)
    return from_state(x, convention.layout, bare, dims=())

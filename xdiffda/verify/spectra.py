"""Spectra: variance by zonal wavenumber, and by total wavenumber."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.canonical import row_weights
from xdiffda.verify.scores import canonical_state

BANDS = {
    "globe": (-90.0, 90.0),
    "north": (20.0, 90.0),
    "tropics": (-20.0, 20.0),
    "south": (-90.0, -20.0),
}
_AVERAGED = ("time", "member")


def zonal_spectrum(
    state: xr.Dataset, *, bands: Mapping[str, tuple[float, float]] | None = None
) -> xr.Dataset:
    r"""Variance by zonal wavenumber in bands of latitude.

    Along each row of M points :math:`P_m = c_m |\hat x_m|^2 / M^2`, with
    :math:`c_m = 2` but 1 for m = 0 and, of even M, for m = M / 2. Then
    :math:`\sum_m P_m` is the mean of :math:`x^2` on the row (Parseval), on any grid. Rows
    are averaged by area, times and members with equal weights.

    Parameters
    ----------
    state
        State, error or increment in any known convention, on a grid that closes around the
        globe.
    bands
        Name -> (south, north), degrees; by default the globe, the tropics (20 S to 20 N) and
        what lies on either side.

    Returns
    -------
    xarray.Dataset
        Variables in canonical names on (``band``, ``wavenumber``[, ``level``]), in squared
        units of the variable. Lazy where the input is.

    Raises
    ------
    InputError
        If the grid does not close around the globe, or a band holds no row.

    Examples
    --------
    >>> lat, lon = [-60.0, 0.0, 60.0], np.arange(8) * 45.0
    >>> wave = 3 * np.cos(2 * np.deg2rad(lon)) + np.zeros((3, 1))
    >>> state = xr.Dataset({"2m_temperature": (("lat", "lon"), wave)}, {"lat": lat, "lon": lon})
    >>> zonal_spectrum(state, bands={"all": (-90, 90)})["2m_temperature"].values.round(6).tolist()
    [[0.0, 0.0, 4.5, 0.0, 0.0]]
    """
    ds = _closed(canonical_state(state, what="state"))
    rows, lat = row_weights(ds), ds["lat"]
    chosen = dict(BANDS if bands is None else bands)
    inside = {name: (lat >= south) & (lat <= north) for name, (south, north) in chosen.items()}
    raise_if(
        [
            Problem(
                f"band {name!r} from {chosen[name][0]:g} to {chosen[name][1]:g} without a row",
                f"bands that hold some of {ds.sizes['lat']} rows, south before north",
                'zonal_spectrum(state, bands={"north": (20, 90)})',
            )
            for name, mask in inside.items()
            if not bool(mask.any())
        ],
        what="zonal_spectrum",
    )
    n = ds.sizes["lon"] // 2 + 1
    index = xr.DataArray(list(chosen), dims="band", name="band")

    def spectrum(field: xr.DataArray) -> xr.DataArray:
        power = xr.apply_ufunc(
            _power,
            field,
            input_core_dims=[["lon"]],
            output_core_dims=[["wavenumber"]],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"allow_rechunk": True, "output_sizes": {"wavenumber": n}},
        )
        power = power.mean([d for d in _AVERAGED if d in power.dims], skipna=False)
        # a band's rows only: 0 * NaN would spoil the others
        parts = [
            power.isel(lat=np.flatnonzero(m.values))
            .weighted(rows.isel(lat=np.flatnonzero(m.values)))
            .mean("lat", skipna=False)
            for m in inside.values()
        ]
        return xr.concat(parts, index).transpose("band", "wavenumber", ...)

    out = _each(ds, spectrum).assign_coords(wavenumber=np.arange(n))
    out["wavenumber"].attrs = {"units": "1", "long_name": "zonal wavenumber"}
    out.attrs = {
        "protocol": "squared Fourier amplitudes along rows, normalised so that their sum is the "
        "mean square; rows weighted by area, times and members averaged",
        "bands": ", ".join(f"{k}: {a:g} to {b:g}" for k, (a, b) in chosen.items()),
    }
    return out


def _power(x: Float[np.ndarray, "*lead lon"]) -> Float[np.ndarray, "*lead wavenumber"]:
    n = x.shape[-1]
    power = np.abs(np.fft.rfft(x.astype(np.float64), axis=-1) / n) ** 2
    twice = np.full(power.shape[-1], 2.0)
    twice[0] = 1.0
    if n % 2 == 0:
        twice[-1] = 1.0
    return power * twice


def total_spectrum(state: xr.Dataset, *, truncation: int | None = None) -> xr.Dataset:
    r"""Variance by total wavenumber of spherical harmonics.

    :math:`P_l = \sum_m a_{lm}^2 / 4\pi` of the real orthonormal harmonics that fit the
    field best in the area-weighted mean square (`xdiffda.covariance.harmonics.sphere_basis`).
    :math:`\sum_l P_l` is the mean square over the sphere of that fit.

    Parameters
    ----------
    state
        State, error or increment in any known convention, on a global grid.
    truncation
        Largest total wavenumber; by default the largest that the grid resolves.

    Returns
    -------
    xarray.Dataset
        Variables in canonical names on (``total_wavenumber``[, ``level``]), in squared units
        of the variable; times and members averaged. Lazy where the input is.

    Raises
    ------
    InputError
        If the grid is not global, or does not resolve the truncation.

    Examples
    --------
    >>> lat, lon = np.arange(-75.0, 90, 30), np.arange(12) * 30.0
    >>> wave = np.sin(np.deg2rad(lat))[:, None] + np.zeros(12)  # l = 1, mean square 1/3
    >>> state = xr.Dataset({"2m_temperature": (("lat", "lon"), wave)}, {"lat": lat, "lon": lon})
    >>> total_spectrum(state, truncation=2)["2m_temperature"].values.round(4).tolist()
    [0.0, 0.3333, 0.0]
    """
    from xdiffda.covariance.harmonics import sphere_basis
    from xdiffda.state.grid import Grid

    ds = _closed(canonical_state(state, what="state"))
    grid = Grid.from_coords(ds["lat"].values, ds["lon"].values)
    try:
        basis = sphere_basis(grid.lat, grid.lon, truncation)
    except ValueError as error:
        limit = min(grid.n_lat - 1, grid.n_lon // 2 - 1)
        raise InputError(
            [Problem(str(error), f"at most {limit}", f"total_spectrum(state, truncation={limit})")],
            what="total_spectrum",
        ) from error
    n_degree = basis.mask.shape[0]

    def power(x: np.ndarray) -> np.ndarray:
        lead, x = x.shape[:-2], x.astype(np.float64)
        # the transform works in 32 bits: a large mean would drown the small scales
        weight = grid.area_weights().reshape(grid.shape) / grid.n_node
        mean = (x * weight).sum((-2, -1))
        fields = (x - mean[..., None, None]).reshape(-1, grid.n_node).T
        a = np.asarray(basis.analysis(fields.astype(np.float32)), np.float64)
        count = float(np.asarray(basis.mask).sum())  # coefficients are scaled by its root
        a[0, 0] += mean.reshape(-1) * np.sqrt(count)
        return ((a**2).sum(1) / count).T.reshape(*lead, n_degree)

    def spectrum(field: xr.DataArray) -> xr.DataArray:
        found = xr.apply_ufunc(
            power,
            field,
            input_core_dims=[["lat", "lon"]],
            output_core_dims=[["total_wavenumber"]],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={
                "allow_rechunk": True,
                "output_sizes": {"total_wavenumber": n_degree},
            },
        )
        found = found.mean([d for d in _AVERAGED if d in found.dims], skipna=False)
        return found.transpose("total_wavenumber", ...)

    out = _each(ds, spectrum).assign_coords(total_wavenumber=np.arange(n_degree))
    out["total_wavenumber"].attrs = {"units": "1", "long_name": "total wavenumber"}
    out.attrs = {
        "protocol": "squared coefficients of real orthonormal spherical harmonics, summed over "
        "orders and normalised so that their sum is the mean square over the sphere; times and "
        "members averaged"
    }
    return out


def _each(ds: xr.Dataset, function) -> xr.Dataset:
    out = {}
    for name, field in ds.data_vars.items():
        if {"lat", "lon"} <= set(field.dims):
            units = str(field.attrs.get("units", ""))
            out[name] = function(field)
            out[name].attrs = {
                "units": f"({units})^2" if units else "",
                "long_name": f"variance of {field.attrs.get('long_name', name)}",
            }
    return xr.Dataset(out)


def _closed(ds: xr.Dataset) -> xr.Dataset:
    """Return ``ds`` if its meridians are equally spaced around the globe."""
    lon = ds["lon"].values
    step = 360.0 / lon.size
    if lon.size < 3 or not np.allclose(np.diff(lon), step, atol=0.01 * step):
        raise InputError(
            [
                Problem(
                    f"{lon.size} meridians from {lon[0]:g} to {lon[-1]:g}",
                    "meridians equally spaced around the globe",
                    "xdiffda.regrid(state, like)",
                )
            ],
            what="spectrum",
        )
    return ds

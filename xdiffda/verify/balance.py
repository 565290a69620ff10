"""Balance of mass and wind: geostrophic wind, divergence and vorticity."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem
from xdiffda.state.canonical import row_weights
from xdiffda.state.matching import matched
from xdiffda.verify.scores import canonical_state
from xdiffda.verify.spectra import _closed

EARTH_RADIUS = 6.371e6  # m
EARTH_ROTATION = 7.292e-5  # s-1
_U, _V, _PHI = "u_component_of_wind", "v_component_of_wind", "geopotential"
_AXES = [["lat", "lon"]]


def geostrophic_wind(state: xr.Dataset) -> xr.Dataset:
    r"""Wind in geostrophic balance with the geopotential.

    :math:`u_g = -\frac{1}{f a}\frac{\partial\Phi}{\partial\varphi}`,
    :math:`v_g = \frac{1}{f a \cos\varphi}\frac{\partial\Phi}{\partial\lambda}`,
    :math:`f = 2\Omega\sin\varphi` (Holton & Hakim 2013, chapter 2). Meridians are joined to great
    circles, on which derivatives are those of a periodic cubic spline; along rows they are
    spectral.

    Parameters
    ----------
    state
        State in any known convention with ``geopotential`` on a global grid.

    Returns
    -------
    xarray.Dataset
        ``u_component_of_wind`` and ``v_component_of_wind``, m/s. Meaningless near the
        equator (infinite on it) and NaN at the poles. Lazy where the input is.

    Raises
    ------
    InputError
        If there is no geopotential, or the grid does not close around the globe.

    Examples
    --------
    >>> lat, lon = np.arange(-85.0, 90, 10), np.arange(36) * 10.0
    >>> phi = 2 * 7.292e-5 * 6.371e6 * 10 * np.cos(np.deg2rad(lat))[:, None] ** 2 / 2
    >>> ds = xr.Dataset({"geopotential": (("lat", "lon"), phi + np.zeros(36))},
    ...                 {"lat": lat, "lon": lon})
    >>> u = geostrophic_wind(ds)["u_component_of_wind"]  # 10 cos(lat) m/s
    >>> round(float((u / np.cos(np.deg2rad(u.lat))).sel(lat=45).mean()), 2)
    10.0
    """
    ds = _prepared(state, (_PHI,), "geostrophic_wind")
    phi = ds[_PHI]
    sine, cosine = _sine(ds), _cosine(ds)
    coriolis = 2 * EARTH_ROTATION * sine
    with np.errstate(divide="ignore", invalid="ignore"):
        u = -_northward(phi) / (coriolis * EARTH_RADIUS)
        v = _eastward(phi) / (coriolis * EARTH_RADIUS * cosine)
    units = {"units": "m s-1"}
    u.attrs = units | {"long_name": "geostrophic eastward wind"}
    v.attrs = units | {"long_name": "geostrophic northward wind"}
    return xr.Dataset({_U: u, _V: v})


def divergence_vorticity(state: xr.Dataset) -> xr.Dataset:
    r"""Divergence and relative vorticity of the wind.

    :math:`\delta = \frac{1}{a\cos\varphi}(\partial_\lambda u + \partial_\varphi(v\cos\varphi))`,
    :math:`\zeta = \frac{1}{a\cos\varphi}(\partial_\lambda v - \partial_\varphi(u\cos\varphi))`,
    derivatives as in `geostrophic_wind`.

    Parameters
    ----------
    state
        State in any known convention with both components of the wind on a global grid.

    Returns
    -------
    xarray.Dataset
        ``divergence`` and ``vorticity``, 1/s; NaN at the poles. Lazy where the input is.

    Raises
    ------
    InputError
        If a component is missing, or the grid does not close around the globe.

    Examples
    --------
    >>> lat, lon = np.arange(-85.0, 90, 10), np.arange(36) * 10.0
    >>> u = 20 * np.cos(np.deg2rad(lat))[:, None] + np.zeros(36)  # solid rotation
    >>> ds = xr.Dataset({"u": (("level", "lat", "lon"), u[None]),
    ...                  "v": (("level", "lat", "lon"), 0 * u[None])},
    ...                 {"lat": lat, "lon": lon, "level": [500]})
    >>> found = divergence_vorticity(ds).sel(lat=45, level=500).mean("lon")
    >>> round(float(found["vorticity"] * 6.371e6 / 40), 3), float(found["divergence"])
    (0.707, 0.0)
    """
    ds = _prepared(state, (_U, _V), "divergence_vorticity")
    u, v, cosine = ds[_U], ds[_V], np.cos(np.deg2rad(ds["lat"]))
    scale = EARTH_RADIUS * _cosine(ds)
    divergence = (_eastward(u) + _northward(v * cosine)) / scale
    vorticity = (_eastward(v) - _northward(u * cosine)) / scale
    divergence.attrs = {"units": "s-1", "long_name": "divergence"}
    vorticity.attrs = {"units": "s-1", "long_name": "relative vorticity"}
    return xr.Dataset({"divergence": divergence, "vorticity": vorticity})


def balance(state: xr.Dataset, *, tropics: float = 20.0, polar: float = 80.0) -> xr.Dataset:
    r"""Measure how far mass and wind are from balance.

    Compare an analysis with the truth or its background: an analysis that breaks the
    balance has a larger ageostrophic part and more divergence, and forecasts from it ring.

    Parameters
    ----------
    state
        State in any known convention, with the wind and, for the geostrophic part,
        ``geopotential``; members and times are pooled. Of an ensemble, members are measured,
        not their mean.
    tropics
        Geostrophic balance is looked at beyond this latitude, degrees.
    polar
        Rows beyond this latitude are left out of everything, degrees.

    Returns
    -------
    xarray.Dataset
        On [``level``]: ``ageostrophic_ratio``
        :math:`(\langle|v - v_g|^2\rangle / \langle|v_g|^2\rangle)^{1/2}`, root mean squares
        ``divergence`` and ``vorticity`` (1/s), and ``divergence_ratio`` of the two. Lazy
        where the input is.

    Raises
    ------
    InputError
        If the wind is missing, or the grid does not close around the globe.

    Examples
    --------
    >>> lat, lon = np.arange(-85.0, 90, 10), np.arange(36) * 10.0
    >>> u = 20 * np.cos(np.deg2rad(lat))[:, None] + np.zeros(36)  # solid rotation
    >>> ds = xr.Dataset({"u": (("level", "lat", "lon"), u[None]),
    ...                  "v": (("level", "lat", "lon"), 0 * u[None])},
    ...                 {"lat": lat, "lon": lon, "level": [500]})
    >>> balance(ds)["divergence_ratio"].values.round(6).tolist()
    [0.0]
    """
    ds = _prepared(state, (_U, _V), "balance")
    weights, north = row_weights(ds), abs(ds["lat"])
    whole = np.flatnonzero((north <= polar).values)
    outside = np.flatnonzero(((north >= tropics) & (north <= polar)).values)
    if not outside.size:
        raise InputError(
            [
                Problem(
                    f"no row between {tropics:g} and {polar:g} degrees",
                    "tropics below polar, both in degrees",
                    "balance(state, tropics=20)",
                )
            ],
            what="balance",
        )

    def rms(square: xr.DataArray, rows: np.ndarray) -> xr.DataArray:
        part = square.isel(lat=rows)
        dims = [d for d in ("time", "member", "lat", "lon") if d in part.dims]
        return part.weighted(weights.isel(lat=rows)).mean(dims) ** 0.5

    out = {}
    if _PHI in ds:
        geo = geostrophic_wind(ds)
        away = (ds[_U] - geo[_U]) ** 2 + (ds[_V] - geo[_V]) ** 2
        ratio = rms(away, outside) / rms(geo[_U] ** 2 + geo[_V] ** 2, outside)
        out["ageostrophic_ratio"] = ratio.assign_attrs(
            units="1", long_name="ageostrophic over geostrophic wind"
        )
    for name, field in divergence_vorticity(ds).data_vars.items():
        out[name] = rms(field**2, whole).assign_attrs(field.attrs)
    ratio = out["divergence"] / out["vorticity"]
    out["divergence_ratio"] = ratio.assign_attrs(units="1", long_name="divergence over vorticity")
    protocol = (
        f"root mean squares weighted by area, members and times pooled; geostrophic part between "
        f"{tropics:g} and {polar:g} degrees, the rest up to {polar:g} degrees"
    )
    return xr.Dataset(out, attrs={"protocol": protocol})


def _prepared(state: xr.Dataset, names: tuple[str, ...], what: str) -> xr.Dataset:
    ds = _closed(canonical_state(state, what="state"))
    missing = [n for n in names if n not in ds]
    if missing:
        known = ", ".join(map(str, ds.data_vars))
        raise InputError(
            [
                Problem(
                    f"{known} without {', '.join(missing)}",
                    ", ".join(names),
                    "",
                )
            ],
            what=what,
        )
    return ds


def _sine(ds: xr.Dataset) -> xr.DataArray:
    return xr.DataArray(np.sin(np.deg2rad(ds["lat"])))


def _cosine(ds: xr.Dataset) -> xr.DataArray:
    """Cosine of latitude, NaN at the poles, where directions have no meaning."""
    cosine = xr.DataArray(np.cos(np.deg2rad(ds["lat"])))
    return cosine.where(cosine > 1e-9)


def _eastward(field: xr.DataArray) -> xr.DataArray:
    return _derivative(field, _along_rows)


def _northward(field: xr.DataArray) -> xr.DataArray:
    lat = np.deg2rad(field["lat"].values.astype(np.float64))
    return _derivative(field, _along_meridians, lat=lat)


def _derivative(field: xr.DataArray, function: Any, **settings: Any) -> xr.DataArray:
    return xr.apply_ufunc(
        function,
        field.astype(np.float64),
        input_core_dims=_AXES,
        output_core_dims=_AXES,
        kwargs=settings,
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )


def _along_rows(x: Float[np.ndarray, "*lead lat lon"]) -> Float[np.ndarray, "*lead lat lon"]:
    n = x.shape[-1]
    modes = np.fft.rfft(x, axis=-1) * (1j * np.arange(n // 2 + 1))
    if n % 2 == 0:
        modes[..., -1] = 0  # the wave of two points has no derivative on the grid
    return np.fft.irfft(modes, n, axis=-1)


def _along_meridians(
    x: Float[np.ndarray, "*lead lat lon"], *, lat: Float[np.ndarray, " lat"]
) -> Float[np.ndarray, "*lead lat lon"]:
    """Derivative by latitude (radians) of a field that continues over the poles."""
    from scipy.interpolate import CubicSpline

    x = np.moveaxis(x, -2, 0)
    step = np.diff(lat).max()
    if lat[0] + np.pi / 2 > step or np.pi / 2 - lat[-1] > step:  # not up to the poles
        return np.moveaxis(CubicSpline(lat, x)(lat, 1), 0, -2)
    n = x.shape[-1]
    turned = np.fft.rfft(x, axis=-1) * (-1.0) ** np.arange(n // 2 + 1)
    back = slice(None, None, -1)
    behind, beyond = np.fft.irfft(turned, n, axis=-1)[back], np.pi - lat[back]
    keep = (beyond > lat[-1] + 1e-9) & (beyond < lat[0] + 2 * np.pi - 1e-9)  # a pole counts once
    circle = np.concatenate([lat, beyond[keep], [lat[0] + 2 * np.pi]])
    values = np.concatenate([x, behind[keep], x[:1]])
    slope = CubicSpline(circle, values, bc_type="periodic")(lat, 1)
    return np.moveaxis(slope, 0, -2)


# Shock: how much more a forecast moves at first than one from a balanced state.


def initial_shock(
    state: xr.Dataset,
    forecast: xr.Dataset,
    *,
    reference: xr.Dataset,
    reference_forecast: xr.Dataset,
) -> xr.Dataset:
    r"""Compare the first tendency of a forecast with that of a forecast from the truth.

    With the state :math:`x_0`, the first output :math:`x_1` of the forecast from it (6 h for
    the bundled models), and the average :math:`\langle\cdot\rangle` weighted by cell area:
    ``tendency`` :math:`\langle(x_1 - x_0)^2\rangle^{1/2}`, ``reference_tendency`` the same of
    the reference, ``shock`` :math:`=` tendency / reference tendency :math:`- 1`. A state in
    balance has a shock of zero; one whose noise the model throws off at once, as gravity
    waves or by its dissipation, a positive one; a state too smooth, such as the mean of an
    ensemble, a negative one. The tendency of surface pressure is the classical measure
    (Lynch & Huang 1992); every variable of the state has one here.

    Parameters
    ----------
    state
        What the forecast starts from, at one time, with or without ``member``. Of an
        ensemble, members are measured, not their mean.
    forecast
        From it: `xdiffda.cycling.forecast.forecast`.
    reference, reference_forecast
        The same for a balanced state of the same time, usually the truth.

    Returns
    -------
    xarray.Dataset
        Variables in canonical names on (``score``[, ``level``]): in units of the variable
        per first interval of the forecast; ``shock`` is a ratio.

    Raises
    ------
    InputError
        If there are several initial times, or grids or variables do not fit.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> t = np.datetime64("2020-01-01", "ns") + np.array([0, 6]) * np.timedelta64(1, "h")
    >>> def at(time, value):
    ...     field = (("lat", "lon"), np.full((3, 4), value), {"units": "K"})
    ...     return xr.Dataset({"2m_temperature": field}, grid).assign_coords(time=time)
    >>> found = initial_shock(at(t[0], 280.0), at(t[1], 283.0),
    ...                       reference=at(t[0], 281.0), reference_forecast=at(t[1], 282.0))
    >>> found["2m_temperature"].values.tolist()
    [3.0, 1.0, 2.0]
    """
    own = _tendency(state, forecast, "state")
    base = _tendency(reference, reference_forecast, "reference")
    names = [name for name in own.data_vars if name in base]
    own, base = own[names], base[names]
    out = xr.concat(
        [own, base, own / base - 1],
        dim="score",
        coords="minimal",
        compat="override",
        combine_attrs="override",
    ).assign_coords(score=["tendency", "reference_tendency", "shock"])
    out.attrs = {
        "protocol": "root mean square change over the first interval of a forecast, weighted by "
        "area, members pooled; shock: over that of the reference, less one"
    }
    return out


def _tendency(state: xr.Dataset, forecast: xr.Dataset, what: str) -> xr.Dataset:
    first = _one_time(canonical_state(state, what=what), what)
    next_ = _one_time(_first_output(canonical_state(forecast, what=f"{what}'s forecast")), what)
    later, earlier = matched(next_, first, what=f"{what}'s forecast", other=what)
    change = later.astype(np.float64) - earlier.astype(np.float64)
    dims = [d for d in ("member", "lat", "lon") if d in change.dims]
    out = (change**2).weighted(row_weights(earlier)).mean(dims) ** 0.5
    for name, field in out.data_vars.items():
        field.attrs = {k: v for k, v in earlier[name].attrs.items() if k == "units"}
    return out


def _first_output(forecast: xr.Dataset) -> xr.Dataset:
    """The earliest valid time of a forecast."""
    many = [d for d in ("time", "lead_time") if forecast.sizes.get(d, 1) > 1]
    return forecast.isel(dict.fromkeys(many, 0))


def _one_time(ds: xr.Dataset, what: str) -> xr.Dataset:
    """Drop the clock, so that states of different times can be subtracted."""
    clocks = [d for d in ("time", "init_time", "lead_time") if d in ds.dims]
    several = [d for d in clocks if ds.sizes[d] > 1]
    if several:
        raise InputError(
            [
                Problem(
                    f"{ds.sizes[several[0]]} times along {several[0]}",
                    "one initial time",
                    f"ds.isel({several[0]}=0)",
                )
            ],
            what=what,
        )
    stale: list[Any] = [n for n, c in ds.coords.items() if c.dtype.kind in "mM"]
    return ds.squeeze(clocks, drop=True).drop_vars(stale, errors="ignore")

"""Spectra and balance, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.special import sph_harm_y

from xdiffda.errors import InputError
from xdiffda.verify import (
    balance,
    divergence_vorticity,
    geostrophic_wind,
    initial_shock,
    total_spectrum,
    zonal_spectrum,
)

LAT = np.arange(-87.1875, 90, 5.625)
LON = np.arange(0, 360, 5.625)
PHI, LAMBDA = np.deg2rad(LAT)[:, None], np.deg2rad(LON)[None]
T2M = "2m_temperature"
A, OMEGA = 6.371e6, 7.292e-5


def field(values: np.ndarray, name: str = T2M, **coords: object) -> xr.Dataset:
    lead = list(coords)
    return xr.Dataset(
        {
            name: (
                (*lead, "lat", "lon"),
                np.broadcast_to(values, (*values.shape[:-2], 32, 64)).copy(),
            )
        },
        {"lat": LAT, "lon": LON, **coords},
    )


def draw(*shape: int, seed: int, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, std, (*shape, LAT.size, LON.size))


# ---- spectra ---------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "power"), [(0, 9.0), (3, 4.5), (31, 4.5), (32, 9.0)])
def test_spectrum_of_a_pure_wave(m: int, power: float) -> None:
    wave = field(3 * np.cos(m * LAMBDA) + 0 * PHI, "temperature")
    found = zonal_spectrum(wave)["temperature"]
    expected = np.zeros(33)
    expected[m] = power
    np.testing.assert_allclose(found, np.tile(expected, (4, 1)), atol=1e-12)


@pytest.mark.parametrize("n_lon", [64, 45])
def test_parseval(n_lon: int) -> None:
    lon = np.arange(n_lon) * 360 / n_lon
    values = np.random.default_rng(13).normal(2, 1, (3, 32, n_lon))
    state = xr.Dataset({T2M: (("time", "lat", "lon"), values)}, {"lat": LAT, "lon": lon})
    found = zonal_spectrum(state, bands={"globe": (-90, 90), "north": (30, 90)})[T2M]
    area = np.diff(np.sin(np.deg2rad(np.r_[-90, LAT[:-1] + 2.8125, 90])))
    square = (values**2).mean((0, 2))
    north = LAT >= 30
    expected = [np.average(square, weights=area), np.average(square[north], weights=area[north])]
    np.testing.assert_allclose(found.sum("wavenumber"), expected, rtol=1e-12)


@pytest.mark.parametrize(("degree", "order"), [(0, 0), (2, 1), (7, 7), (12, 5)])
def test_total_spectrum_of_a_harmonic(degree: int, order: int) -> None:
    wave = np.real(sph_harm_y(degree, order, np.pi / 2 - PHI, LAMBDA + 0.3))
    found = total_spectrum(field(1000 + wave, "temperature"))["temperature"]
    mean_square = (1 if order == 0 else 0.5) / (4 * np.pi)
    # the constant meets the harmonic of degree 0
    constant = 1000 + (np.real(wave[0, 0]) if degree == 0 else 0)
    assert float(found[0]) == pytest.approx(constant**2, rel=1e-6)
    if degree:
        assert float(found[degree]) == pytest.approx(mean_square, rel=1e-4)
    rest = found.drop_isel(total_wavenumber=sorted({0, degree}))
    assert float(abs(rest).max()) < 1e-5


def test_spectra_average_members_and_times() -> None:
    time = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    states = field(draw(3, 4, seed=14), member=np.arange(3), time=time)
    for function in (zonal_spectrum, total_spectrum):
        single = [function(states.isel(member=i, time=j))[T2M] for i in range(3) for j in range(4)]
        np.testing.assert_allclose(function(states)[T2M], sum(single) / 12, rtol=1e-6)


def test_spectra_need_a_closed_grid() -> None:
    part = field(draw(seed=15)).isel(lon=slice(0, 20))
    with pytest.raises(InputError, match="around the globe"):
        zonal_spectrum(part)
    with pytest.raises(InputError, match=r"band 'gap'.*without a row"):
        zonal_spectrum(field(draw(seed=15)), bands={"gap": (1, 2)})
    with pytest.raises(InputError, match="at most 31"):
        total_spectrum(field(draw(seed=15)), truncation=40)


# ---- balance ---------------------------------------------------------------------------


def grid_of(poles: bool, n_lon: int) -> tuple[np.ndarray, np.ndarray]:
    lat = np.linspace(-90, 90, 33) if poles else LAT
    return lat, np.arange(n_lon) * 360 / n_lon


@pytest.mark.parametrize(("poles", "n_lon"), [(False, 64), (True, 64), (False, 45)])
def test_geostrophic_wind_of_an_analytic_height_field(poles: bool, n_lon: int) -> None:
    """phi = 2 Omega a U sin cos cos(lon): u_g = -U cos(2 lat) cos(lon) / sin(lat), v_g = ..."""
    lat, lon = grid_of(poles, n_lon)
    phi, lam = np.deg2rad(lat)[:, None], np.deg2rad(lon)
    height = 2 * OMEGA * A * 10 * np.sin(phi) * np.cos(phi) * np.cos(lam)
    state = xr.Dataset({"geopotential": (("lat", "lon"), height)}, {"lat": lat, "lon": lon})
    wind = geostrophic_wind(state)
    rows = (abs(lat) > 20) & (abs(lat) < 89.9)
    u = -10 * np.cos(2 * phi) * np.cos(lam) / np.sin(phi, where=abs(phi) > 0.1, out=0 * phi + 1)
    v = -10 * np.sin(lam) + 0 * phi
    np.testing.assert_allclose(wind["u_component_of_wind"][rows], u[rows], atol=0.01)
    np.testing.assert_allclose(wind["v_component_of_wind"][rows], v[rows], atol=1e-9)


@pytest.mark.parametrize(("poles", "n_lon"), [(False, 64), (True, 64), (False, 45)])
def test_vorticity_and_divergence_of_a_harmonic(poles: bool, n_lon: int) -> None:
    """psi of degree 3: vorticity -12 psi / a^2, no divergence; and the same for chi."""
    lat, lon = grid_of(poles, n_lon)
    phi, lam = np.deg2rad(lat)[:, None], np.deg2rad(lon)
    psi = np.cos(phi) ** 2 * np.sin(phi) * np.cos(2 * lam)
    by_lat = (np.cos(phi) ** 3 - 2 * np.cos(phi) * np.sin(phi) ** 2) * np.cos(2 * lam) / A
    by_lon = -2 * np.cos(phi) * np.sin(phi) * np.sin(2 * lam) / A
    laplacian = -12 * psi / A**2
    rows = abs(lat) < 89.9
    for u, v, name, zero in (
        (-by_lat, by_lon, "vorticity", "divergence"),
        (by_lon, by_lat, "divergence", "vorticity"),
    ):
        fields = {"u_component_of_wind": u, "v_component_of_wind": v}
        state = xr.Dataset(
            {k: (("lat", "lon"), f) for k, f in fields.items()}, {"lat": lat, "lon": lon}
        )
        found = divergence_vorticity(state)
        scale = abs(laplacian).max()
        np.testing.assert_allclose(found[name][rows] / scale, laplacian[rows] / scale, atol=2e-3)
        np.testing.assert_allclose(found[zero][rows] / scale, 0, atol=2e-3)


def test_balance_counts_what_is_not_geostrophic() -> None:
    """A wind of 1.3 times the geostrophic one has an ageostrophic ratio of 0.3."""
    height = 5e4 + 2 * OMEGA * A * 10 * np.cos(PHI) ** 2 * (1 + 0.3 * np.sin(PHI) * np.cos(LAMBDA))
    state = field(height[None], "geopotential", level=[500])
    wind = geostrophic_wind(state)
    # nothing is asked of the rows where the geostrophic wind has no meaning
    wind = wind.where(abs(wind.lat) > 15, 0)
    assert float(balance(state.merge(wind))["ageostrophic_ratio"][0]) == pytest.approx(0, abs=1e-9)
    found = balance(state.merge(1.3 * wind))
    assert float(found["ageostrophic_ratio"][0]) == pytest.approx(0.3)
    assert found["divergence"].attrs["units"] == "s-1"
    noisy = wind + 0.5 * xr.DataArray(draw(2, seed=16), dims=("member", "lat", "lon"))
    assert float(balance(noisy)["divergence_ratio"][0]) > 1.5 * float(found["divergence_ratio"][0])
    with pytest.raises(InputError, match="without u_component_of_wind"):
        balance(state)


def test_stays_lazy(no_compute: None) -> None:
    wind = field(draw(1, seed=19), "u", level=[500]).assign(
        v=(("level", "lat", "lon"), draw(1, seed=20)), z=(("level", "lat", "lon"), draw(1, seed=21))
    )
    wind = wind.chunk(lat=16)
    for result in (zonal_spectrum(wind), total_spectrum(wind, truncation=4), balance(wind)):
        assert "protocol" in result.attrs
        assert all(v.chunks is not None for v in result.data_vars.values())


# ---- shock -----------------------------------------------------------------------------


def _drift(ds: xr.Dataset, lead: int = 6) -> xr.Dataset:
    """A model that warms by 2 K in 6 h and throws off whatever varies along rows."""
    smooth = ds.mean("lon") + 0 * ds
    return (smooth + 2).assign_coords(time=ds.time + np.timedelta64(lead, "h"))


def test_shock_of_noise_is_known_and_the_truth_has_none() -> None:
    time = np.datetime64("2020-01-01", "ns")
    wave = np.cos(np.deg2rad(LON))  # mean square 1/2
    truth = xr.Dataset(
        {"2m_temperature": (("lat", "lon"), np.full((LAT.size, LON.size), 280.0))},
        {"lat": LAT, "lon": LON, "time": time},
    )
    noisy = truth + 4 * xr.DataArray(wave, dims="lon")
    reference = {"reference": truth, "reference_forecast": _drift(truth)}
    own = initial_shock(truth, _drift(truth), **reference)["2m_temperature"]
    np.testing.assert_allclose(own, [2.0, 2.0, 0.0], atol=1e-12)
    # tendencies of 2 K and of noise of mean square 8, independent of each other
    found = initial_shock(noisy, _drift(noisy), **reference)["2m_temperature"]
    np.testing.assert_allclose(found.sel(score="tendency"), np.sqrt(4 + 8))
    np.testing.assert_allclose(found.sel(score="shock"), np.sqrt(3) - 1)
    # of an ensemble the members count: their noise cancels in the mean, not here
    pair = xr.concat([noisy, 2 * truth - noisy], "member")
    both = initial_shock(pair, _drift(pair), **reference)["2m_temperature"]
    np.testing.assert_allclose(both, found)


def test_shock_takes_the_first_output_of_a_longer_forecast() -> None:
    time = np.datetime64("2020-01-01", "ns")
    truth = xr.Dataset(
        {"2m_temperature": (("lat", "lon"), np.full((LAT.size, LON.size), 280.0))},
        {"lat": LAT, "lon": LON, "time": time},
    )
    later = _drift(_drift(truth), 12)
    leads = np.array([6, 12]) * np.timedelta64(1, "h")
    longer = xr.concat([_drift(truth), later.assign_coords(time=time + leads[1])], "time")
    longer = longer.assign_coords(lead_time=("time", leads), init_time=time)
    found = initial_shock(truth, longer, reference=truth, reference_forecast=longer)
    np.testing.assert_allclose(found["2m_temperature"], [2.0, 2.0, 0.0])
    two = xr.concat([truth, truth.assign_coords(time=time + leads[0])], "time")
    with pytest.raises(InputError, match="2 times along time"):
        initial_shock(two, longer, reference=truth, reference_forecast=longer)

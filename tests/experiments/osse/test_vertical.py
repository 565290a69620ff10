"""Sigma to pressure levels against atmospheres known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from xdiffda.experiments.osse.nature import GAS_CONSTANT, GRAVITY, LAPSE_RATE, to_pressure_levels

SIGMA = np.array([0.025, 0.095, 0.20, 0.34, 0.51, 0.685, 0.835, 0.95])  # SPEEDY's eight layers
LEVELS = (100, 300, 500, 850, 925, 1000)
HEIGHT = np.array([0.0, 300.0, 1500.0, 4000.0]).reshape(1, 2, 2)  # of the ground, m
P_SEA, T_SEA = 101325.0, 288.15
EXPONENT = GAS_CONSTANT * LAPSE_RATE / GRAVITY


def _interpolate(
    pressure: np.ndarray, surface: np.ndarray, temperature: np.ndarray, height: np.ndarray
) -> dict[str, np.ndarray]:
    """Wind linear in log p; humidity its double."""
    u = np.log(pressure)
    return to_pressure_levels(
        sigma=SIGMA,
        surface_pressure=surface,
        u=u,
        v=-u,
        temperature=temperature,
        specific_humidity=2 * u,
        geopotential=GRAVITY * height,
        levels=LEVELS,
    )


def _lapsing() -> dict[str, np.ndarray]:
    """The standard atmosphere over mountains: T = T0 - Gamma z, p = p0 (T / T0)^(g / R Gamma)."""
    surface = P_SEA * (1 - LAPSE_RATE * HEIGHT / T_SEA) ** (1 / EXPONENT)
    pressure = SIGMA[None, :, None, None] * surface[:, None]
    temperature = T_SEA * (pressure / P_SEA) ** EXPONENT
    return _interpolate(pressure, surface, temperature, (T_SEA - temperature) / LAPSE_RATE)


def test_isothermal_heights_are_exact_above_the_lowest_centre() -> None:
    t = 250.0
    scale = GAS_CONSTANT * t / GRAVITY
    surface = P_SEA * np.exp(-HEIGHT / scale)
    pressure = SIGMA[None, :, None, None] * surface[:, None]
    found = _interpolate(
        pressure, surface, np.full(pressure.shape, t), scale * np.log(P_SEA / pressure)
    )
    for i, level in enumerate(LEVELS):
        above = 100.0 * level <= 0.95 * surface
        if above.any():
            expected = GRAVITY * scale * np.log(P_SEA / (100.0 * level))
            np.testing.assert_allclose(found["geopotential"][:, i][above], expected, rtol=1e-10)
            np.testing.assert_allclose(found["temperature"][:, i][above], t, rtol=1e-12)
            np.testing.assert_allclose(
                found["u_component_of_wind"][:, i][above], np.log(100.0 * level), rtol=1e-12
            )
            np.testing.assert_allclose(
                found["specific_humidity"][:, i][above], 2 * np.log(100.0 * level), rtol=1e-12
            )


def test_sea_level_pressure_of_the_standard_atmosphere_over_any_mountain() -> None:
    np.testing.assert_allclose(_lapsing()["mean_sea_level_pressure"], P_SEA, rtol=1e-10)


def test_below_ground_the_standard_atmosphere_continues() -> None:
    found = _lapsing()
    surface = P_SEA * (1 - LAPSE_RATE * HEIGHT / T_SEA) ** (1 / EXPONENT)
    checked = 0
    for i, level in enumerate(LEVELS):
        below = 100.0 * level > 0.95 * surface
        t = T_SEA * (100.0 * level / P_SEA) ** EXPONENT
        np.testing.assert_allclose(found["temperature"][:, i][below], t, rtol=1e-10)
        z = (T_SEA - t) / LAPSE_RATE
        np.testing.assert_allclose(
            found["geopotential"][:, i][below], GRAVITY * z, rtol=1e-9, atol=1e-6
        )
        lowest = np.broadcast_to(np.log(0.95 * surface), below.shape)
        np.testing.assert_allclose(found["u_component_of_wind"][:, i][below], lowest[below])
        np.testing.assert_allclose(found["v_component_of_wind"][:, i][below], -lowest[below])
        checked += int(below.sum())
    assert checked >= 6  # 1000 hPa is below all four mountains


def test_between_centres_the_standard_atmosphere_is_close() -> None:
    """Linear in log p where T is a power of p: at most 1/8 h^2 T'' = 0.8 K between 95 and 25 hPa
    times sigma; elsewhere less."""
    found = _lapsing()
    for i, level in enumerate(LEVELS):
        t = T_SEA * (100.0 * level / P_SEA) ** EXPONENT
        spacing = np.log(0.20 / 0.095)  # the widest of the layers met
        bound = (EXPONENT * spacing) ** 2 * t / 8 + 1e-6
        assert np.abs(found["temperature"][:, i] - t).max() <= 1.05 * bound


def test_surface_pressure_at_sea_level_is_sea_level_pressure_in_warm_air_too() -> None:
    surface = np.full((1, 1, 1), 100500.0)
    pressure = SIGMA[None, :, None, None] * surface[:, None]
    temperature = 300.0 * (pressure / surface[:, None]) ** EXPONENT
    found = _interpolate(pressure, surface, temperature, (300.0 - temperature) / LAPSE_RATE)
    assert found["mean_sea_level_pressure"].item() == pytest.approx(100500.0, rel=1e-10)

"""Sums of scores against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from xdiffda.osse.evaluate import Tally
from xdiffda.state import Grid, Layout

GRID = Grid(tuple(np.linspace(-75.0, 75.0, 6).tolist()), tuple((np.arange(12) * 30.0).tolist()))
LAYOUT = Layout(GRID, ("2m_temperature", "mean_sea_level_pressure"), ())
N = GRID.n_node


def test_two_members_in_closed_form() -> None:
    """Members 0 and 3, truth 1: mean error 0.5, fair CRPS (1 + 2) / 2 - 3 / 2 = 0, variance 4.5."""
    tally = Tally(LAYOUT)
    tally.add(np.stack([np.zeros((N, 2)), np.full((N, 2), 3.0)]), np.ones((N, 2)), 2.0)
    found = tally.result()
    np.testing.assert_allclose(found["rmse"], 0.5)
    np.testing.assert_allclose(found["crps"], 0.0, atol=1e-12)
    # sample variance 4.5, times (N + 1) / N
    np.testing.assert_allclose(found["spread"], np.sqrt(4.5 * 3 / 2))
    assert tally.seconds == 2.0


def test_one_member_has_its_absolute_error_and_no_spread() -> None:
    tally = Tally(LAYOUT)
    tally.add(np.full((1, N, 2), 2.0), np.full((N, 2), 5.0), 0.0)
    found = tally.result()
    np.testing.assert_allclose([found["rmse"], found["crps"]], 3.0)
    np.testing.assert_allclose(found["spread"], 0.0)


def test_averages_are_by_area_and_pool_squares_over_cases() -> None:
    tally = Tally(LAYOUT)
    lat = np.repeat(GRID.lat, 12)
    north = np.where(lat > 60, 1.0, 0.0)[:, None] * np.ones(2)
    share = (np.sin(np.pi / 2) - np.sin(np.deg2rad(60.0))) / 2
    for factor in (1.0, 3.0):
        tally.add(factor * north[None], np.zeros((N, 2)), 0.0)
    np.testing.assert_allclose(tally.result()["rmse"], np.sqrt(share * (1 + 9) / 2), rtol=1e-6)
    np.testing.assert_allclose(tally.result()["crps"], share * (1 + 3) / 2, rtol=1e-6)


def test_the_fair_score_is_the_double_sum() -> None:
    rng = np.random.default_rng(0)
    members, truth = rng.normal(size=(5, N, 2)), rng.normal(size=(N, 2))
    tally = Tally(LAYOUT)
    tally.add(members, truth, 0.0)
    distance = np.abs(members[:, None] - members[None]).sum((0, 1)) / (2 * 5 * 4)
    field = np.abs(members - truth).mean(0) - distance
    area = GRID.area_weights() / N
    np.testing.assert_allclose(tally.result()["crps"], area @ field, rtol=1e-6)


@pytest.mark.parametrize("n_member", [2, 8])
def test_a_perfect_ensemble_has_the_gaussian_values(n_member: int) -> None:
    """Truth and members from N(0, 1): CRPS 1 / sqrt(pi), whatever N; spread equals RMSE."""
    rng, tally = np.random.default_rng(1), Tally(LAYOUT)
    for _ in range(150):
        tally.add(rng.normal(size=(n_member, N, 2)), rng.normal(size=(N, 2)), 0.0)
    found = tally.result()
    np.testing.assert_allclose(found["crps"], 1 / np.sqrt(np.pi), rtol=0.04)
    np.testing.assert_allclose(found["rmse"], np.sqrt(1 + 1 / n_member), rtol=0.03)
    np.testing.assert_allclose(found["spread"] / found["rmse"], 1.0, rtol=0.04)

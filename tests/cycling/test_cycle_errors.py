"""What does not fit a cycled run, and streams of observations."""

from __future__ import annotations

import cycle_world as world
import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.cycling.cycle import cycle
from xdiffda.cycling.observation_stream import emulated_stream
from xdiffda.errors import InputError


def test_a_store_of_another_run_is_refused(tmp_path) -> None:
    out = tmp_path / "run.zarr"
    world.run(out, 1)
    with pytest.raises(InputError, match="(?s)4 problems.*repair") as error:
        world.run(
            out,
            7,
            seed=2,
            settings=world.QUICK | {"quality": xdiffda.Quality(gross_check=4.0)},
            n_members=2,
            carry="ensemble",
        )
    for repair in (
        "seed=1",
        "n_members=1",
        "carry='mean'",
        "settings={'quality': xdiffda.Quality(gross_check=5.0)}",
    ):
        assert f"cycle(..., {repair})" in str(error.value)
    moved = world.make_states()[1].roll(lon=1)
    with pytest.raises(InputError, match="background = .*run-2.zarr"):
        cycle(
            moved,
            lambda time: None,
            out=out,
            n_cycles=7,
            n_members=1,
            model=world.make_prior(),
            forecaster=world.forecaster,
            settings=world.QUICK,
        )


def test_all_wrong_numbers_at_once(tmp_path) -> None:
    with pytest.raises(InputError, match="5 problems") as error:
        world.run(tmp_path / "a.zarr", 0, n_members=0, carry="best", cycle_length="soon", seed=-1)
    for word in ("n_cycles=0", "n_members=0", "carry='best'", "cycle_length='soon'", "seed=-1"):
        assert word in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"methode": "guided"}}, "'methode'.*settings.'method'. = settings.pop"),
        ({"settings": {"seed": 3}}, "an argument of cycle itself"),
        ({"settings": {"window": "wide"}}, "window='wide'"),
        ({"settings": {"method": "magic"}}, "magic"),
        ({"forecaster": None}, "turning world.*brings no forecaster"),
        ({"forecaster": lambda ds: ds}, "a forecast for 2020-01-15T12:00; needed 2020-01-15T18:00"),
        ({"forecaster": lambda ds: world.forecaster(ds) * np.nan}, "forecast: .*NaN"),
        ({"n_cycles": 20}, "no truth at 8 of 20.*n_cycles=12"),
        ({"background": lambda b: b.drop_vars("time")}, "no valid time.*repair"),
        (
            {"background": lambda b: xr.concat([b, world.forecaster(b)], "time")},
            "2 valid times.*isel\\(time=0\\)",
        ),
        ({"background": lambda b: b.drop_vars("temperature")}, "temperature"),
    ],
)
def test_what_does_not_fit_is_named_with_its_repair(change, message, tmp_path) -> None:
    truth, background = world.make_states()
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    given = {"n_cycles": 2, "forecaster": world.forecaster, "settings": world.QUICK} | change
    background = given.pop("background", lambda b: b)(background)
    with pytest.raises(InputError, match=f"(?s){message}") as error:
        cycle(
            background,
            stream,
            out=tmp_path / "run.zarr",
            model=world.make_prior(),
            truth=truth,
            n_members=1,
            progress=False,
            **given,
        )
    assert "repair" in str(error.value)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (lambda o: o.assign_coords(time=o.time + np.timedelta64(9, "D")), "none in the window"),
        (lambda o: o.drop_vars("time"), "without a time"),
        (lambda o: o.assign(temperature=o.temperature * 100), "temperature"),
    ],
)
def test_observations_of_wrong_times_are_named(shift, message, tmp_path) -> None:
    truth, background = world.make_states()
    obs = emulated_stream(truth, n_columns=5, error_std=world.ERRORS)(world.START)
    with pytest.raises(InputError, match=message):
        cycle(
            background,
            shift(obs),
            out=tmp_path / "run.zarr",
            n_cycles=2,
            model=world.make_prior(),
            forecaster=world.forecaster,
        )
    assert not list(tmp_path.iterdir())


def test_streams_are_fixed_or_change_and_errors_are_independent() -> None:
    truth, _ = world.make_states(6)
    choices = {"n_columns": 30, "error_std": {"2m_temperature": 0.5, "temperature": 0.4}}
    fixed, moving = (
        emulated_stream(truth, fixed_sites=f, seed=5, **choices) for f in (True, False)
    )
    a, b = (fixed(time) for time in truth.time.values[:2])
    np.testing.assert_array_equal(a.lat, b.lat)
    c, d = (moving(time) for time in truth.time.values[:2])
    assert not np.array_equal(c.lat, d.lat)
    xr.testing.assert_identical(fixed(str(truth.time.values[1])), b)  # in any order, by any name
    errors = []
    for n in range(6):
        obs, at = fixed(truth.time.values[n]), truth.isel(time=n)
        errors.append((obs.temperature - at.temperature.sel(lat=obs.lat, lon=obs.lon)).values)
    errors = np.stack(errors).reshape(6, -1)
    assert errors.std() == pytest.approx(0.4, rel=0.15)
    off = np.corrcoef(errors)[~np.eye(6, dtype=bool)]
    assert np.abs(off).max() < 0.5 and np.abs(off.mean()) < 0.15
    with pytest.raises(InputError, match="the time 2021-01-01T00:00"):
        fixed("2021-01-01")
    assert fixed.description != emulated_stream(truth, seed=6, **choices).description

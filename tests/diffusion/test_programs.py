"""What is compiled once serves other observations; the trained network can be differentiated."""

from __future__ import annotations

import cycle_world as world
import jax
import numpy as np
import pytest

import xdiffda
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.diffusion.kalman import Solver
from xdiffda.observations import emulate_obs
from xdiffda.observations.padding import padding

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
    """Names of programs compiled so far, in a list that grows."""
    found: list[str] = []

    def listen(event: str, seconds: float, **more: object) -> None:
        if event == COMPILED:
            found.append(str(more.get("fun_name", event)))

    jax.clear_caches()  # what other modules compiled is kept in the process
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.clear_event_listeners()


def test_lengths_are_few_and_waste_little() -> None:
    lengths = [n + padding(n) for n in range(1, 200_000)]
    assert len(set(lengths)) < 75
    assert all(length - n < max(128, n / 8) for n, length in enumerate(lengths, 1))


@pytest.mark.parametrize("method", ["guided", "3dvar"])
def test_other_numbers_of_observations_compile_nothing(method, compiled) -> None:
    prior = world.make_prior()
    truth, background = world.make_states(1)
    truth = truth.isel(time=0)

    def analyse(n):
        return assimilate(
            background,
            emulate_obs(truth, n_columns=n, error_std=world.ERRORS, seed=n),
            model=prior,
            method=method,
            n_members=2,
            background_error=1.0,
            progress=False,
        )

    analyse(30)
    assert compiled  # or the listener is deaf
    compiled.clear()
    analyse(29)
    copies = {"jit(stage)", "jit(convert_element_type)"}  # of the table as read, to the device
    assert not set(compiled) - copies


@pytest.mark.long
def test_guidance_by_the_jacobian_of_the_bundled_network() -> None:
    truth, background = (xdiffda.open_sample(n).isel(time=0) for n in ("truth", "background"))
    obs = emulate_obs(truth, n_columns=20, seed=1)
    with pytest.warns(UserWarning, match="relative residual"):  # two vectors do not reach it
        analysis = assimilate(
            background,
            obs,
            n_members=1,
            method=xdiffda.Guided(
                antithetic=False,
                n_steps=3,
                covariance="jacobian",
                solver=Solver(minimal_residual=2),
            ),
            progress=False,
        )
    z = [x["geopotential"].sel(level=500) for x in (truth, analysis, background)]
    area = np.cos(np.deg2rad(truth["lat"]))
    after, before = (float(((x - z[0]) ** 2).weighted(area).mean()) for x in z[1:])
    assert after < before

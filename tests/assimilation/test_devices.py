"""Members and times on several devices, in groups that fit into their memory."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray as xr
from gaussian_world import ERRORS, SampledPrior, draw_states, make_prior
from places import ROOT, SUPPORT

import xdiffda
from xdiffda.assimilation import devices as _devices
from xdiffda.assimilation import memory as _memory
from xdiffda.assimilation.settings import Settings
from xdiffda.errors import InputError
from xdiffda.observations import emulate_obs
from xdiffda.state.convert import to_state

FLAG = "--xla_force_host_platform_device_count=4"


@pytest.mark.long
def test_four_devices_give_the_members_of_one() -> None:
    """In a process of its own: see devices_script.py."""
    env = os.environ | {"XLA_FLAGS": FLAG, "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(SUPPORT)])
    run = subprocess.run(
        [
            sys.executable,
            str(SUPPORT / "devices_script.py"),
            "uneven",
            "times",
            "repaint",
            "network",
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stderr
    placed = {line.split()[0]: line for line in run.stdout.splitlines()}
    assert "(0, 1, 2)" in placed["uneven"]  # 5 members as 2 + 2 + 2, the last for nobody
    assert "(0, 1)" in placed["times"] and "(2, 3)" in placed["times"]  # two times at once
    # a network as the prior: a member on each device; then two groups, for want of memory
    for name in ("repaint", "network"):
        assert placed[name].endswith("[(0, 1, 2, 3)] 1")
    assert placed["memory"].endswith("[(0, 1)] 2")


@pytest.mark.parametrize("n_devices", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("n_members", [1, 2, 5, 8, 17, 50])
@pytest.mark.parametrize("max_batch", [1, 4, 8])
def test_schedules_compute_every_member_once(n_devices, n_members, max_batch) -> None:
    devices = list(range(n_devices))
    schedules = _devices.make_schedules(n_members, max_batch=max_batch, devices=devices)
    sets = [schedule.devices for schedule in schedules]
    taken = [device for one in sets for device in one]
    assert len(set(taken)) == len(taken) <= n_devices
    for schedule in schedules:
        width = max(len(schedule.devices), 1)
        groups = list(schedule.groups(n_members))
        numbers = np.concatenate(groups)
        assert numbers[:n_members].tolist() == list(range(n_members))
        assert all(len(g) % width == 0 and len(g) // width <= max_batch for g in groups)
        assert len(numbers) - n_members < width
    # as few rounds as these devices allow
    assert schedules[0].n_groups(n_members) == -(-n_members // (n_devices * max_batch))


def test_times_are_worked_on_at_once_and_come_in_order() -> None:
    schedules = [_devices.Schedule(1, (d,)) for d in "ab"]
    seen: set = set()

    def work(i: int, schedule) -> int:
        seen.add(schedule.devices)
        return i

    assert _devices.run_times(work, 9, schedules) == list(range(9))
    assert seen <= {("a",), ("b",)}

    def broken(i: int, schedule) -> int:
        raise ValueError(f"time {i}")

    with pytest.raises(ValueError, match="time 0"):
        _devices.run_times(broken, 9, schedules)


def _assimilate(**choices):
    prior = make_prior()
    truth, background = draw_states(prior, seed=5)
    obs = emulate_obs(truth, n_columns=30, error_std=ERRORS, seed=1)
    return xdiffda.assimilate(background, obs, model=prior, progress=False, **choices)


def test_members_computed_apart_agree_within_the_stated_bound() -> None:
    """A member on its own is the same to the bit; in groups, to the tolerance of the solver."""
    prior = make_prior(SampledPrior)
    truth, background = draw_states(prior, seed=5)
    obs = emulate_obs(truth, n_columns=30, error_std=ERRORS, seed=1)

    def members(n_members: int, max_batch: int) -> np.ndarray:
        analysis = xdiffda.assimilate(
            background,
            obs,
            model=prior,
            n_members=n_members,
            method=xdiffda.Guided(max_batch=max_batch),
            background_error=1.0,
            progress=False,
        )
        return to_state(analysis)[0] / prior.scale

    alone, together = members(4, 1), members(4, 8)
    np.testing.assert_array_equal(members(2, 1), alone[:2])
    apart = np.abs(alone - together)
    assert apart.max() < 2e-2
    assert np.sqrt((apart**2).mean()) < 2e-3
    assert np.abs(together[0] - together[2]).max() > 0.5  # other members are far from that


def test_a_memory_limit_makes_smaller_groups() -> None:
    prior, seen = make_prior(), []
    need = _memory.needed(prior)

    def plan(limit: int) -> list[int]:
        with xdiffda.set_options(memory_limit=limit):
            schedule, *_ = _memory.plan_devices(prior, settings)
            return [len(numbers) for numbers in schedule.groups(5)]

    settings = Settings(xdiffda.Guided(max_batch=4), n_members=5)
    seen = [plan(need.shared + k * need.member) for k in (1, 2, 3, 99)]
    assert seen == [[1] * 5, [2, 2, 1], [3, 2], [4, 1]]


def test_more_devices_than_there_are_is_said() -> None:
    here = len(jax.local_devices())
    said = pytest.warns(UserWarning, match=rf"n_devices is {here + 1}.*process has {here} ")
    with xdiffda.set_options(n_devices=here + 1), said:
        found = _assimilate(n_members=2, seed=4)
    xr.testing.assert_equal(found, _assimilate(n_members=2, seed=4))


def test_too_little_memory_says_how_much_is_needed() -> None:
    with (
        xdiffda.set_options(memory_limit="10 kB"),
        pytest.raises(
            InputError, match="(?s)kiB.*the option memory_limit.*one member.*set_options"
        ),
    ):
        _assimilate()


def test_too_little_memory_names_the_option_that_reduces_it() -> None:
    prior = xdiffda.load_model("speedy")
    whole, chunked = (_memory.needed(p) for p in (prior, prior.reconfigured(edge_chunk=256)))
    assert chunked.shared + chunked.member < 0.9 * (whole.shared + whole.member)
    device = jax.local_devices()[:1]
    with xdiffda.set_options(memory_limit=whole.shared + whole.member - 1):
        with pytest.raises(InputError, match="for 'speedy'.*one member.*reconfigured.edge_chunk="):
            _memory.members_that_fit(prior, 8, device)
        assert _memory.members_that_fit(prior.reconfigured(edge_chunk=256), 8, device) >= 1


def test_a_lazy_background_is_read_time_by_time() -> None:
    import dask.array

    prior = make_prior()
    truth, background = draw_states(prior, seed=5)
    steps = background["time"].values + np.arange(3) * np.timedelta64(6, "h")
    many = xr.concat([background.assign_coords(time=t) for t in steps], "time")
    obs = emulate_obs(truth, n_columns=30, error_std=ERRORS, seed=1)
    read: list[int] = []

    def noted(block, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return block

    lazy = many.chunk(time=1).map(
        lambda v: v.copy(
            data=dask.array.map_blocks(noted, v.data, dtype=v.dtype, meta=v.data._meta)
        )
    )
    settings = {"model": prior, "method": "3dvar", "window": "2D", "progress": False}
    found = xdiffda.assimilate(lazy, obs, **settings)
    assert read == sorted(read) and set(read) == {0, 1, 2}
    xr.testing.assert_identical(found, xdiffda.assimilate(many, obs, **settings))

"""Digests of what public calls give, for test_jax_settings.py, one a line.

With the argument "fork", what a forked child gets once JAX runs in its parent.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys

import numpy as np
import xarray as xr

import xdiffda


def digest(ds: xr.Dataset) -> str:
    """Of all bits of all variables."""
    found = hashlib.sha256()
    for name in sorted(ds.data_vars):
        found.update(str(name).encode())
        found.update(np.ascontiguousarray(ds[name].values).tobytes())
    return found.hexdigest()


def sample(n: int = 2) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Background, truth and observations of the first analysis times."""
    background, truth = (xdiffda.open_sample(name) for name in ("background", "truth"))
    if "time" in background.dims:
        background = background.isel(time=0)
        truth = truth.sel(time=background["time"])
    return background, truth, truth.diffda.emulate_obs(n_columns=25, seed=3)


def public_calls() -> None:
    background, truth, obs = sample()
    print("emulate_obs", digest(obs))
    analysis = background.diffda.assimilate(
        obs, n_members=3, method=xdiffda.Guided(n_steps=8, max_batch=3), seed=7, progress=False
    )
    print("assimilate", digest(analysis))
    print("equivalents", digest(xdiffda.verify.equivalents(analysis, obs)))
    print("forecast", digest(analysis.isel(member=[0]).diffda.forecast("6h")))
    print("verify", digest(analysis.diffda.verify(truth)))


def child(answers: multiprocessing.Queue) -> None:
    background, _, obs = sample()
    try:
        background.diffda.assimilate(obs, method="interpolation", progress=False)
    except xdiffda.XdiffdaError as error:
        answers.put(str(error))
    else:
        answers.put("worked")


def forked(started: bool) -> None:
    if started:
        import jax.numpy as jnp  # by somebody else: the package has not been called yet

        jnp.ones(3).sum().block_until_ready()
    else:
        import jax  # noqa: F401
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=child, args=(answers,), daemon=True)
    process.start()
    print(answers.get(timeout=400))
    process.join(60)
    print(process.exitcode)


if __name__ == "__main__":
    if sys.argv[1:2] == ["fork"]:
        forked(sys.argv[2] == "started")
    else:
        public_calls()

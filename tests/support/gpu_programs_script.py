"""Lower every program of an analysis for a GPU as well, on a machine that has none.

Run by test_gpu_programs.py in a process of its own: what compiles functions is replaced before
the library is imported. A program that only a CPU knows how to run raises here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

LOWERED: dict[str, int] = {}  # by name: characters of the program for the GPU


def lowered(function: Callable, original: Callable = eqx.filter_jit) -> Callable:
    """``eqx.filter_jit``, which lowers the function for a GPU before its first call."""
    compiled, name = original(function), getattr(function, "__name__", "function")

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        leaves = jax.tree.leaves((args, options))
        if name not in LOWERED and not any(isinstance(x, jax.core.Tracer) for x in leaves):
            arrays, rest = eqx.partition((args, options), eqx.is_array)

            def run(arrays: Any) -> Any:
                args, options = eqx.combine(arrays, rest)
                return eqx.filter(function(*args, **options), eqx.is_array)

            program = jax.jit(run).trace(arrays).lower(lowering_platforms=("cuda",))
            LOWERED[name] = len(program.as_text())
        return compiled(*args, **options)

    return call


eqx.filter_jit = lowered

from gaussian_world import draw_states, make_prior  # noqa: E402
from network_world import make_network_prior  # noqa: E402

import xdiffda  # noqa: E402

PAINT = xdiffda.RePaint(n_levels=4, jump_length=2, resamplings=2)
ERRORS = {"2m_temperature": 0.5, "geopotential": 80.0, "temperature": 0.4}
WAYS: dict[str, dict[str, Any]] = {
    "guided": {"n_members": 2},
    "chunks": {"n_members": 2, "edge_chunk": 40, "precision": "default"},
    "half": {
        "n_members": 2,
        "dtype": "bfloat16",
        "method": xdiffda.Guided(n_steps=3, sampler="stochastic", start="cold"),
    },
    "jacobian": {
        "n_members": 1,
        "method": xdiffda.Guided(n_steps=3, antithetic=False, covariance="jacobian"),
    },
    "repaint": {"n_members": 2, "method": PAINT},
    "3dvar": {"method": "3dvar"},
    "oi": {"method": "oi"},
}


def main() -> None:
    """Analyse by every method, and print what was lowered on the way."""
    truth, background = draw_states(make_prior(), seed=5)
    obs = xdiffda.observations.emulate_obs(truth, n_columns=20, error_std=ERRORS, seed=1)
    for name, settings in WAYS.items():
        options = {k: settings[k] for k in ("edge_chunk", "precision", "dtype") if k in settings}
        rest = {k: v for k, v in settings.items() if k not in options}
        model = make_network_prior().reconfigured(**options)
        LOWERED.clear()
        analysis = xdiffda.assimilate(
            background,
            obs,
            model=model,
            background_error=1.0,
            progress=False,
            **({"method": xdiffda.Guided(n_steps=3)} | rest),
        )
        assert all(np.isfinite(analysis[v]).all() for v in analysis)
        print(name, *(f"{k}:{n}" for k, n in sorted(LOWERED.items())), flush=True)


if __name__ == "__main__":
    main()

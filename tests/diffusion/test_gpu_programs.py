"""Every program can be made for a GPU: none needs what only CPUs have."""

from __future__ import annotations

import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from places import SUPPORT

from xdiffda.networks.graphcast.graph import build_graph
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig

pytestmark = pytest.mark.long  # compiles for another device

# what must have been lowered on the way, or the script no longer sees it
NEEDED = {
    "guided": {"evaluate", "updated", "draw_errors", "prepare"},
    "chunks": {"evaluate", "updated", "embedded_mesh"},
    "half": {"evaluate", "updated"},
    "jacobian": {"guided_by_jacobian"},
    "repaint": {"_advance", "_noise"},
    "3dvar": {"_three_d_var"},
    "oi": {"_solve"},
}


def test_all_programs_lower_for_a_gpu() -> None:
    """In a process of its own: see gpu_programs_script.py."""
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "gpu_programs_script.py")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {
        name: {entry.partition(":")[0] for entry in rest}
        for name, *rest in (line.split() for line in done.stdout.splitlines())
    }
    assert set(found) == set(NEEDED)
    for name, programs in NEEDED.items():
        assert programs <= found[name], (name, found[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"remat": True, "unroll": False}, {"edge_chunk": 40}])
def test_training_lowers_for_a_gpu(dtype: str, options: dict) -> None:
    """The gradient of the network, with what saves memory in training."""
    graph = build_graph(np.linspace(-80, 80, 9), np.arange(0, 360, 20), refinement=1)
    config = NetworkConfig(
        n_inputs=3,
        n_outputs=2,
        latent=8,
        processor_steps=2,
        conditioning_width=2,
        dtype=dtype,
        **options,
    )
    net = GraphCast(config, key=jax.random.key(0))
    weights, rest = eqx.partition(net, eqx.is_inexact_array)

    def loss(weights, x, vector):
        return jnp.square(eqx.combine(weights, rest)(x, graph, vector)).mean()

    x, vector = jnp.ones((graph.n_grid, 2, 3)), jnp.ones((2, 2))
    step = jax.jit(jax.value_and_grad(loss)).trace(weights, x, vector)
    assert "stablehlo.dot_general" in step.lower(lowering_platforms=("cuda",)).as_text()

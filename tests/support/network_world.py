"""A network as the prior of `gaussian_world`: a denoiser with random weights, all of which act."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gaussian_world import LAT, LON, MEAN, make_prior

from xdiffda.diffusion.denoiser import DenoiserNetwork
from xdiffda.networks.graphcast.graph import build_graph
from xdiffda.priors.diffusion import DiffusionPrior

N_STATIC = 2


def make_network_prior(seed: int = 0) -> DiffusionPrior:
    """Scale and B of the Gaussian prior, and a network that moves its estimates far."""
    gaussian = make_prior()
    n_node, n_channel = gaussian.scale.shape
    one, two = jax.random.split(jax.random.key(seed))
    network = DenoiserNetwork(
        n_channel,
        N_STATIC,
        latent=8,
        processor_steps=1,
        hidden_layers=1,
        conditioning_width=4,
        key=one,
    )
    # untrained it is the Gaussian prior: its output, and what conditions it, start at zero
    arrays, rest = eqx.partition(network, eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)
    keys = jax.random.split(two, len(leaves))
    noise = [0.1 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    moved = jax.tree.unflatten(tree, [jnp.add(a, n) for a, n in zip(leaves, noise, strict=True)])
    mean = np.array([MEAN[name] for name in gaussian.layout.channel_names], np.float32)
    return DiffusionPrior(
        "small network",
        gaussian.layout,
        gaussian.scale,
        gaussian.covariance,
        network=eqx.combine(moved, rest),
        graph=build_graph(np.array(LAT), np.array(LON), refinement=1),
        static=np.random.default_rng(seed).normal(size=(n_node, N_STATIC)).astype(np.float32),
        mean=mean,
        stddev=mean / 20,
        calibrated=None,
        unresolved=np.zeros((n_node, n_channel), np.float32),
        card={},
    )

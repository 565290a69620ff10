"""The denoiser D(z, sigma): a GraphCast network around the best linear estimate.

    D(z, sigma) = W_sigma z + c_out(sigma) F(c_in z, W_sigma z, x_b, static, season; sigma, r)

Karras et al. (2022) take a scalar c_skip, the best estimate for white data.  Background
errors are not white, and their covariance B is known: W_sigma = B (B + sigma^2)^-1, the
Wiener filter in spherical-harmonic space, is the best *linear* estimate, and c_out the
standard deviation of what it leaves in each channel.  The untrained network then is the
Gaussian prior exactly (its output layer starts at zero), and the loss, whose value there
is 1, says what share of the Gaussian posterior's variance the network cannot explain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.covariance.spectral import CovarianceTable, SpectralCovariance, apply_blocks
from xdiffda.diffusion.noise import noise_features
from xdiffda.networks.graphcast.graph import Graph
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig
from xdiffda.networks.graphcast.static import InFactors, Prepared

__all__ = [
    "Conditioned",
    "Conditioning",
    "Denoiser",
    "DenoiserNetwork",
    "NoiseEncoder",
    "denoise_batch",
    "gaussian_estimate",
]

# A prior conditioned on a background: all that a sampler knows of it.


class Conditioned(NamedTuple):
    """A prior conditioned on one background, or for each member on its own.

    Attributes
    ----------
    denoise : callable (z, sigma) -> estimate
        A pytree (an equinox Module), so that compiled code is shared between backgrounds. None
        of a Gaussian prior that only `sample_gaussian` draws from.
    climatology : SpectralCovariance
        B of z; gives the basis of the noise.
    calibrated : CovarianceTable or None
        Measured V(sigma), if the prior has it.
    shift : array (node, member, channel), optional
        Where the prior of each member is centred; default at z = 0. ``denoise`` is that of a
        prior centred at 0.
    """

    denoise: Any
    climatology: SpectralCovariance
    calibrated: CovarianceTable | None = None
    shift: Array | None = None

    def own_denoiser(self) -> Any:
        """The denoiser of this prior, wherever it is centred."""
        return self.denoise if self.shift is None else Shifted(self.denoise, self.shift)


class Shifted(eqx.Module):
    """The denoiser of a prior that is centred elsewhere, ``shift + D(z - shift, sigma)``."""

    denoise: Any
    shift: Float[Array, "node member channel"]

    def __call__(self, z: Array, sigma: Array) -> Array:
        return self.shift + self.denoise(z - self.shift, sigma)


N_FREQUENCY = 16
HIDDEN = 64


class NoiseEncoder(eqx.Module):
    """Map (sigma, r) to the vector that conditions the layer normalisations."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, width: int, *, key: PRNGKeyArray) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(2 * N_FREQUENCY + 1, HIDDEN, key=one)
        self.second = eqx.nn.Linear(HIDDEN, width, key=two)

    def __call__(self, sigma: Float[Array, " batch"], r: Float[Array, " batch"]) -> Array:
        features = jnp.concatenate([noise_features(sigma, N_FREQUENCY), jnp.log(r)[:, None]], 1)
        return jax.vmap(lambda f: self.second(jax.nn.gelu(self.first(f))))(features)


class DenoiserNetwork(eqx.Module):
    """The trained part: GraphCast backbone and noise encoder.

    Input channels, in this order: c_in z, W z, background, static fields, season.
    """

    backbone: GraphCast
    encoder: NoiseEncoder

    def __init__(
        self,
        n_channel: int,
        n_static: int,
        *,
        latent: int,
        processor_steps: int,
        hidden_layers: int,
        conditioning_width: int,
        key: PRNGKeyArray,
    ) -> None:
        one, two = jax.random.split(key)
        config = NetworkConfig(
            n_inputs=3 * n_channel + n_static + 2,
            n_outputs=n_channel,
            latent=latent,
            processor_steps=processor_steps,
            hidden_layers=hidden_layers,
            conditioning_width=conditioning_width,
        )
        backbone = GraphCast(config, key=one)

        # the output starts at zero: the untrained denoiser is the Gaussian prior
        def last(net):
            return net.decoder.output.layers[-1].weight

        self.backbone = eqx.tree_at(last, backbone, replace_fn=jnp.zeros_like)
        self.encoder = NoiseEncoder(conditioning_width, key=two)

    def __call__(
        self,
        noisy: Float[Array, "node batch channel"],
        wiener: Float[Array, "node batch channel"],
        given: Conditioning,
        sigma: Float[Array, " batch"],
        static: Float[Array, "node static"],
        graph: Graph,
        prepared: Prepared | InFactors | None = None,
    ) -> Float[Array, "node batch channel"]:
        """F: of z scaled to unit variance, the Wiener estimate and all that is given."""
        shape = noisy.shape[:2]
        inputs = jnp.concatenate(
            [
                noisy,
                wiener,
                jnp.broadcast_to(given.background, noisy.shape),
                jnp.broadcast_to(static[:, None], (*shape, static.shape[-1])),
                jnp.broadcast_to(given.year[None], (*shape, 2)),
            ],
            axis=-1,
        )
        vector = self.encoder(sigma, jnp.broadcast_to(given.r, shape[1:]))
        return self.backbone(inputs, graph, vector, prepared)


class Conditioning(eqx.Module):
    """The inputs of the denoiser besides z: all normalised, of one analysis time or a batch.

    Attributes
    ----------
    background : array (node, batch, channel)
    year : array (batch, 2)
        Cosine and sine of the phase of the year.
    r : array (batch,)
        Scale of the background error: root mean square of (truth - background) / s.
    forcings : array (node, batch, forcing), optional
        Static fields and forcings at the valid time, for networks that read them.
    """

    background: Float[Array, "node batch channel"]
    year: Float[Array, "batch 2"]
    r: Float[Array, " batch"]
    forcings: Float[Array, "node batch forcing"] | None = None


def gaussian_estimate(
    covariance: SpectralCovariance,
    z: Float[Array, "node batch channel"],
    sigma: Float[Array, " batch"],
) -> tuple[Float[Array, "node batch channel"], Float[Array, "batch channel"]]:
    """Wiener estimate at one noise level per batch entry, and its error's standard deviation."""
    basis = covariance.basis
    coefficients = basis.analysis(z)

    def one(a: Array, sigma: Array) -> tuple[Array, Array]:
        estimate = apply_blocks(covariance.gain(sigma), a[:, :, None])[:, :, 0]
        return estimate, jnp.sqrt(covariance.posterior(sigma).variance)

    estimate, error = jax.vmap(one, in_axes=(2, 0), out_axes=(2, 0))(coefficients, sigma)
    return basis.synthesis(estimate), error


def denoise_batch(
    network: DenoiserNetwork,
    covariance: SpectralCovariance,
    graph: Graph,
    static: Float[Array, "node static"],
    given: Conditioning,
    z: Float[Array, "node batch channel"],
    sigma: Float[Array, " batch"],
    prepared: Prepared | InFactors | None = None,
) -> tuple[Float[Array, "node batch channel"], Float[Array, "batch channel"]]:
    """Evaluate D at one noise level per batch entry; also return c_out (batch, channel).

    ``prepared``: what the backbone computes from the graph alone, if known.
    """
    wiener, c_out = gaussian_estimate(covariance, z, sigma)
    noisy = z / jnp.hypot(sigma, 1.0)[None, :, None]
    output = network(noisy, wiener, given, sigma, static, graph, prepared)
    # the network's small scales beyond the basis would never meet noise: keep to the span
    return wiener + covariance.basis.project(c_out[None] * output), c_out


class Denoiser(eqx.Module):
    """A denoiser conditioned on one background: callable (z, sigma) -> estimate.

    All members share the background and the noise level; all backgrounds share ``prepared``.
    """

    network: DenoiserNetwork
    covariance: SpectralCovariance
    graph: Graph
    static: Float[Array, "node static"]
    given: Conditioning
    prepared: Prepared | InFactors | None = None

    def __call__(self, z: Float[Array, "node member channel"], sigma: Array) -> Array:
        sigmas = jnp.broadcast_to(jnp.asarray(sigma, z.dtype), (z.shape[1],))
        return denoise_batch(
            self.network,
            self.covariance,
            self.graph,
            self.static,
            self.given,
            z,
            sigmas,
            self.prepared,
        )[0]

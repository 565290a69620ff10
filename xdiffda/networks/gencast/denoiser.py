"""The denoiser of GenCast, bare and in the package's variable z.

GenCast works on w = (x - x_(t-1)) / d, the change over 12 h in units of its standard deviation
d (variables that are no input: w = (x - mean) / stddev), and estimates it by

    D(w, sigma) = c_skip w + c_out F(c_in w; x_(t-1), x_(t-2), forcings; sigma)

with Karras' factors for data of unit variance (Karras et al. 2022; Price et al. 2024).
The package measures states from a background, z = (x - x_b) / (r s).  With s = d the two differ
by a shift and a factor, w = r z + (x_b - x_(t-1)) / d, and so do their denoisers.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from xdiffda.networks.gencast.graph import GenCastGraph
from xdiffda.networks.gencast.network import GenCast
from xdiffda.networks.preconditioning import Karras

_KARRAS = Karras(sigma_data=1.0)


class Given(eqx.Module):
    """What the network knows besides the noisy state.

    Attributes
    ----------
    channels : array (node, batch, given)
        Input frames, then forcings, all normalised; batch of one where all members share it.
    order : tuple of int
        Where the network's channels stand in these followed by the noisy ones: published
        networks read targets and forcings in one alphabetical row.
    """

    channels: Float[Array, "node batch given"]
    order: tuple[int, ...] = eqx.field(static=True)

    def joined(self, noisy: Float[Array, "node batch channel"]) -> Float[Array, "node batch in"]:
        """All input channels of the network in its own order."""
        shape = (*noisy.shape[:2], self.channels.shape[-1])
        channels = jnp.broadcast_to(self.channels, shape).astype(noisy.dtype)
        return jnp.concatenate([channels, noisy], axis=-1)[..., jnp.asarray(self.order)]


def denoise(
    network: GenCast,
    graph: GenCastGraph,
    given: Given,
    w: Float[Array, "node batch channel"],
    sigma: Float[Array, " level"],
) -> Float[Array, "node batch channel"]:
    """D(w, sigma), at one noise level for all or one for each entry of the batch."""
    level = sigma[None, :, None]
    output = network(given.joined(_KARRAS.c_in(level) * w), sigma, graph)
    return _KARRAS.c_skip(level) * w + _KARRAS.c_out(level) * output


compiled_denoise = eqx.filter_jit(denoise)


class GenCastDenoiser(eqx.Module):
    """GenCast as a denoiser of the package: callable (z, sigma) -> estimate of z.

    States are (node, member, channel) in the order of a `xdiffda.Layout`: variables in
    ASCII order, levels ascending.  All members share inputs and noise level.  The noise has to
    be GenCast's own, `gencast_basis`.

    Attributes
    ----------
    network : GenCast
    graph : GenCastGraph
    given : Given
    shift : array (node, 1, channel)
        w of the state from which z is measured.
    unit : array ()
        w per z: the factor r of z = (x - x_b) / (r s).
    """

    network: GenCast
    graph: GenCastGraph
    given: Given
    shift: Float[Array, "node 1 channel"]
    unit: Float[Array, ""]

    def __call__(
        self, z: Float[Array, "node member channel"], sigma: Float[Array, ""]
    ) -> Float[Array, "node member channel"]:
        level = jnp.reshape(self.unit * jnp.asarray(sigma, z.dtype), (1,))
        w = self.unit * z + self.shift
        return (denoise(self.network, self.graph, self.given, w, level) - self.shift) / self.unit

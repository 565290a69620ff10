"""A denoiser's network that starts from the weights of a published GraphCast.

As in DiffDA (Huang et al. 2024, arXiv 2401.05932), the noisy residual and the background take
the places of the forecaster's two input times. Static fields and forcings keep their places,
all of them at the valid time. The noise level comes in by conditional layer normalisation,
which starts as the identity, and the Wiener estimate by channels whose weights start at zero:
the untrained network *is* the published one.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.diffusion.denoiser import Conditioning, NoiseEncoder
from xdiffda.errors import Problem, raise_if
from xdiffda.networks.graphcast.bare import BareNetwork, Channel
from xdiffda.networks.graphcast.graph import Graph
from xdiffda.networks.graphcast.network import GraphCast
from xdiffda.networks.graphcast.static import InFactors, Prepared
from xdiffda.state.grid import Layout


class Places(NamedTuple):
    """The input and output positions of a state's channels in a published network.

    Attributes
    ----------
    inputs : tuple of int
        For each input channel its position in [noisy, background, forcings, zero].
    outputs : tuple of int
        For each channel of the state its position in the outputs.
    forcings : tuple of int
        Input channels that neither state nor zero fill: static fields and forcings.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    forcings: tuple[int, ...]


def find_places(
    inputs: tuple[Channel, ...],
    outputs: tuple[Channel, ...],
    layout: Layout,
    forcings: tuple[str, ...],
) -> Places:
    """Match the channels of a task with those of a state.

    Parameters
    ----------
    inputs, outputs : channels of the published network, in order
    layout : Layout
        Of the state; its variables are a part of the network's.
    forcings : names of the forcing variables

    Raises
    ------
    InputError
        If the network does not read and write all channels of the state at two times.
    """
    n, number = layout.n_channel, {c: i for i, c in enumerate(layout.channels)}
    found, given = [], []
    for position, channel in enumerate(inputs):
        own = number.get((channel.variable, channel.level))
        if own is not None and channel.frame in (0, 1):
            found.append(own + n * channel.frame)
        elif channel.frame is None or channel.variable in forcings:
            found.append(2 * n + len(given))
            given.append(position)
        else:  # accumulated precipitation: a residual has none
            found.append(-1)
    zero = 2 * n + len(given)
    written = {(c.variable, c.level): i for i, c in enumerate(outputs)}
    read = set(found)
    absent = [
        name
        for i, (name, channel) in enumerate(zip(layout.channel_names, layout.channels, strict=True))
        if channel not in written or not {i, i + n} <= read
    ]
    if absent:
        needed = "only channels that the network reads at two times and predicts"
        raise_if([Problem(", ".join(absent), needed, "")], what="state")
    places = tuple(zero if i < 0 else i for i in found)
    return Places(places, tuple(written[c] for c in layout.channels), tuple(given))


class PretrainedNetwork(eqx.Module):
    """F of a denoiser, from a published GraphCast: see `from_published`.

    Attributes
    ----------
    backbone : GraphCast
    encoder : NoiseEncoder
    places : Places
    """

    backbone: GraphCast
    encoder: NoiseEncoder
    places: Places = eqx.field(static=True)

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
        forcings = given.forcings
        assert forcings is not None, "this network reads forcings"
        node, batch, _ = noisy.shape
        known = jnp.concatenate(
            [
                noisy,
                jnp.broadcast_to(given.background, noisy.shape),
                jnp.broadcast_to(forcings, (node, batch, forcings.shape[-1])),
                jnp.zeros((node, batch, 1), noisy.dtype),
            ],
            axis=-1,
        )
        inputs = jnp.concatenate([known[..., np.array(self.places.inputs)], wiener], axis=-1)
        vector = self.encoder(sigma, jnp.broadcast_to(given.r, (batch,)))
        return self.backbone(inputs, graph, vector, prepared)[..., np.array(self.places.outputs)]


def from_published(
    published: GraphCast, places: Places, *, conditioning_width: int, key: PRNGKeyArray
) -> PretrainedNetwork:
    """The published weights in a denoiser's network; what they do not know starts at zero.

    Parameters
    ----------
    published : GraphCast
    places : Places
        From `find_places`.
    conditioning_width : int
        Length of the vector that brings noise level and r to the layer normalisations.
    key
        Of the encoder of noise level and r, which nothing reads at the beginning.

    Returns
    -------
    PretrainedNetwork
        Its outputs are those of the published network, whatever sigma, r and Wiener estimate.
    """
    n_old = published.config.n_inputs
    n_new = len(places.outputs)
    config = dataclasses.replace(
        published.config, n_inputs=n_old + n_new, conditioning_width=conditioning_width
    )
    template = eqx.filter_eval_shape(GraphCast, config, key=key)

    def widened(weight: Array) -> Array:
        # rows: data, then the network's own structural features
        zeros = jnp.zeros((n_new, weight.shape[1]), weight.dtype)
        return jnp.concatenate([weight[:n_old], zeros, weight[n_old:]])

    def first(net):
        return [
            net.encoder.grid_embed.layers[0].weight,
            net.encoder.mesh_embed.layers[0].weight,
        ]

    wide = eqx.tree_at(first, published, [widened(w) for w in first(published)])
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(wide, eqx.is_inexact_array))
    known = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

    def fill(path: tuple, shape: jax.ShapeDtypeStruct) -> Array:
        # what is new, the modulation of the layer normalisations, is the identity at zero
        found = known.get(jax.tree_util.keystr(path))
        return jnp.zeros(shape.shape, shape.dtype) if found is None else found

    backbone = jax.tree_util.tree_map_with_path(fill, template)
    return PretrainedNetwork(backbone, NoiseEncoder(conditioning_width, key=key), places)


def places_of(net: BareNetwork, example: object, forcings: object, layout: Layout) -> Places:
    """The places of a state in a published network, from example inputs and forcings.

    Parameters
    ----------
    net : BareNetwork
    example, forcings : Dataset
        Inputs and forcings that the network accepts; only their dimensions count.
    layout : Layout
    """
    import xarray as xr

    from xdiffda.networks.graphcast.bare import channels_of

    assert isinstance(example, xr.Dataset) and isinstance(forcings, xr.Dataset)
    task = net.task
    after = channels_of(forcings, task.forcing_variables)
    inputs = channels_of(example, task.input_variables) + after
    return find_places(inputs, net.output_channels(example), layout, task.forcing_variables)

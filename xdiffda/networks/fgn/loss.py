"""The published training loss: fair CRPS of a few members, weighted by area, level and variable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.networks.graphcast.bare import Channel
from xdiffda.networks.graphcast.loss import channel_weights, latitude_weights


def fair_crps(
    members: Float[Array, "member *shape"], truth: Float[Array, "*truth"]
) -> Float[Array, "*shape"]:
    """Continuous ranked probability score of an ensemble, without its bias by the number.

    In a formula::

        mean_i |x_i - y| - sum_(i<j) |x_i - x_j| / (n (n - 1))

    Its expectation over draws of the members is the score of the law they are drawn from,
    whatever their number (Ferro 2014, QJRMS 140, 1917).  One member gives ``|x - y|``.

    Parameters
    ----------
    members
        Draws, along the first axis.
    truth
        What happened; of the shape of one member.

    Examples
    --------
    >>> fair_crps(jnp.array([[0.0], [2.0]]), jnp.array([1.0])).tolist()
    [0.0]
    """
    n = members.shape[0]
    distance = jnp.abs(members - truth).mean(axis=0)
    if n == 1:
        return distance
    pairs = [jnp.abs(members[i] - members[j]) for i in range(n) for j in range(i)]
    return distance - jnp.sum(jnp.stack(pairs), axis=0) / (n * (n - 1))


def channel_crps(
    outputs: Float[Array, "member node batch channel"],
    targets: Float[Array, "member node batch channel"],
    *,
    lat: Float[np.ndarray, " lat"],
    channels: Sequence[Channel],
    gaps: Iterable[str] = (),
) -> Float[Array, "batch channel"]:
    """Mean fair CRPS of each channel over the globe, both arguments in normalised units.

    Where targets of ``gaps`` are NaN the score is zero, and counts in the mean.

    Parameters
    ----------
    outputs
        What the network answers.
    targets
        What it should answer; with one member for all, or with their own where members started
        from different states: then each is moved to the mean of the targets first.
    lat
        Rows of the grid, degrees.
    channels
        What the channels hold.
    gaps
        Variables whose targets may be missing.
    """
    if targets.shape[0] > 1:
        outputs = outputs + targets.mean(axis=0) - targets
    truth = targets.mean(axis=0)
    may_miss = jnp.asarray([channel.variable in {*gaps} for channel in channels])
    missing = may_miss & jnp.isnan(truth)
    score = fair_crps(outputs, jnp.where(missing, 0, truth))
    score = jnp.where(missing, 0, score)
    n_lon = outputs.shape[1] // len(lat)
    area = jnp.asarray(np.repeat(latitude_weights(lat), n_lon), outputs.dtype)
    return (score * area[:, None, None]).mean(axis=0)


def weighted_loss(
    scores: Float[Array, "batch channel"],
    channels: Sequence[Channel],
    variable_weights: Mapping[str, float],
) -> Float[Array, " batch"]:
    """The loss of every entry of the batch, from the scores of its channels.

    Examples
    --------
    >>> channels = [Channel("t", 0, 500), Channel("t", 0, 1000), Channel("2t", 0)]
    >>> weighted_loss(jnp.array([[3.0, 3.0, 1.0]]), channels, {"2t": 10.0}).tolist()
    [13.0]
    """
    share = channel_weights(channels, variable_weights=variable_weights)
    return scores @ jnp.asarray(share, scores.dtype)


def variable_terms(
    scores: Float[Array, "batch channel"], channels: Sequence[Channel]
) -> dict[str, Float[Array, " batch"]]:
    """Return the loss of each variable by itself, without its weight."""
    share = jnp.asarray(channel_weights(channels, variable_weights={}), scores.dtype)
    names = dict.fromkeys(channel.variable for channel in channels)
    own = {name: jnp.asarray([c.variable == name for c in channels]) for name in names}
    return {name: scores @ jnp.where(mask, share, 0) for name, mask in own.items()}

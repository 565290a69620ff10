"""The published training loss: squared error in normalised units, weighted by area and level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.networks.graphcast.bare import Channel

VARIABLE_WEIGHTS = {
    "10m_u_component_of_wind": 0.1,
    "10m_v_component_of_wind": 0.1,
    "mean_sea_level_pressure": 0.1,
    "total_precipitation_6hr": 0.1,
}


def latitude_weights(lat: Float[np.ndarray, " lat"]) -> Float[np.ndarray, " lat"]:
    """Areas of the rows of a global grid, with mean 1.

    A row reaches half-way to its neighbours, the outermost ones to the poles: for evenly
    spaced rows cos(lat) sin(dlat/2) inside and sin(dlat/4)^2 at the poles, up to a factor.

    Examples
    --------
    >>> latitude_weights(np.array([-90.0, 0.0, 90.0])).round(4).tolist()
    [0.4393, 2.1213, 0.4393]
    """
    lat = np.asarray(lat, dtype=np.float64)
    order = np.argsort(lat)
    rows = np.deg2rad(lat[order])
    edges = np.concatenate([[-np.pi / 2], (rows[1:] + rows[:-1]) / 2, [np.pi / 2]])
    weights = np.empty(len(lat))
    weights[order] = np.diff(np.sin(edges))
    return weights / weights.mean()


def channel_weights(
    channels: Sequence[Channel], *, variable_weights: Mapping[str, float] = VARIABLE_WEIGHTS
) -> Float[np.ndarray, " channel"]:
    """Weights that turn the mean square of each channel into its share of the loss.

    Levels count in proportion to pressure, with mean 1 inside a variable; variables count 1
    unless `variable_weights` says otherwise.

    Examples
    --------
    >>> channel_weights([Channel("t", 0, 500), Channel("t", 0, 1000)]).round(4).tolist()
    [0.3333, 0.6667]
    """
    levels: dict[str, list[float]] = {}
    for channel in channels:
        levels.setdefault(channel.variable, []).append(channel.level or 1)
    return np.array(
        [
            variable_weights.get(c.variable, 1.0) * (c.level or 1) / sum(levels[c.variable])
            for c in channels
        ]
    )


def weighted_loss(
    outputs: Float[Array, "node batch channel"],
    targets: Float[Array, "node batch channel"],
    *,
    lat: Float[np.ndarray, " lat"],
    channels: Sequence[Channel],
    variable_weights: Mapping[str, float] = VARIABLE_WEIGHTS,
) -> Float[Array, " batch"]:
    """Loss of every member of the batch, both arguments in normalised units.

    Lam et al. (2023), Science 382, supplement 4.2.

    Examples
    --------
    >>> zero = jnp.zeros((4, 2, 1))
    >>> channels = [Channel("2m_temperature", 0)]
    >>> weighted_loss(zero, zero + 2, lat=np.array([-45, 45]), channels=channels).tolist()
    [4.0, 4.0]
    """
    n_lon = outputs.shape[0] // len(lat)
    area = jnp.asarray(np.repeat(latitude_weights(lat), n_lon), outputs.dtype)
    share = channel_weights(channels, variable_weights=variable_weights)
    square = jnp.square(outputs - targets) * area[:, None, None]
    return square.mean(axis=0) @ jnp.asarray(share, outputs.dtype)

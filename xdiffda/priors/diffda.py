"""DiffDA: a denoiser fine-tuned from a published GraphCast, as a prior for `assimilate`.

Huang et al. (2024), arXiv 2401.05932. `xdiffda.train` makes them (task ``diffda``); here is what
is needed to use one. `xdiffda.load_model` reads the folder that a run leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import NoiseEncoder
from xdiffda.diffusion.pretrained import Places, PretrainedNetwork
from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.gencast.forecaster import clock_forcings
from xdiffda.networks.graphcast.forcings import solar_radiation
from xdiffda.networks.graphcast.graph import Graph, build_graph
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig
from xdiffda.priors.diffusion import DiffusionPrior
from xdiffda.state.grid import Grid, Layout
from xdiffda.storage.model_folder import STATISTICS, fill, need_arrays, unpack_symmetric

SOLAR = "toa_incident_solar_radiation"
_STATISTICS = (
    "lat",
    "lon",
    "mean",
    "stddev",
    "scale",
    "unresolved",
    "b_blocks",
    "given_mean",
    "given_stddev",
)


@dataclasses.dataclass(frozen=True, eq=False)
class GivenChannels:
    """Static fields and forcings of a published network, at one time.

    Attributes
    ----------
    grid : Grid
    names : tuple of str
        Variable of each channel.
    mean, stddev : arrays (given,)
        With which each channel is normalised.
    static : mapping of str to array (node,)
        The fields that do not change, physical units.
    """

    grid: Grid
    names: tuple[str, ...]
    mean: np.ndarray
    stddev: np.ndarray
    static: Mapping[str, np.ndarray]

    def __call__(
        self, time: np.datetime64, *, solar: np.ndarray | None = None
    ) -> Float[np.ndarray, "node given"]:
        """All channels at a valid time, normalised.

        Parameters
        ----------
        time : UTC
        solar : array (node,), optional
            Solar radiation, where somebody has it already; it is slow to compute.
        """
        lat, lon = np.array(self.grid.lat), np.array(self.grid.lon)
        stamp = np.array([time], "datetime64[ns]")
        if SOLAR in self.names and solar is None:
            solar = solar_radiation(stamp, lat, lon).reshape(-1)
        clocks = clock_forcings(stamp, lon).isel(time=0)
        fields: dict[str, np.ndarray] = {**self.static}
        for name in set(self.names) - set(self.static) - {SOLAR}:
            row = np.broadcast_to(clocks[name].values, (len(lon),))
            fields[name] = np.tile(row, len(lat))
        if solar is not None:
            fields[SOLAR] = np.asarray(solar)
        columns = np.stack([fields[name] for name in self.names], axis=-1)
        return ((columns - self.mean) / self.stddev).astype(np.float32)


class DiffDAPrior(DiffusionPrior):
    """p(truth | background) of a denoiser that was fine-tuned from a published GraphCast.

    Make one with ``xdiffda.train`` (task ``diffda``) and read it with `xdiffda.load_model`.

    It is conditioned on the background, on the scale r of its error, and on the valid time, and
    knows errors of forecasts with the lead times of its training, made from the truth. The
    licence of the weights that it was derived from goes with it (``card["licence"]``; later
    terms are listed in `xdiffda.models`).

    Parameters
    ----------
    name : str
    layout : Layout
    scale, unresolved : arrays (node, channel)
        s in physical units; the unresolved scales, in units of s.
    covariance : SpectralCovariance
        B of z.
    network : PretrainedNetwork
    graph : Graph
    given : GivenChannels
    mean, stddev : arrays (channel,)
        Normalisation of the background: that of the published network.
    card : mapping

    Raises
    ------
    InputError
        On conditioning, if the time is not known: the network reads the hour and the sun.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        scale: np.ndarray,
        covariance: SpectralCovariance,
        *,
        network: PretrainedNetwork,
        graph: Graph,
        given: GivenChannels,
        mean: np.ndarray,
        stddev: np.ndarray,
        unresolved: np.ndarray,
        card: Mapping[str, Any],
    ) -> None:
        nothing = np.zeros((layout.grid.n_node, 0))  # static fields are among the given channels
        super().__init__(
            name,
            layout,
            scale,
            covariance,
            network=network,
            graph=graph,
            static=nothing,
            mean=mean,
            stddev=stddev,
            calibrated=None,
            unresolved=unresolved,
            card=card,
        )
        self._given = given

    def _forcings(self, time: np.datetime64 | None) -> Float[Array, "node 1 forcing"]:
        if time is None or np.isnat(time):
            repair = 'background.assign_coords(time=np.datetime64("2020-01-01T00"))'
            problem = Problem("no valid time", "time as datetime64, UTC", repair)
            raise InputError([problem], what="background")
        return jnp.asarray(self._given(time))[:, None]


@with_own_jax
def build(
    card: Mapping[str, Any], statistics: Mapping[str, np.ndarray], weights: dict[str, np.ndarray]
) -> DiffDAPrior:
    """Assemble a prior from the contents of its files.

    Raises
    ------
    ModelError
        If an array is missing, or the weights are of another network.
    """
    fields = {name: f"static_{name}" for name in card["static"]}
    need_arrays(STATISTICS, statistics, (*_STATISTICS, *fields.values()))
    grid = Grid(tuple(statistics["lat"].tolist()), tuple(statistics["lon"].tolist()))
    layout = Layout(grid, tuple(card["variables"]), tuple(card["levels"]))
    blocks = unpack_symmetric(statistics["b_blocks"])
    basis = sphere_basis(grid.lat, grid.lon, len(blocks) - 1)
    given = GivenChannels(
        grid,
        tuple(card["given"]),
        statistics["given_mean"],
        statistics["given_stddev"],
        {name: statistics[stored] for name, stored in fields.items()},
    )
    return DiffDAPrior(
        card["name"],
        layout,
        np.repeat(statistics["scale"], grid.n_lon, axis=0),
        SpectralCovariance.from_blocks(basis, blocks),
        network=_network(card, weights),
        graph=build_graph(np.array(grid.lat), np.array(grid.lon), **card["mesh"]),
        given=given,
        mean=statistics["mean"],
        stddev=statistics["stddev"],
        unresolved=np.repeat(statistics["unresolved"], grid.n_lon, axis=0),
        card=card,
    )


def _network(card: Mapping[str, Any], weights: dict[str, np.ndarray]) -> PretrainedNetwork:
    config = NetworkConfig(**card["network"])
    places = Places(*(tuple(part) for part in card["places"]))

    def untrained(key: PRNGKeyArray) -> PretrainedNetwork:
        encoder = NoiseEncoder(config.conditioning_width, key=key)
        return PretrainedNetwork(GraphCast(config, key=key), encoder, places)

    # shapes alone: random weights would be drawn only to be replaced
    return fill(eqx.filter_eval_shape(untrained, jax.random.key(0)), weights)

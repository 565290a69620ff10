"""DiffDA: a denoiser fine-tuned from a published GraphCast, as a prior for `assimilate`.

Huang et al. (2024), arXiv 2401.05932. `xdiffda.train` makes them (task ``diffda``); here is what
is needed to use one. A folder holds ``card.json`` and two safetensors files; nothing executes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.covariance import SpectralCovariance
from xdiffda.diffusion.denoiser import NoiseEncoder
from xdiffda.diffusion.pretrained import Places, PretrainedNetwork
from xdiffda.errors import InputError, ModelError, Problem
from xdiffda.gencast.forecaster import clock_forcings
from xdiffda.graphcast.forcings import solar_radiation
from xdiffda.graphcast.graph import Graph, build_graph
from xdiffda.graphcast.network import GraphCast, NetworkConfig
from xdiffda.network_prior import DiffusionPrior
from xdiffda.registry import _fill, _load_arrays, unpack_symmetric
from xdiffda.spectral import sphere_basis
from xdiffda.state import Grid, Layout

FILES = ("card.json", "denoiser.safetensors", "statistics.safetensors")
SOLAR = "toa_incident_solar_radiation"


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

    Make one with `xdiffda.train` (task ``diffda``) and read it with `load`.

    Parameters
    ----------
    name : str
    layout : Layout
    scale, unresolved : arrays (node, channel)
        s in physical units; what the basis leaves out, in units of s.
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
        self, name: str, layout: Layout, scale: np.ndarray, covariance: SpectralCovariance, *,
        network: PretrainedNetwork, graph: Graph, given: GivenChannels, mean: np.ndarray,
        stddev: np.ndarray, unresolved: np.ndarray, card: Mapping[str, Any],
    ) -> None:  # fmt: skip
        nothing = np.zeros((layout.grid.n_node, 0))  # static fields are among the given channels
        super().__init__(
            name, layout, scale, covariance, network=network, graph=graph, static=nothing,
            mean=mean, stddev=stddev, calibrated=None, unresolved=unresolved, card=card,
        )  # fmt: skip
        self._given = given

    def _forcings(self, time: np.datetime64 | None) -> Float[Array, "node 1 forcing"]:
        if time is None or np.isnat(time):
            repair = 'background.assign_coords(time=np.datetime64("2020-01-01T00"))'
            problem = Problem("no valid time", "time as datetime64, UTC", repair)
            raise InputError([problem], what="background")
        return jnp.asarray(self._given(time))[:, None]


def load(folder: str | Path) -> DiffDAPrior:
    """Read what a run of task ``diffda`` left in the folder ``model`` of its output.

    Raises
    ------
    ModelError
        If a file is missing or damaged.

    Examples
    --------
    >>> load("no/such/folder")
    Traceback (most recent call last):
    ...
    xdiffda.errors.ModelError: no/such/folder: card.json, denoiser.safetensors, \
statistics.safetensors not found; needed the folder `model` of a run: \
`python -m xdiffda.train CONFIG.toml`
    """
    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).exists()]:
        raise ModelError(
            f"{folder}: {', '.join(missing)} not found; needed the folder `model` of a run: "
            "`python -m xdiffda.train CONFIG.toml`"
        )
    try:
        card = json.loads((folder / "card.json").read_text())
    except ValueError as error:
        raise ModelError(f"cannot read {folder / 'card.json'}: {error}") from error
    statistics = _load_arrays(folder / "statistics.safetensors")
    return build(card, statistics, _load_arrays(folder / "denoiser.safetensors"))


def build(
    card: Mapping[str, Any], statistics: Mapping[str, np.ndarray], weights: dict[str, np.ndarray]
) -> DiffDAPrior:
    """Assemble a prior from the contents of its files."""
    grid = Grid(tuple(statistics["lat"].tolist()), tuple(statistics["lon"].tolist()))
    layout = Layout(grid, tuple(card["variables"]), tuple(card["levels"]))
    blocks = unpack_symmetric(statistics["b_blocks"])
    basis = sphere_basis(grid.lat, grid.lon, len(blocks) - 1)
    static = {name: statistics[f"static_{name}"] for name in card["static"]}
    given = GivenChannels(
        grid, tuple(card["given"]), statistics["given_mean"], statistics["given_stddev"], static
    )
    return DiffDAPrior(
        card["name"], layout, np.repeat(statistics["scale"], grid.n_lon, axis=0),
        SpectralCovariance.from_blocks(basis, blocks), network=_network(card, weights),
        graph=build_graph(np.array(grid.lat), np.array(grid.lon), **card["mesh"]),
        given=given, mean=statistics["mean"], stddev=statistics["stddev"],
        unresolved=np.repeat(statistics["unresolved"], grid.n_lon, axis=0), card=card,
    )  # fmt: skip


def _network(card: Mapping[str, Any], weights: dict[str, np.ndarray]) -> PretrainedNetwork:
    config = NetworkConfig(**card["network"])
    one, two = jax.random.split(jax.random.key(0))
    places = Places(*(tuple(part) for part in card["places"]))
    encoder = NoiseEncoder(config.conditioning_width, key=two)
    return _fill(PretrainedNetwork(GraphCast(config, key=one), encoder, places), weights)

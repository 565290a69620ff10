"""The prior of a trained diffusion model: a denoiser conditioned on the background."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.covariance.small_scales import SmallScaleFilter
from xdiffda.covariance.spectral import CovarianceTable, SpectralCovariance
from xdiffda.diffusion.denoiser import Conditioned, Conditioning, Denoiser, DenoiserNetwork
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.graph import Graph
from xdiffda.networks.graphcast.network import GraphCast
from xdiffda.networks.graphcast.static import InFactors, Prepared
from xdiffda.priors.prior import ErrorScales, GaussianPrior, Prior, year_phase
from xdiffda.state.grid import Layout

_prepare = eqx.filter_jit(GraphCast.prepare)


class DiffusionPrior(Prior):
    """A denoiser trained on pairs of truth and background.

    Parameters
    ----------
    name : str
    layout : Layout
    scale : array (node, channel)
        s in physical units.
    covariance : SpectralCovariance
        B of z.
    network : DenoiserNetwork
    graph : Graph
    static : array (node, static)
        Normalised static fields.
    mean, stddev : arrays (channel,)
        Normalisation of the background as an input of the network.
    calibrated : CovarianceTable or None
        Measured V(sigma); without it guidance takes V from B.
    sizes : ErrorScales, optional
        B and V by the scale r of the background error, where they were measured so.
    unresolved : array (node, channel)
    small_scale_filter : SmallScaleFilter, optional
    card : mapping
        The model card: training data, steps, scores, licence.
    """

    @with_own_jax
    def __init__(
        self,
        name: str,
        layout: Layout,
        scale: np.ndarray,
        covariance: SpectralCovariance,
        *,
        network: DenoiserNetwork,
        graph: Graph,
        static: np.ndarray,
        mean: np.ndarray,
        stddev: np.ndarray,
        calibrated: CovarianceTable | None,
        unresolved: np.ndarray,
        card: Mapping[str, Any],
        sizes: ErrorScales | None = None,
        small_scale_filter: SmallScaleFilter | None = None,
    ) -> None:
        self.unresolved, self.small_scale_filter = unresolved, small_scale_filter
        self.name, self.layout, self.scale = name, layout, np.asarray(scale, np.float32)
        self._covariance, self._network, self._graph = covariance, network, graph
        self.static, self.mean, self.stddev = jnp.asarray(static), mean, stddev
        self._calibrated, self.sizes, self.card = calibrated, sizes, dict(card)
        self.unresolved = self.unresolved_at(1.0)

    @property
    def covariance(self) -> SpectralCovariance:
        return self._covariance

    def _calibrated_at(self, r: float) -> CovarianceTable | None:
        if self.sizes is None or self._calibrated is None:
            return self._calibrated
        blocks = np.tensordot(self.sizes.weights(r), self.sizes.calibrated, 1)
        return eqx.tree_at(lambda t: t.blocks, self._calibrated, jnp.asarray(blocks, jnp.float32))

    @property
    def default_covariance(self) -> str:
        return "climatological" if self._calibrated is None else "calibrated"

    def condition(
        self, background: np.ndarray, time: np.datetime64 | None, r: float
    ) -> Conditioned:
        normalised = (np.asarray(background) - self.mean) / self.stddev
        given = Conditioning(
            # (node, batch, channel): one background for all members, or one for each
            jnp.asarray(normalised, jnp.float32).reshape(len(normalised), -1, normalised.shape[-1]),
            jnp.asarray(year_phase(time))[None],
            jnp.asarray([r], jnp.float32),
            self._forcings(time),
        )
        denoise = Denoiser(
            self._network, self._covariance, self._graph, self.static, given, self._prepared
        )
        return Conditioned(denoise, self.covariance_at(r), self._calibrated_at(r))

    def _forcings(self, time: np.datetime64 | None) -> Float[Array, "node 1 forcing"] | None:
        """What the network reads besides the background and the season."""
        return None

    @functools.cached_property
    def _prepared(self) -> Prepared | InFactors:
        """The network's share that no state enters, computed once for all analyses."""
        backbone = self._network.backbone
        if backbone.config.edge_chunk:  # in factors, whose ranks depend on the weights
            return backbone.prepare(self._graph)
        return _prepare(backbone, self._graph)

    @with_own_jax
    def reconfigured(self, **options: Any) -> DiffusionPrior:
        """Return the same model computed differently: with less memory, or in half precision.

        ``options`` are those of `xdiffda.networks.graphcast.NetworkConfig` that change no weight:
        ``edge_chunk``, ``dtype``, ``precision``, ``unroll``, ``remat``; others raise ValueError.
        """
        other, network = copy.copy(self), self._network
        vars(other).pop("_prepared", None)  # of the old configuration
        backbone = network.backbone.reconfigured(**options)
        other._network = eqx.tree_at(lambda net: net.backbone, network, backbone)
        return other

    @with_own_jax
    def gaussian(self) -> GaussianPrior:
        """The Gaussian prior with the same s and B of every r.

        What the network adds shows against it.
        """
        gaussian = GaussianPrior(
            self.layout,
            self.scale,
            self._covariance,
            unresolved=self.unresolved,
            sizes=self.sizes,
            name=f"{self.name} (Gaussian)",
        )
        gaussian.small_scale_filter = self.small_scale_filter
        return gaussian

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name!r}: {self.layout.n_channel} channels on "
            f"{self.layout.grid}>"
        )

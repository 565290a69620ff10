"""The sections of a GenCast checkpoint that are no weights, under the names of the format.

Fields that stand as None are absent from a file; those of the published code's attention
kernels are kept so that they can be written back, and change no number here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from xdiffda.networks.graphcast.checkpoint import TaskConfig

STEP = np.timedelta64(12, "h")


class GenCastTask(TaskConfig):
    """GraphCast's task with steps of 12 h: an input duration of 24h is two frames."""

    @property
    def n_frames(self) -> int:
        """Number of input times, 12 h apart."""
        import pandas as pd

        return round(pd.to_timedelta([self.input_duration])[0] / STEP)


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer on the mesh.

    Parameters
    ----------
    attention_k_hop
        A node attends to all nodes that it reaches in so many edges, and to itself.
    d_model, num_layers, num_heads, ffw_hidden
        Width, blocks, attention heads, width of the hidden layer of the perceptrons.
    attention_type, mask_type, name
        How the published code computes attention; all ways give the same numbers.
    block_q, block_kv, block_kv_compute, block_q_dkv, block_kv_dkv, block_kv_dkv_compute
        Tiles of its TPU kernel.
    ffw_winit_final_mult, attn_winit_final_mult
        Scales of its random initialisation.
    """

    attention_k_hop: int
    d_model: int
    num_layers: int
    num_heads: int
    ffw_hidden: int
    attention_type: str | None = None
    mask_type: str | None = None
    block_q: int | None = None
    block_kv: int | None = None
    block_kv_compute: int | None = None
    block_q_dkv: int | None = None
    block_kv_dkv: int | None = None
    block_kv_dkv_compute: int | None = None
    ffw_winit_final_mult: float | None = None
    attn_winit_final_mult: float | None = None
    name: str | None = None


@dataclass(frozen=True)
class Architecture:
    """The denoiser's sizes and mesh.

    Parameters
    ----------
    sparse_transformer_config
        The transformer on the mesh.
    mesh_size
        How often the icosahedron is split; messages pass on the finest mesh alone.
    latent_size, hidden_layers
        Width of latent vectors, hidden layers of the perceptrons.
    radius_query_fraction_edge_length
        Radius of the edges from grid to mesh, in longest edges of the mesh.
    norm_conditioning_features
        What conditions the layer normalisations: the encoded noise level.
    node_output_size
        Output channels.
    grid2mesh_aggregate_normalization
        Constant by which the sums over edges from grid to mesh are divided.
    """

    sparse_transformer_config: TransformerConfig
    mesh_size: int
    latent_size: int
    hidden_layers: int = 1
    radius_query_fraction_edge_length: float = 0.6
    norm_conditioning_features: tuple[str, ...] = ("noise_level_encodings",)
    node_output_size: int | None = None
    grid2mesh_aggregate_normalization: float | None = None


@dataclass(frozen=True)
class SamplerConfig:
    """Noise levels of the sampler, and how it stirs (Price et al. 2024; Karras et al. 2022).

    Examples
    --------
    >>> config = SamplerConfig(num_noise_levels=2)
    >>> [round(float(level), 3) for level in config.ladder()]
    [80.0, 0.03, 0.0]
    >>> [round(float(rate), 3) for rate in config.churn_rates()]
    [0.414, 0.0]
    """

    max_noise_level: float = 80.0
    min_noise_level: float = 0.03
    num_noise_levels: int = 20
    rho: float = 7.0
    stochastic_churn_rate: float = 2.5
    churn_min_noise_level: float = 0.75
    churn_max_noise_level: float = float("inf")
    noise_level_inflation_factor: float = 1.05

    def __post_init__(self) -> None:
        if self.num_noise_levels < 2 or not 0 < self.min_noise_level < self.max_noise_level:
            raise ValueError(
                "SamplerConfig: num_noise_levels >= 2 and 0 < min_noise_level < max_noise_level "
                f"must hold, got {self}"
            )

    def ladder(self) -> Float[np.ndarray, " level"]:
        """Falling noise levels with 0 appended, computed in float64 as published."""
        high, low = self.max_noise_level ** (1 / self.rho), self.min_noise_level ** (1 / self.rho)
        levels = np.linspace(high, low, self.num_noise_levels) ** self.rho
        return np.append(levels, 0.0).astype(np.float32)

    def churn_rates(self) -> Float[np.ndarray, " step"]:
        """Relative rise of the noise level before each step."""
        levels = self.ladder()[:-1]
        rate = min(self.stochastic_churn_rate / self.num_noise_levels, np.sqrt(2) - 1)
        stirred = (self.churn_min_noise_level <= levels) & (levels <= self.churn_max_noise_level)
        return np.where(stirred, rate, 0.0).astype(np.float32)


@dataclass(frozen=True)
class TrainingNoise:
    """Law of the noise level in training: the ladder's, continuous and wider.

    Examples
    --------
    >>> TrainingNoise().levels(np.array([0.0, 0.5, 1.0])).round(3).tolist()
    [0.02, 4.352, 88.0]
    """

    training_noise_level_rho: float = 7.0
    training_max_noise_level: float = 88.0
    training_min_noise_level: float = 0.02

    def levels(self, quantile: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Noise levels of these quantiles, each uniform in [0, 1] for a draw."""
        rho = self.training_noise_level_rho
        low = self.training_min_noise_level ** (1 / rho)
        high = self.training_max_noise_level ** (1 / rho)
        return (low + np.asarray(quantile) * (high - low)) ** rho


@dataclass(frozen=True)
class NoiseEncoderConfig:
    """From the noise level to the vector that conditions the layer normalisations.

    Parameters
    ----------
    apply_log_first
        Whether the logarithm of the noise level is encoded.
    base_period
        Period of the first frequency; the others are its multiples.
    num_frequencies
        Frequencies, each as a cosine and a sine.
    output_sizes
        Widths of the perceptron's layers.
    """

    apply_log_first: bool = True
    base_period: float = 16.0
    num_frequencies: int = 32
    output_sizes: tuple[int, ...] = (32, 16)

"""Sizes of the network and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_DTYPES = ("float32", "bfloat16", "float64")
_PRECISIONS = ("default", "high", "highest")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network and how it is computed.

    Parameters
    ----------
    n_inputs
        Data channels at each grid node; the network appends its three structural ones itself.
    n_outputs
        Output channels at each grid node.
    latent
        Width of all latent vectors.
    processor_steps
        Message-passing steps on the multimesh.
    hidden_layers
        Hidden layers of every perceptron.
    conditioning_width
        Length of the vector that conditions the layer normalisations; 0 for none.
    dtype
        Precision of the computation: float32, bfloat16 (sums and normalisations stay float32)
        or float64 (needs jax's 64-bit mode). Weights are kept as they are.
    precision
        Of float32 matrix products: highest is true float32; default rounds the factors, on
        accelerators as the device does it (TF32), on CPUs to bfloat16
        (``xdiffda.graphcast.products``); faster where the processor multiplies these.
    unroll
        Compile every processor step by itself (fastest); otherwise, and always with
        ``edge_chunk``, scan over them.
    remat
        Recompute every step in the backward pass instead of storing it.
    edge_chunk
        Compute so many edges (or grid nodes) at a time, for less memory and the same outputs;
        0 for all at once. At 1 degree 4,096 on a CPU take half of the memory and the same time.
        ``xdiffda.graphcast.chunks`` says how.

    Raises
    ------
    ValueError
        If a size or a choice is not one of those above.

    Examples
    --------
    >>> NetworkConfig(n_inputs=85, n_outputs=37, latent=128, processor_steps=8).hidden_layers
    1
    """

    n_inputs: int
    n_outputs: int
    latent: int = 512
    processor_steps: int = 16
    hidden_layers: int = 1
    conditioning_width: int = 0
    dtype: str = "float32"
    precision: str = "highest"
    unroll: bool = True
    remat: bool = False
    edge_chunk: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {least} or more, a whole number, got {getattr(self, name)!r}"
            for name, least in (
                ("n_inputs", 1),
                ("n_outputs", 1),
                ("latent", 1),
                ("processor_steps", 1),
                ("hidden_layers", 0),
                ("conditioning_width", 0),
                ("edge_chunk", 0),
            )
            if not isinstance(size := getattr(self, name), int | np.integer) or size < least
        ]
        if self.dtype not in _DTYPES:
            wrong.append(f"dtype must be one of {_DTYPES}, got {self.dtype!r}")
        if self.precision not in _PRECISIONS:
            wrong.append(f"precision must be one of {_PRECISIONS}, got {self.precision!r}")
        if wrong:
            raise ValueError("NetworkConfig: " + "; ".join(wrong))

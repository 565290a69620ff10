"""Training that does not fit: what the allocator says becomes what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.errors import InputError
from xdiffda.train.config import Compute, Network, TrainConfig
from xdiffda.train.denoiser import make_network
from xdiffda.train.distributed import memory_explained
from xdiffda.train.loader import Batch, Epochs
from xdiffda.train.loop import Objective, train


class _Huge(Objective):
    """A loss that sorts 2^44 numbers, 70 TB and more with its gradient."""

    def mean(self, model: Any, batch: Batch) -> jax.Array:
        return jnp.sort(jnp.sin(model.weight.sum() + jnp.zeros((2**22, 2**22))), axis=0)[0, 0]


def _config(out: Path, **compute: object) -> TrainConfig:
    return TrainConfig("denoiser", "", str(out), steps=2, batch=6, compute=Compute(**compute))


def test_what_does_not_fit_names_the_entries_that_reduce_it(tmp_path: Path) -> None:
    model = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    source = Epochs(6, 6, seed=0, reader=lambda index: {"x": np.zeros(len(index), np.float32)})
    with pytest.raises(
        InputError, match="(?s)batch = 6 on 1 dev.*\\d{14,} bytes.*remat.*accumulate.*edge_chunk"
    ) as caught:
        train(model, _Huge(), source, _config(tmp_path), progress=False)
    repair = caught.value.problems[0].repair
    assert repair == 'remat = true; accumulate = 2; edge_chunk = 16384; dtype = "bfloat16"'


def test_what_was_done_already_is_not_proposed_again(tmp_path: Path) -> None:
    used = {"remat": True, "accumulate": 6, "edge_chunk": 4096, "dtype": "bfloat16"}
    with pytest.raises(InputError) as caught, memory_explained(_config(tmp_path, **used)):
        raise MemoryError
    assert caught.value.problems[0].repair == "edge_chunk = 2048"


def test_other_errors_of_the_device_stay_as_they_are(tmp_path: Path) -> None:
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        memory_explained(_config(tmp_path)),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such kernel")


def test_edges_in_chunks_reach_the_network(tmp_path: Path) -> None:
    """What they compute is in tests/networks/graphcast/test_chunks.py, gradients included."""
    config = TrainConfig(
        "denoiser",
        "",
        str(tmp_path),
        compute=Compute(edge_chunk=64),
        network=Network(latent=4, processor_steps=1, conditioning_width=2),
    )
    assert eqx.filter_eval_shape(make_network, config, 3, 2).backbone.config.edge_chunk == 64
    with pytest.raises(InputError, match="compute.edge_chunk = -1; needed at least 0"):
        Compute(edge_chunk=-1)

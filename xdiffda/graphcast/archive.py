"""The entries of a checkpoint file, read without pickle: weights, settings and texts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from xdiffda.errors import StorageError

REPAIR = "repair: delete it and bring it here again (a published one: `xdiffda fetch NAME`)"
# what a setting may be, beside being absent
_KINDS = {int: ("iu", "a whole number"), float: ("iuf", "a number"), str: ("U", "a text"),
          bool: ("b", "true or false")}  # fmt: skip
# counts beyond which a file is damaged for certain; to build what they say would take all memory
MOST = {
    "mesh_size": 9, "latent_size": 2**14, "d_model": 2**14, "ffw_hidden": 2**17,
    "gnn_msg_steps": 1024, "num_layers": 1024, "hidden_layers": 64, "num_heads": 1024,
    "attention_k_hop": 1024, "num_frequencies": 2**14, "num_noise_levels": 10**6,
    "mesh_num_splits": 9, "output_size": 2**14, "hidden_size": 2**14, "num_hidden_layers": 64,
}  # fmt: skip


def read_entries(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All arrays of a ``.npz``; nothing in it executes when it is read.

    Raises
    ------
    StorageError
        If it is none, or damaged, or holds Python objects.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, no archive of them (.npz)")
        with file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # damage shows in many ways: zip, zlib, headers, sizes
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise StorageError(f"cannot read {path} as a checkpoint: {text}; {REPAIR}") from error


def take_text(entries: dict[str, Any], name: str) -> str:
    """A text that may be absent."""
    return str(entries.pop(name, ""))


def take_setting(entries: dict[str, Any], key: str, kind: type, wrong: list[str]) -> Any:
    """One value, taken out of the entries; None, and more in ``wrong``, if it cannot be meant."""
    value = np.asarray(entries.pop(key))
    letters, words = _KINDS[kind]
    most = MOST.get(key.rpartition(":")[2], float("inf")) if kind is int else float("inf")
    if value.size != 1 or value.dtype.kind not in letters:
        found = f"{value.dtype} of shape {value.shape}" if value.size != 1 else repr(value.item())
        wrong.append(f"{key} is {found}, not {words}")
    elif kind in (int, float) and not 0 <= value.item() <= most:
        limit = "0 or more" if most == float("inf") else f"0 to {most}"
        wrong.append(f"{key} is {value.item()}, not {limit}")
    else:
        return value.item()
    return None


def weight_problems(
    weights: Mapping[str, Any], needed: Mapping[str, Any], optional: Mapping[str, Any]
) -> list[str]:
    """What is wrong with weights, by the names and shapes they should have."""
    wrong = []
    for name, leaf in {**needed, **optional}.items():
        if name not in weights:
            wrong += [f"missing params:{name}"] if name in needed else []
        elif weights[name].shape != leaf.shape:
            shapes = f"{weights[name].shape}, the configuration {leaf.shape}"
            wrong.append(f"params:{name} has shape {shapes}")
        elif not np.issubdtype(weights[name].dtype, np.floating):
            wrong.append(f"params:{name} holds {weights[name].dtype}, not floating-point numbers")
        elif not np.isfinite(weights[name]).all():
            wrong.append(f"params:{name} holds values that are not finite")
    return wrong + [f"unknown params:{k}" for k in weights if k not in needed and k not in optional]


def weights_of(entries: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights by their names."""
    named = {k.removeprefix("params:"): v for k, v in entries.items() if k.startswith("params:")}
    return {name: np.asarray(value) for name, value in named.items()}


def leaves_of(weights: Mapping[str, np.ndarray], names: Sequence[str]) -> list[Array]:
    """Weights as a network holds them: never in half precision, whatever order their bytes have."""
    wide = {name: np.float64 if weights[name].dtype.itemsize > 4 else np.float32 for name in names}
    return [jnp.asarray(weights[name].astype(wide[name], copy=False)) for name in names]

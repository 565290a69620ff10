"""The folder of a model: a card, and arrays in safetensors, with the digest of each file.

Nothing in it executes when it is read. The card is written last, so that a folder whose writing
was interrupted is recognised by digests that do not fit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from xdiffda.errors import ModelError
from xdiffda.storage.files import write_text

CARD, WEIGHTS, STATISTICS = "card.json", "denoiser.safetensors", "statistics.safetensors"
FORECASTER = "forecaster.npz"
Digests = tuple[tuple[str, str], ...]
REPAIR = (
    "copy the folder again from where it was made (a bundled model: `pip install "
    "--force-reinstall xdiffda`; a training run writes its own anew: `python -m xdiffda.train "
    "CONFIG.toml`)"
)


class Kind(NamedTuple):
    """The files that a folder of one kind holds, and the entries that its card needs."""

    files: tuple[str, ...]
    told: tuple[str, ...]


_COMMON = ("name", "variables", "levels", "network")
TESTBED = "testbed"  # of cards that tell no kind
KINDS = {
    TESTBED: Kind((CARD, WEIGHTS, STATISTICS, FORECASTER), _COMMON),
    "diffda": Kind(
        (CARD, WEIGHTS, STATISTICS), (*_COMMON, "mesh", "places", "given", "static", "sha256")
    ),
}


def examine(folder: Path) -> dict[str, Any]:
    """The card of a folder that can be read, is of a known kind, and holds every file of it.

    Raises
    ------
    ModelError
        If that is not so; the message tells what was found instead.
    """
    if not (folder / CARD).is_file():
        raise ModelError(_foreign(folder))
    card = read_card(folder)
    kind = KINDS.get(kind_of(card))
    if kind is None:
        raise ModelError(
            f"{folder / CARD} tells the kind {kind_of(card)!r}; needed one of {', '.join(KINDS)}: "
            "written by a newer version? repair: `pip install --upgrade xdiffda`"
        )
    wrong = [f"{file} not found" for file in kind.files if not (folder / file).is_file()]
    wrong += [f"{CARD} does not tell {name!r}" for name in kind.told if name not in card]
    told = card.get("sha256", dict.fromkeys(kind.files))
    wrong += [f"{CARD} has no digest of {file}" for file in kind.files[1:] if file not in told]
    if wrong:
        raise ModelError(f"{folder}: {'; '.join(wrong)}; {REPAIR}")
    return card


def digests(folder: Path, card: Mapping[str, Any]) -> Digests:
    """File name and SHA-256 of every file of a model."""
    return tuple((file, digest(folder / file)) for file in KINDS[kind_of(card)].files)


def verify(folder: Path, card: Mapping[str, Any], found: Digests) -> None:
    """Compare digests with those that the card tells.

    Raises
    ------
    ModelError
        If a file has another one.
    """
    told = card.get("sha256", {})
    damaged = [file for file, own in found if told.get(file, own) != own]
    if damaged:
        raise ModelError(
            f"{', '.join(damaged)} in {folder} does not have the digest in {CARD}: the file is "
            f"damaged or of another version; {REPAIR}"
        )


def kind_of(card: Mapping[str, Any]) -> str:
    """The kind that a card tells."""
    return str(card.get("kind", TESTBED))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(folder: Path) -> dict[str, Any]:
    """The model card in a model's folder.

    Raises
    ------
    ModelError
        If it is no JSON object.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"cannot read {folder / CARD}: {error}; {REPAIR}") from error
    if not isinstance(card, dict):
        raise ModelError(f"cannot read {folder / CARD}: no object of names and values; {REPAIR}")
    return card


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file.

    Raises
    ------
    ModelError
        If it is none, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}; {REPAIR}") from error


def need_arrays(file: str, found: Iterable[str], needed: Iterable[str]) -> None:
    """Raise ModelError where a file lacks some arrays."""
    if absent := sorted(set(needed) - set(found)):
        raise ModelError(f"{file} has no array {', '.join(absent)}; {REPAIR}")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file, all or nothing, readable for everybody."""
    from safetensors.numpy import save_file

    temporary = path.with_suffix(".tmp")
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)
    temporary.chmod(0o644)
    os.replace(temporary, path)


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card of a folder whose other files are there, with their digests."""
    files = KINDS[kind_of(card)].files[1:]
    signed = {**card, "sha256": {file: digest(folder / file) for file in files}}
    write_text(json.dumps(signed, indent=1), folder / CARD)


def flatten(network: Any) -> dict[str, np.ndarray]:
    """Weights of a network by their path, as they are stored."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_inexact_array))
    return {jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf) for path, leaf in leaves}


def fill(network: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """Put stored weights into a network of the same shape.

    ``network`` may be the shapes alone, from `equinox.filter_eval_shape`.

    Raises
    ------
    ModelError
        If names or shapes are not the network's.
    """
    arrays, static = eqx.partition(network, _inexact)
    leaves, tree = jax.tree_util.tree_flatten_with_path(arrays)
    names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in leaves]
    wrong = sorted(set(names) ^ set(weights)) + [
        f"{name}: shape {weights[name].shape}, needed {leaf.shape}"
        for name, (_, leaf) in zip(names, leaves, strict=True)
        if name in weights and weights[name].shape != leaf.shape
    ]
    if wrong:
        raise ModelError("the weights do not fit the network of the card: " + "; ".join(wrong[:8]))
    filled = [jnp.asarray(weights[name], jnp.float32) for name in names]
    return eqx.combine(jax.tree_util.tree_unflatten(tree, filled), static)


def _inexact(leaf: Any) -> bool:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.issubdtype(leaf.dtype, jnp.inexact)
    return eqx.is_inexact_array(leaf)


def pack_symmetric(blocks: np.ndarray) -> np.ndarray:
    """Lower triangles of symmetric matrices (..., C, C) -> (..., C (C + 1) / 2)."""
    rows, columns = np.tril_indices(blocks.shape[-1])
    return blocks[..., rows, columns]


def unpack_symmetric(packed: np.ndarray) -> np.ndarray:
    """Inverse of `pack_symmetric`, in float32."""
    n = int((np.sqrt(8 * packed.shape[-1] + 1) - 1) / 2)
    rows, columns = np.tril_indices(n)
    blocks = np.zeros((*packed.shape[:-1], n, n), np.float32)
    blocks[..., rows, columns] = packed
    blocks[..., columns, rows] = packed
    return blocks


def _foreign(folder: Path) -> str:
    """Describe a folder without a card."""
    inside = sorted(path.name for path in folder.iterdir())
    some = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
    text = (
        f"{folder}: {CARD} not found, only {some or 'nothing'}; needed a folder with {CARD}, "
        f"{WEIGHTS} and {STATISTICS} (other formats are not read, pickled weights never)"
    )
    if (folder / "model" / CARD).is_file():
        return f"{text}; repair: xdiffda.load_model({str(folder / 'model')!r})"
    return (
        f"{text}; repair: the folder `model` of a run of `python -m xdiffda.train CONFIG.toml`, or "
        "xdiffda.load_model('speedy')"
    )

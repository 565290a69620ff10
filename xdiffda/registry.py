"""Models: what is bundled, and how it is read. Weights are safetensors; nothing executes."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from xdiffda._catalogue import RELEASES, did_you_mean, nearest
from xdiffda._published import is_published, load_published, published_rows
from xdiffda.errors import ModelError
from xdiffda.network_prior import DiffusionPrior
from xdiffda.options import get_options
from xdiffda.prior import Prior
from xdiffda.state import Grid, Layout

FILES = ("card.json", "denoiser.safetensors", "statistics.safetensors", "forecaster.npz")


def models_folder() -> Path:
    """The folder of bundled models inside the package."""
    return Path(str(resources.files("xdiffda"))) / "models"


def models() -> xr.Dataset:
    """Every model by name: those in the package, and those that can be fetched.

    Returns
    -------
    Dataset
        Dimension ``model``; variables ``title``, ``kind`` (diffusion prior, forecaster or
        both), ``grid``, ``parameters``, ``licence``, ``megabytes`` (of the weights), ``source``
        (bundled or published) and ``cached`` (whether it can be used without a network).

    Examples
    --------
    >>> table = models()
    >>> "speedy" in table.model.values, table.megabytes.sel(model="gencast-1p0-mini").item()
    (True, 230.0)
    """
    rows = [*_bundled_rows(), *published_rows()]
    columns = {name: ("model", [row[name] for row in rows]) for name in rows[0] if name != "model"}
    return xr.Dataset(columns, coords={"model": [row["model"] for row in rows]})


def _bundled_rows() -> list[dict[str, Any]]:
    cards = [load_card(path.parent) for path in sorted(models_folder().glob("*/card.json"))]
    rows = []
    for card in cards:
        files = [models_folder() / card["name"] / file for file in FILES]
        size = sum(file.stat().st_size for file in files if file.exists())
        texts = {key: str(card.get(key, "")) for key in ("title", "grid", "parameters", "licence")}
        rows.append(
            {"model": card["name"], **texts, "kind": "prior and forecaster",
             "megabytes": round(size / 1e6, 1), "source": "bundled", "cached": True}
        )  # fmt: skip
    return rows


def resolve(model: str | Prior | None) -> Prior:
    """Turn a name into a prior; None takes the option ``default_model``.

    Raises
    ------
    ModelError
        If there is no such model, or it is a forecaster alone.
    """
    if isinstance(model, Prior):
        return model
    name = get_options().default_model if model is None else model
    loaded = load_model(name)
    if not isinstance(loaded, Prior):
        priors = ", ".join(models().model.values[models().kind.values != "forecaster"])
        raise ModelError(
            f"found {str(name)!r}, a forecaster; needed a prior, one of {priors}: "
            'assimilate(..., model="speedy"); forecasts are ds.diffda.forecast(model='
            f"{str(name)!r})"
        )
    return loaded


def load_model(name: str | Path) -> Any:
    """Load a model by its name, or from a folder of the same files.

    Parameters
    ----------
    name : str or path
        A name of `models`, or a folder laid out like a bundled model. Published weights are
        fetched when they are first used (`xdiffda.fetch`).

    Returns
    -------
    DiffusionPrior, GenCastPrior or Forecaster
        Cached by the digest of its files. GraphCast is a `Forecaster`, 6 h a step. GenCast is a
        prior, conditioned on the states 24 and 12 h before the analysis: tell it those with
        `GenCastPrior.given`.

    Raises
    ------
    ModelError
        If there is no such model, a file is missing, or its content is damaged.
    StorageError
        If published weights can neither be fetched nor read.

    Examples
    --------
    >>> load_model("speedy").layout.n_channel
    37
    """
    if is_published(name):
        return load_published(str(name))
    folder = model_folder(name)
    return _load(folder, _digest(folder))


def model_folder(name: str | Path) -> Path:
    """The folder of a model by its name, or a folder given as such; all files are there.

    Raises
    ------
    ModelError
        If a file is missing.
    """
    folder = Path(name) if Path(name).is_dir() else models_folder() / str(name)
    missing = [file for file in FILES if not (folder / file).exists()]
    if missing:
        bundled = [p.parent.name for p in models_folder().glob("*/card.json")]
        known = [*bundled, *RELEASES]
        repair = bundled[0] if Path(name).is_dir() else nearest(str(name), known)[0]
        raise ModelError(
            f"no model {str(name)!r}: {', '.join(missing)} not found in {folder}; "
            f"{did_you_mean(str(name), known)} (bundled models are {', '.join(bundled)}; all of "
            f"them: xdiffda.models()); repair: xdiffda.load_model({repair!r})"
        )
    return folder


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in FILES:
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()


def load_card(folder: Path) -> dict[str, Any]:
    """The model card in a model's folder."""
    try:
        return json.loads((folder / "card.json").read_text())
    except ValueError as error:
        raise ModelError(
            f"cannot read {folder / 'card.json'}: {error}; install the package again, "
            "`pip install --force-reinstall xdiffda`"
        ) from error


def _verify(folder: Path, card: dict[str, Any]) -> None:
    damaged = [
        file
        for file, expected in card.get("sha256", {}).items()
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != expected
    ]
    if damaged:
        raise ModelError(
            f"{', '.join(damaged)} in {folder} does not have the digest in card.json: the file "
            "is damaged or of another version; install the package again, "
            "`pip install --force-reinstall xdiffda`"
        )


@functools.lru_cache(maxsize=4)
def _load(folder: Path, digest: str) -> DiffusionPrior:
    card = load_card(folder)
    _verify(folder, card)
    return build_prior(card, load_statistics(folder), _load_arrays(folder / "denoiser.safetensors"))


def load_statistics(folder: Path) -> dict[str, np.ndarray]:
    """Normalisation, grid, static fields, s, B and V of a model."""
    return _load_arrays(folder / "statistics.safetensors")


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ModelError(
            f"cannot read {path}: {error}; install the package again, "
            "`pip install --force-reinstall xdiffda`"
        ) from error


def layout_of(card: dict[str, Any], statistics: dict[str, np.ndarray]) -> Layout:
    """Grid, variables and levels of a model."""
    grid = Grid(tuple(statistics["lat"].tolist()), tuple(statistics["lon"].tolist()))
    return Layout(grid, tuple(card["variables"]), tuple(card["levels"]))


def build_prior(
    card: dict[str, Any], statistics: dict[str, np.ndarray], weights: dict[str, np.ndarray]
) -> DiffusionPrior:
    """Assemble a prior from the contents of its files."""
    from xdiffda.covariance import CovarianceTable, SpectralCovariance
    from xdiffda.diffusion.denoiser import DenoiserNetwork
    from xdiffda.graphcast.graph import build_graph
    from xdiffda.spectral import sphere_basis

    layout = layout_of(card, statistics)
    grid = layout.grid
    basis = sphere_basis(grid.lat, grid.lon)
    network = DenoiserNetwork(
        layout.n_channel, statistics["static"].shape[1], latent=card["network"]["latent"],
        processor_steps=card["network"]["processor_steps"],
        hidden_layers=card["network"]["hidden_layers"],
        conditioning_width=card["network"]["conditioning_width"], key=jax.random.key(0),
    )  # fmt: skip
    blocks = unpack_symmetric(statistics["b_blocks"])
    table = CovarianceTable(
        basis, jnp.asarray(statistics["v_sigma"]),
        jnp.asarray(unpack_symmetric(statistics["v_blocks"])),
        jnp.asarray(np.einsum("dcc->d", blocks) / layout.n_channel),
    )  # fmt: skip
    return DiffusionPrior(
        card["name"], layout, np.repeat(statistics["scale"], grid.n_lon, axis=0),
        SpectralCovariance.from_blocks(basis, blocks),
        network=_fill(network, weights), static=statistics["static"],
        graph=build_graph(
            np.array(grid.lat), np.array(grid.lon), refinement=card["network"]["refinement"]
        ),
        mean=statistics["mean"], stddev=statistics["stddev"], calibrated=table, card=card,
        unresolved=np.repeat(statistics["unresolved"], grid.n_lon, axis=0),
    )  # fmt: skip


def flatten(network: Any) -> dict[str, np.ndarray]:
    """Weights of a network by their path, as they are stored."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_inexact_array))
    return {jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf) for path, leaf in leaves}


def _fill(network: Any, weights: dict[str, np.ndarray]) -> Any:
    """Put stored weights into a network of the same shape."""
    arrays, static = eqx.partition(network, eqx.is_inexact_array)
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

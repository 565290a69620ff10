"""Models: what is bundled, and how it is read. Weights are safetensors; nothing executes."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from xdiffda.covariance.small_scales import SmallScaleFilter
from xdiffda.errors import ModelError
from xdiffda.jax_settings import with_own_jax
from xdiffda.options import get_options
from xdiffda.priors.diffda import build as build_diffda
from xdiffda.priors.diffusion import DiffusionPrior
from xdiffda.priors.prior import ErrorScales, Prior
from xdiffda.priors.published import (
    RELEASES,
    did_you_mean,
    is_published,
    load_published,
    nearest,
    published_rows,
)
from xdiffda.priors.reference import reference_prior
from xdiffda.state.convert import infer_layout
from xdiffda.state.grid import Grid, Layout
from xdiffda.storage.model_folder import (
    CARD,
    FORECASTER,
    KINDS,
    STATISTICS,
    TESTBED,
    WEIGHTS,
    Digests,
    digests,
    examine,
    fill,
    kind_of,
    read_arrays,
    read_card,
    unpack_symmetric,
    verify,
)

FILES = KINDS[TESTBED].files


def models_folder() -> Path:
    """The folder of bundled models inside the package."""
    return Path(str(resources.files("xdiffda"))) / "models"


def models() -> xr.Dataset:
    """List every model by name: those in the package, and those that can be fetched.

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
    cards = [read_card(path.parent) for path in sorted(models_folder().glob(f"*/{CARD}"))]
    rows = []
    for card in cards:
        files = [models_folder() / card["name"] / file for file in FILES]
        size = sum(file.stat().st_size for file in files if file.exists())
        texts = {key: str(card.get(key, "")) for key in ("title", "grid", "parameters", "licence")}
        rows.append(
            {
                "model": card["name"],
                **texts,
                "kind": "prior and forecaster",
                "megabytes": round(size / 1e6, 1),
                "source": "bundled",
                "cached": True,
            }
        )
    return rows


class Choice(NamedTuple):
    """The prior of an analysis, and why it is that one."""

    prior: Prior
    reason: str


@with_own_jax
def choose(model: str | Prior | None, background: xr.Dataset) -> Choice:
    """The prior for a background: the one asked for, else the one that fits.

    By default that is the option ``default_model`` where the background lies on its grid and holds
    its variables and levels, else the prior of the real atmosphere (`reference_prior`). Metadata
    alone is read.

    Raises
    ------
    InputError
        If the background's metadata cannot be understood, or holds nothing that `reference` knows.
    ModelError
        As `resolve`.

    Examples
    --------
    >>> import xdiffda
    >>> choice = choose(None, xdiffda.open_sample("background"))
    >>> choice.prior.name, choice.reason
    ('speedy', 'the background is on its grid, with its variables and levels')
    """
    if model == "reference":
        return Choice(reference_prior(background), "asked for")
    if model is not None or not isinstance(background, xr.Dataset):
        return Choice(resolve(model), "asked for")
    name = get_options().default_model
    found = infer_layout(background, what="background")
    own = resolve(name)
    reason = _misfit(own.layout, found)
    if not reason:
        return Choice(own, "the background is on its grid, with its variables and levels")
    return Choice(reference_prior(background), f"{own.name!r} does not fit: {reason}")


def _misfit(needed: Layout, found: Layout) -> str:
    """Why a background does not fit a model's layout; empty where it does."""
    if not needed.grid.is_close(found.grid):
        return f"the background is on the grid {found.grid}, the model on {needed.grid}"
    if lost := [name for name in needed.variables if name not in found.variables]:
        return f"the background lacks {', '.join(lost)}"
    if levels := [level for level in needed.levels if level not in found.levels]:
        return f"the background lacks the levels {', '.join(map(str, levels))} hPa"
    return ""


@with_own_jax
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


@with_own_jax
def load_model(name: str | Path) -> Any:
    """Load a model by its name, or from a folder that a training run left.

    Parameters
    ----------
    name : str or path
        A name of `models`, or a folder: laid out like a bundled model, or the folder ``model``
        of a fine-tuned GraphCast (`xdiffda.priors.diffda`). Published weights are fetched when they
        are first used (`xdiffda.fetch`).

    Returns
    -------
    DiffusionPrior, DiffDAPrior, GenCastPrior, Forecaster or FGNForecaster
        Cached by the digest of its files. GraphCast is a `Forecaster`, 6 h a step. WeatherNext 2
        is an ``xdiffda.fgn.FGNForecaster``, an ensemble of them. GenCast is a
        prior, conditioned on the states 24 and 12 h before the analysis: tell it those with
        `GenCastPrior.given`. DiffDA and the bundled model are conditioned on the background and
        its valid time. Published weights, and what is derived from them, carry a licence of
        their own: ``card["licence"]`` of a prior or an ensemble, ``net.license`` of a forecaster,
        and ``licence`` in `models`, which knows of later terms.

    Raises
    ------
    ModelError
        If there is no such model, a file is missing or of another kind, or its content is not
        what the digests in the card say.
    StorageError
        If published weights can neither be fetched nor read.

    Examples
    --------
    >>> load_model("speedy").layout.n_channel
    37
    """
    if is_published(name):
        return load_published(str(name))
    folder = _existing(name)
    return _load(folder, digests(folder, examine(folder)))


@with_own_jax
def with_weights_of(name: str | Path, network: Any) -> Any:
    """A denoiser's network of the same shape with the weights of a model: to train it further.

    Raises
    ------
    ModelError
        If there is no such model, its files are damaged, or its network is another one.
    """
    folder = _existing(name)
    card = examine(folder)
    verify(folder, card, digests(folder, card))
    return fill(network, read_arrays(folder / WEIGHTS))


def model_folder(name: str | Path) -> Path:
    """The folder of a model with a forecaster, by its name or given as such; all files are there.

    Raises
    ------
    ModelError
        If a file is missing, or the model is a prior alone.
    """
    folder = _existing(name)
    if FORECASTER not in KINDS[kind_of(examine(folder))].files:
        raise ModelError(
            f"found {str(name)!r}, a prior alone; needed a model with {FORECASTER}: a published "
            'forecaster, as ds.diffda.forecast(model="graphcast-small-1p0"), or one\'s own; '
            f"xdiffda.load_model({str(name)!r}) is for assimilate"
        )
    return folder


def _existing(name: str | Path) -> Path:
    folder = None
    if isinstance(name, str | Path) and str(name):  # no name at all would be this folder
        folder = Path(name) if Path(name).is_dir() else models_folder() / str(name)
    if folder is None or not folder.is_dir():
        bundled = [p.parent.name for p in models_folder().glob(f"*/{CARD}")]
        known = [*bundled, *RELEASES]
        raise ModelError(
            f"no model {str(name)!r}, and no folder of that name; "
            f"{did_you_mean(str(name), known)} (bundled models are {', '.join(bundled)}; all of "
            f"them: xdiffda.models()); repair: xdiffda.load_model({nearest(str(name), known)[0]!r})"
        )
    return folder


@functools.lru_cache(maxsize=4)
def _load(folder: Path, found: Digests) -> DiffusionPrior:
    card = read_card(folder)
    verify(folder, card, found)
    build = build_diffda if kind_of(card) == "diffda" else build_prior
    return build(card, load_statistics(folder), read_arrays(folder / WEIGHTS))


def load_statistics(folder: Path) -> dict[str, np.ndarray]:
    """Normalisation, grid, static fields, s, B and V of a model."""
    return read_arrays(folder / STATISTICS)


def layout_of(card: dict[str, Any], statistics: dict[str, np.ndarray]) -> Layout:
    """Grid, variables and levels of a model."""
    grid = Grid(tuple(statistics["lat"].tolist()), tuple(statistics["lon"].tolist()))
    return Layout(grid, tuple(card["variables"]), tuple(card["levels"]))


def _sizes(statistics: dict[str, np.ndarray]) -> ErrorScales | None:
    """B and V by r, where a model has them so."""
    if "sizes_r" not in statistics:
        return None
    b, v = (unpack_symmetric(statistics[f"sizes_{name}"]) for name in ("covariance", "calibrated"))
    unresolved = np.repeat(statistics["sizes_unresolved"], len(statistics["lon"]), axis=1)
    return ErrorScales(statistics["sizes_r"], b, v, unresolved)


FILTER_PARTS = ("mean", "variance", "roughness", "damping")


def _small_scales(statistics: dict[str, np.ndarray]) -> SmallScaleFilter | None:
    """Return how far the grid-scale noise of backgrounds is damped, where that was measured."""
    if "small_scales_mean" not in statistics:
        return None
    mean, variance, rough, a = (statistics[f"small_scales_{name}"] for name in FILTER_PARTS)
    return SmallScaleFilter(mean, variance.item(), rough, np.repeat(a, len(statistics["lon"]), 1))


@with_own_jax
def build_prior(
    card: dict[str, Any], statistics: dict[str, np.ndarray], weights: dict[str, np.ndarray]
) -> DiffusionPrior:
    """Assemble a prior from the contents of its files."""
    from xdiffda.covariance.balance import read_basis
    from xdiffda.covariance.spectral import CovarianceTable, SpectralCovariance
    from xdiffda.diffusion.denoiser import DenoiserNetwork
    from xdiffda.networks.graphcast.graph import build_graph

    layout = layout_of(card, statistics)
    grid = layout.grid
    basis = read_basis(layout, statistics)
    sizes = card["network"]
    shapes = eqx.filter_eval_shape(  # drawing weights to throw away took most of the loading
        DenoiserNetwork,
        layout.n_channel,
        statistics["static"].shape[1],
        latent=sizes["latent"],
        processor_steps=sizes["processor_steps"],
        hidden_layers=sizes["hidden_layers"],
        conditioning_width=sizes["conditioning_width"],
        key=jax.random.key(0),
    )
    blocks = unpack_symmetric(statistics["b_blocks"])
    table = CovarianceTable(
        basis,
        jnp.asarray(statistics["v_sigma"]),
        jnp.asarray(unpack_symmetric(statistics["v_blocks"])),
        jnp.asarray(np.einsum("dcc->d", blocks) / layout.n_channel),
    )
    return DiffusionPrior(
        card["name"],
        layout,
        np.repeat(statistics["scale"], grid.n_lon, axis=0),
        SpectralCovariance.from_blocks(basis, blocks),
        network=fill(shapes, weights),
        static=statistics["static"],
        graph=build_graph(np.array(grid.lat), np.array(grid.lon), refinement=sizes["refinement"]),
        mean=statistics["mean"],
        stddev=statistics["stddev"],
        calibrated=table,
        card=card,
        unresolved=np.repeat(statistics["unresolved"], grid.n_lon, axis=0),
        sizes=_sizes(statistics),
        small_scale_filter=_small_scales(statistics),
    )

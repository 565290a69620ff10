"""Published models as this package uses them: GraphCast as a forecaster, GenCast as a prior."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from xdiffda._catalogue import RELEASES, Release, find_release
from xdiffda._grid import equiangular
from xdiffda._jax_settings import with_own_jax
from xdiffda.errors import ModelError, StorageError
from xdiffda.gencast import GenCastForecaster, GenCastPrior
from xdiffda.gencast import load as load_gencast
from xdiffda.graphcast import Forecaster
from xdiffda.graphcast import load as load_graphcast
from xdiffda.prior import Prior
from xdiffda.state import Grid
from xdiffda.weights import ReleaseFiles, cached, fetch


class GenCastModel(GenCastPrior, Prior):
    """`xdiffda.gencast.GenCastPrior` as `assimilate` takes it."""


def is_published(name: object) -> bool:
    """Whether this is the name of a published model (and of no folder)."""
    return isinstance(name, str | Path) and str(name) in RELEASES and not Path(name).is_dir()


@with_own_jax
def load_published(name: str) -> Forecaster | GenCastModel:
    """A published model, fetched unless it is here, and kept for the next call.

    Raises
    ------
    ModelError
        If there is none of this name, or its files hold another network than they should.
    StorageError
        If its files can neither be fetched nor read.
    """
    release = find_release(name)
    files = fetch(name)
    stamp = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _load(release, files, stamp)


def published_rows() -> list[dict[str, Any]]:
    """What `xdiffda.models` says of published models; reads names in the cache only."""
    return [
        {"model": r.name, "title": r.title, "grid": f"{r.shape[0]} x {r.shape[1]}, {r.n_levels} "
         "levels", "parameters": f"about {r.megabytes / 4:.0f} million", "licence": r.licence,
         "kind": "prior" if r.kind == "gencast" else "forecaster", "megabytes": float(r.megabytes),
         "source": "published", "cached": cached(r.name)}
        for r in RELEASES.values()
    ]  # fmt: skip


def release_grid(release: Release) -> Grid:
    """The grid of a published model: equiangular, with rows at the poles."""
    return equiangular(*release.shape, poles=True)


@functools.lru_cache(maxsize=2)
def _load(
    release: Release, files: ReleaseFiles, stamp: tuple[tuple[int, int], ...]
) -> Forecaster | GenCastModel:
    del stamp  # only tells one version of the files from another
    statistics = {
        role: _statistics(getattr(files, role), release.name)
        for role in ("mean", "stddev", "diffs_stddev", "minimum")
        if getattr(files, role) is not None
    }
    if release.kind == "graphcast":
        net = load_graphcast(files.params)
        size = net.config.mesh_size
        _check(release, files.params, net.task.pressure_levels, size, net.config.resolution)
        _check_statistics(release, net.task, statistics)
        return Forecaster(net, **statistics)
    net = load_gencast(files.params)
    _check(release, files.params, net.task.pressure_levels, net.checkpoint.architecture.mesh_size)
    _check_statistics(release, net.task, statistics)
    forecaster = GenCastForecaster(net, **statistics)
    return GenCastModel(forecaster, grid=release_grid(release), name=release.name)


def _statistics(path: Path, name: str) -> xr.Dataset:
    try:
        return xr.load_dataset(path)
    except Exception as error:  # every backend has errors of its own
        raise StorageError(
            f"{path}: cannot be read as netCDF ({str(error).splitlines()[0][:200]}); repair: "
            f"delete it and fetch it again, `xdiffda fetch {name}`"
        ) from error


def _check_statistics(release: Release, task: Any, found: Mapping[str, xr.Dataset]) -> None:
    """Every variable of the state has its own: one without would pass unscaled, and be wrong."""
    state, fed_back = {*task.target_variables}, {*task.target_variables} & {*task.input_variables}
    needed = {"mean": state, "stddev": state, "diffs_stddev": fed_back}
    absent = {role: sorted(names - {*found[role]}) for role, names in needed.items()}
    wrong = [f"{role} without {', '.join(names)}" for role, names in absent.items() if names]
    if wrong:
        raise ModelError(
            f"{release.name}: found {'; '.join(wrong)}; needed statistics of every variable of "
            f"the state; repair: those of {release.kind}/stats, by `xdiffda fetch {release.name}`"
        )


def _check(
    release: Release, path: Path, levels: tuple[int, ...], mesh_size: int,
    resolution: float | None = None,
) -> None:  # fmt: skip
    """The file holds the network that its name promises; GenCast's tells no resolution."""

    def sizes(r: Release) -> tuple[int, int, float | None]:
        return r.n_levels, r.mesh_size, None if resolution is None else r.resolution

    found, needed = (len(levels), mesh_size, resolution), sizes(release)
    if found != needed:
        like = [r.name for r in RELEASES.values() if r.kind == release.kind and sizes(r) == found]
        load = f'xdiffda.load_model("{like[0]}")' if like else f"xdiffda fetch {release.name}"
        raise ModelError(
            f"{path}: found a network of {_described(*found)}; needed {_described(*needed)} for "
            f"{release.name}; repair: `{load}`"
        )


def _described(n_levels: int, mesh_size: int, resolution: float | None) -> str:
    at = "" if resolution is None else f" at {resolution:g} degrees"
    return f"{n_levels} levels{at} on a mesh refined {mesh_size} times"

"""Published models as this package uses them: forecasters, and GenCast as a prior."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import xarray as xr

from xdiffda.errors import InputError, ModelError, Problem, StorageError
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.fgn import FGNForecaster, read_config
from xdiffda.networks.fgn import load as load_fgn
from xdiffda.networks.gencast import GenCastForecaster
from xdiffda.networks.gencast import load as load_gencast
from xdiffda.networks.graphcast import Forecaster
from xdiffda.networks.graphcast import load as load_graphcast
from xdiffda.options import get_options
from xdiffda.priors.gencast import GenCastPrior
from xdiffda.priors.prior import Prior
from xdiffda.state.grid import Grid, equiangular
from xdiffda.storage.download import Identity, Unreachable, download, read_identity, record_of

# Published GraphCast, GenCast and WeatherNext 2: where their files lie, and on what terms.

BUCKET = "https://storage.googleapis.com/dm_graphcast"
LICENCE = "CC BY 4.0 since 2026-08-06 (before: CC BY-NC-SA 4.0); check the terms beside the weights"

# Configurations of WeatherNext 2 lie beside its code, not in the bucket: in a fixed release of it.
CONFIGURATIONS = (
    "https://raw.githubusercontent.com/google-deepmind/weathernext/v0.3.0/weathernext/"
    "weathernext2/configs"
)
LICENCE_2 = (
    "CC BY 4.0 as stated beside the code of WeatherNext 2; check the terms beside the weights"
)
CITATIONS = {
    "graphcast": "Lam et al. (2023), Learning skillful medium-range global weather forecasting, "
    "Science 382, 1416-1421, doi:10.1126/science.adi2336",
    "gencast": "Price et al. (2024), Probabilistic weather forecasting with machine learning, "
    "Nature 637, 84-90, doi:10.1038/s41586-024-08252-9",
    "weathernext2": "Alet et al. (2025), Skillful joint probabilistic weather forecasting from "
    "marginals, arXiv:2506.10772; Alet et al. (2026), Operational tropical cyclone forecasting "
    "with AI, Nature, doi:10.1038/s41586-026-10953-2",
}

_STATISTICS = {
    "mean": "mean_by_level.nc",
    "stddev": "stddev_by_level.nc",
    "diffs_stddev": "diffs_stddev_by_level.nc",
    "minimum": "min_by_level.nc",
}


@dataclass(frozen=True)
class Release:
    """One published model.

    Parameters
    ----------
    name
        Its name in this package.
    kind
        ``graphcast`` for forecasters, 6 h a step; ``gencast`` for priors, 12 h a step;
        ``weathernext2`` for ensembles of forecasts, 6 h a step.
    params
        Name of the file of weights in the folder ``params``; of several, with ``{seed}`` in it.
    title
        One line for people.
    resolution
        Spacing of the grid, degrees; the grid has rows at the poles.
    n_levels
        Number of pressure levels.
    mesh_size
        How often the finest mesh is refined.
    megabytes
        Size of all weights, about.
    seeds
        Number of independent trainings, each with weights of its own.
    config
        Name of the file of the configuration, where there is one.
    """

    name: str
    kind: Literal["graphcast", "gencast", "weathernext2"]
    params: str
    title: str
    resolution: float
    n_levels: int
    mesh_size: int
    megabytes: float
    licence: str = LICENCE
    seeds: int = 1
    config: str = ""

    @property
    def objects(self) -> dict[str, str]:
        """Paths inside the bucket, by what the files hold."""
        weights = {
            "params" if k == 1 else f"params_{k}": self.params.format(seed=k)
            for k in range(1, self.seeds + 1)
        }
        found = {role: f"{self.kind}/params/{name}" for role, name in weights.items()}
        if self.config:
            return {**found, "config": f"{self.kind}/configs/{self.config}"}
        roles = list(_STATISTICS) if self.kind == "gencast" else list(_STATISTICS)[:3]
        return found | {role: f"{self.kind}/stats/{_STATISTICS[role]}" for role in roles}

    def address(self, role: str, mirror: str | None) -> str:
        """Return the URL of a file."""
        if role == "config" and not mirror:
            return f"{CONFIGURATIONS}/{quote(self.config)}"
        return f"{(mirror or BUCKET).rstrip('/')}/{quote(self.objects[role])}"

    @property
    def citation(self) -> str:
        """The papers to name where the model is used."""
        return CITATIONS[self.kind]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return round(180 / self.resolution) + 1, round(360 / self.resolution)


# Names of the files: the public bucket dm_graphcast, as used by google-deepmind/weathernext.
_TABLE = (
    Release(
        "graphcast-0p25",
        "graphcast",
        "GraphCast - ERA5 1979-2017 - resolution 0.25 - pressure levels 37 - mesh 2to6 - "
        "precipitation input and output.npz",
        "GraphCast of the paper, trained on ERA5 1979 to 2017",
        0.25,
        37,
        6,
        149,
    ),
    Release(
        "graphcast-operational-0p25",
        "graphcast",
        "GraphCast_operational - ERA5-HRES 1979-2021 - resolution 0.25 - pressure levels 13 - "
        "mesh 2to6 - precipitation output only.npz",
        "GraphCast for operational analyses, tuned on HRES to 2021",
        0.25,
        13,
        6,
        147,
    ),
    Release(
        "graphcast-small-1p0",
        "graphcast",
        "GraphCast_small - ERA5 1979-2015 - resolution 1.0 - pressure levels 13 - mesh 2to5 - "
        "precipitation input and output.npz",
        "GraphCast at 1 degree, trained on ERA5 1979 to 2015",
        1.0,
        13,
        5,
        147,
    ),
    Release(
        "gencast-0p25",
        "gencast",
        "GenCast 0p25deg <2019.npz",
        "GenCast of the paper, trained on ERA5 1979 to 2018",
        0.25,
        13,
        6,
        230,
    ),
    Release(
        "gencast-operational-0p25",
        "gencast",
        "GenCast 0p25deg Operational <2022.npz",
        "GenCast for operational analyses, tuned on HRES to 2021",
        0.25,
        13,
        6,
        230,
    ),
    Release(
        "gencast-1p0",
        "gencast",
        "GenCast 1p0deg <2019.npz",
        "GenCast at 1 degree, trained on ERA5 1979 to 2018",
        1.0,
        13,
        5,
        230,
    ),
    Release(
        "gencast-1p0-mini",
        "gencast",
        "GenCast 1p0deg Mini <2019.npz",
        "GenCast at 1 degree on a coarser mesh: for trials",
        1.0,
        13,
        4,
        230,
    ),
    Release(
        "weathernext2-mini-1p0",
        "weathernext2",
        "WeatherNextCyclones_Mini_<2024.npz",
        "WeatherNext 2 (FGN) at 1 degree, a smaller network: trained on data to 2023",
        1.0,
        13,
        5,
        227,
        LICENCE_2,
        config="WeatherNextCyclones_Mini.json",
    ),
    Release(
        "weathernext2-0p25",
        "weathernext2",
        "WeatherNext2_<2025_model{seed}.npz",
        "WeatherNext 2 (FGN), four trainings, for operational analyses: trained on data to 2024",
        0.25,
        13,
        6,
        2940,
        LICENCE_2,
        seeds=4,
        config="WeatherNext2.json",
    ),
)

RELEASES: dict[str, Release] = {release.name: release for release in _TABLE}


def find_release(name: str) -> Release:
    """The published model of this name.

    Raises
    ------
    ModelError
        If there is none, with the names that come near.

    Examples
    --------
    >>> find_release("gencast-1p0-mini").shape
    (181, 360)
    """
    name = str(name)
    if name in RELEASES:
        return RELEASES[name]
    raise ModelError(
        f"no published model {name!r}; {did_you_mean(name, RELEASES)}: "
        f"`xdiffda fetch {nearest(name, RELEASES)[0]}`"
    )


def nearest(name: str, known: object) -> list[str]:
    """Known names, those that are spelt like ``name`` first; all of them where none is.

    Examples
    --------
    >>> nearest("graphcast-025", ["speedy", "graphcast-0p25"])
    ['graphcast-0p25']
    """
    names = list(known)  # type: ignore[call-overload]
    return difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5) or names


def did_you_mean(name: str, known: object) -> str:
    """A clause that offers the names of `nearest`."""
    near, names = nearest(name, known), list(known)  # type: ignore[call-overload]
    return f"known are {', '.join(names)}" if near == names else f"did you mean {', '.join(near)}?"


# Published weights: downloaded once, compared with what their source says, kept in a cache.


@dataclass(frozen=True)
class ReleaseFiles:
    """The paths of a published model's files on this machine.

    Parameters
    ----------
    params
        Weights and settings (``.npz``).
    mean, stddev, diffs_stddev
        Statistics by level (netCDF).
    minimum
        Smallest values by level (netCDF); GenCast only.
    params_2, params_3, params_4
        Weights of further trainings; WeatherNext 2 only.
    config
        Configuration with statistics (``.json``), instead of those of its own; WeatherNext 2 only.
    """

    params: Path
    mean: Path | None = None
    stddev: Path | None = None
    diffs_stddev: Path | None = None
    minimum: Path | None = None
    params_2: Path | None = None
    params_3: Path | None = None
    params_4: Path | None = None
    config: Path | None = None

    @property
    def weights(self) -> tuple[Path, ...]:
        """The weights of all trainings."""
        others = (self.params_2, self.params_3, self.params_4)
        return (self.params, *(path for path in others if path is not None))

    def __iter__(self) -> Iterator[Path]:
        """Iterate over all files."""
        values = (getattr(self, item.name) for item in dataclasses.fields(self))
        return (path for path in values if path is not None)


def fetch(
    name: str,
    *,
    mirror: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> ReleaseFiles:
    """Bring the files of a published model to this machine, unless they are here already.

    The files come from the public bucket of the GraphCast, GenCast and WeatherNext 2 releases
    over plain HTTPS, without an account; configurations of the last come from the repository of
    its code. Their size and digests (crc32c, md5) are compared with those that the server tells;
    an interrupted download goes on where it stopped, in the same call or in a later one; a file
    that was damaged on this disk is brought anew.

    The weights carry a licence of their own, that of `xdiffda.models`: CC BY 4.0 since August
    2026, CC BY-NC-SA 4.0 before. Read the terms beside them on the day of use.

    Parameters
    ----------
    name : str
        A name of `xdiffda.models`, as ``"graphcast-small-1p0"`` or ``"gencast-1p0-mini"``.
    mirror : str or path, optional
        Folder, or address over http or https, that is laid out like the bucket; default the
        option ``mirror``.
        Files of a folder are used where they lie. The folder that a download went to is a
        mirror, also behind any web server, which need not know of digests.
    out : str or path, optional
        Folder to download to, for another machine; default the cache (option ``cache_dir``).
    progress : bool, optional
        Show progress bars; default the option ``progress``.

    Returns
    -------
    ReleaseFiles
        Paths ``params``, ``mean``, ``stddev``, ``diffs_stddev`` and ``minimum``; of WeatherNext 2
        ``params`` (up to ``params_4``) and ``config``.

    Raises
    ------
    ModelError
        If there is no published model of this name.
    InputError
        If ``out`` is given with a mirror that is a folder: there is nothing to download.
    StorageError
        If there is neither a network nor a copy in the cache; if a file is not on the server,
        or is not what the server says; if the disk is full.

    Examples
    --------
    >>> fetch("graphcast-small-1p0", mirror="/no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    xdiffda.errors.StorageError: graphcast-small-1p0: found no folder /no/such/folder; ...
    """
    release, options = find_release(name), get_options()
    mirror = os.fspath(mirror) if mirror is not None else options.mirror
    folder = cache_folder() if out is None else Path(out).expanduser()
    if (place := _folder_of(mirror)) is not None:
        if out is not None:
            problem = Problem(
                f"mirror={mirror!r} and out={os.fspath(out)!r}",
                "a mirror that is an address, or no out",
                f'xdiffda.fetch({name!r}, mirror="", out="FOLDER")',
            )
            raise InputError([problem], what="fetch")
        return _in_place(release, place)
    shown = options.progress if progress is None else progress
    paths = {}
    for role, key in release.objects.items():
        paths[role] = path = folder / local_name(key)
        if not _intact(path):
            _bring(release, release.address(role, mirror), path, progress=shown)
    return ReleaseFiles(**paths)


def cached(name: str) -> bool:
    """Return whether all files of a published model are in the mirror folder or the cache.

    Looks at names and sizes, not at digests.
    """
    release, folder = find_release(name), _folder_of(get_options().mirror) or cache_folder()
    return all(_find(folder, key) for key in release.objects.values())


def _folder_of(mirror: str | None) -> Path | None:
    """The folder that a mirror is; None if it is an address, or there is none."""
    if not mirror or ("://" in mirror and not mirror.startswith("file://")):
        return None
    return Path(mirror.removeprefix("file://")).expanduser()


def cache_folder() -> Path:
    """Return the folder of published weights: a part of the cache, laid out like the bucket."""
    return get_options().cache_dir / "dm_graphcast"


def local_name(key: str) -> str:
    """The name of a bucket's object as a file: some systems know no ``<`` in names.

    Examples
    --------
    >>> local_name("gencast/params/GenCast 1p0deg <2019.npz")
    'gencast/params/GenCast 1p0deg _2019.npz'
    """
    return key.replace("<", "_")


def _in_place(release: Release, folder: Path) -> ReleaseFiles:
    """The files of a mirror folder, compared with their records where it has some."""
    found = {role: _find(folder, key) for role, key in release.objects.items()}
    if not folder.is_dir():
        wrong = [f"no folder {folder}"]
    else:
        wrong = [f"no {release.objects[role]} in it" for role, path in found.items() if not path]
        for path in filter(None, found.values()):
            if mismatch := (read_identity(record_of(path)) or Identity()).mismatch(path):
                wrong.append(f"{path} damaged: {mismatch}")
    if wrong:
        raise StorageError(
            f"{release.name}: found {'; '.join(wrong)}; needed the files of the release in the "
            f"mirror {folder}; repair: `xdiffda fetch {release.name} --out {folder}` on a machine "
            'with a network, or no mirror: xdiffda.set_options(mirror="")'
        )
    return ReleaseFiles(**found)  # type: ignore[arg-type]


def _find(folder: Path, key: str) -> Path | None:
    """A file of the release under its own name or under the one that all systems know."""
    candidates = (folder / key, folder / local_name(key))
    return next((path for path in candidates if path.is_file()), None)


def _intact(path: Path) -> bool:
    """Return whether a complete file is there, with a warning where it is damaged."""
    if not path.is_file():
        return False
    mismatch = (read_identity(record_of(path)) or Identity()).mismatch(path)
    if mismatch:
        warnings.warn(
            f"{path} is damaged ({mismatch}) and is fetched anew", RuntimeWarning, stacklevel=4
        )
    return not mismatch


def _bring(release: Release, url: str, path: Path, *, progress: bool) -> None:
    try:
        download(url, path, progress=progress)
    except Unreachable as error:
        state = "is damaged" if path.exists() else "is not there"
        raise StorageError(
            f"{release.name}: found no way to the weights ({error}), and {path} {state}; needed "
            f"its {len(release.objects)} files, about {release.megabytes:.0f} MB; repair: on a "
            f"machine with a network `xdiffda fetch {release.name} --out FOLDER`, bring FOLDER "
            'here, then `xdiffda.set_options(mirror="FOLDER")` (or XDIFFDA_MIRROR=FOLDER in the '
            "environment); what has arrived is kept for the next call"
        ) from error


class GenCastModel(GenCastPrior, Prior):
    """``xdiffda.gencast.GenCastPrior`` as `assimilate` takes it."""


def is_published(name: object) -> bool:
    """Return whether this is the name of a published model (and of no folder)."""
    return isinstance(name, str | Path) and str(name) in RELEASES and not Path(name).is_dir()


@with_own_jax
def load_published(name: str) -> Forecaster | GenCastModel | FGNForecaster:
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
    """Return the rows of published models in `xdiffda.models`; reads cached names only."""
    return [
        {
            "model": r.name,
            "title": r.title,
            "grid": f"{r.shape[0]} x {r.shape[1]}, {r.n_levels} levels",
            "parameters": f"about {r.megabytes / 4:.0f} million",
            "licence": r.licence,
            "kind": "prior" if r.kind == "gencast" else "forecaster",
            "megabytes": float(r.megabytes),
            "source": "published",
            "cached": cached(r.name),
        }
        for r in RELEASES.values()
    ]


def release_grid(release: Release) -> Grid:
    """The grid of a published model: equiangular, with rows at the poles."""
    return equiangular(*release.shape, poles=True)


@functools.lru_cache(maxsize=2)
def _load(
    release: Release, files: ReleaseFiles, stamp: tuple[tuple[int, int], ...]
) -> Forecaster | GenCastModel | FGNForecaster:
    del stamp  # only tells one version of the files from another
    if release.kind == "weathernext2":
        return _weathernext2(release, files)
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


def _weathernext2(release: Release, files: ReleaseFiles) -> FGNForecaster:
    """The networks of all trainings with the statistics of their configuration."""
    told = read_config(files.config)  # type: ignore[arg-type]
    levels, sizes = told.task.pressure_levels, told.architecture
    _check(release, files.config, levels, sizes.mesh_size)  # type: ignore[arg-type]
    unscaled = {name for name, _ in sizes.shifted_sigmoids}  # between 0 and 1 as they are
    statistics = {"mean": told.mean, "stddev": told.stddev, "diffs_stddev": told.diffs_stddev}
    _check_statistics(release, told.task, statistics, unscaled=unscaled)
    nets = [load_fgn(path, told) for path in files.weights]
    card = {
        "name": release.name,
        "title": release.title,
        "licence": release.licence,
        "citation": release.citation,
        "description": nets[0].checkpoint.description,
        "licence in the file": nets[0].license,
    }
    return FGNForecaster(*nets, grid=release_grid(release), card=card)


def _statistics(path: Path, name: str) -> xr.Dataset:
    try:
        return xr.load_dataset(path)
    except Exception as error:  # every backend has errors of its own
        raise StorageError(
            f"{path}: cannot be read as netCDF ({str(error).splitlines()[0][:200]}); repair: "
            f"delete it and fetch it again, `xdiffda fetch {name}`"
        ) from error


def _check_statistics(
    release: Release,
    task: Any,
    found: Mapping[str, xr.Dataset],
    *,
    unscaled: Collection[str] = (),
) -> None:
    """Check that every variable has statistics: one without would pass unscaled."""
    state = {*task.target_variables} - {*unscaled}
    fed_back = state & {*task.input_variables}
    needed = {"mean": state, "stddev": state, "diffs_stddev": fed_back}
    absent = {role: sorted(names - {*found[role]}) for role, names in needed.items()}
    wrong = [f"{role} without {', '.join(names)}" for role, names in absent.items() if names]
    if wrong:
        raise ModelError(
            f"{release.name}: found {'; '.join(wrong)}; needed statistics of every variable of "
            f"the state; repair: those of the release, by `xdiffda fetch {release.name}`"
        )


def _check(
    release: Release,
    path: Path,
    levels: tuple[int, ...],
    mesh_size: int,
    resolution: float | None = None,
) -> None:
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

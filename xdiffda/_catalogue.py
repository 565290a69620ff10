"""The published GraphCast and GenCast models: where their files lie, and on what terms."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from .errors import ModelError

BUCKET = "https://storage.googleapis.com/dm_graphcast"
LICENCE = "CC BY 4.0 since 2026-08-06 (before: CC BY-NC-SA 4.0); check the terms beside the weights"

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
        ``graphcast`` for forecasters, 6 h a step; ``gencast`` for priors, 12 h a step.
    params
        Name of the file of weights in the folder ``params``.
    title
        One line for people.
    resolution
        Spacing of the grid, degrees; the grid has rows at the poles.
    n_levels
        Number of pressure levels.
    mesh_size
        How often the finest mesh is refined.
    megabytes
        Size of the weights, about.
    """

    name: str
    kind: Literal["graphcast", "gencast"]
    params: str
    title: str
    resolution: float
    n_levels: int
    mesh_size: int
    megabytes: float
    licence: str = LICENCE

    @property
    def objects(self) -> dict[str, str]:
        """Paths inside the bucket, by what the files hold."""
        roles = list(_STATISTICS) if self.kind == "gencast" else list(_STATISTICS)[:3]
        statistics = {role: f"{self.kind}/stats/{_STATISTICS[role]}" for role in roles}
        return {"params": f"{self.kind}/params/{self.params}", **statistics}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return round(180 / self.resolution) + 1, round(360 / self.resolution)


# Names of the files: the public bucket dm_graphcast, as used by google-deepmind/weathernext.
_TABLE = (
    Release(
        "graphcast-0p25", "graphcast",
        "GraphCast - ERA5 1979-2017 - resolution 0.25 - pressure levels 37 - mesh 2to6 - "
        "precipitation input and output.npz",
        "GraphCast of the paper, trained on ERA5 1979 to 2017", 0.25, 37, 6, 149,
    ),
    Release(
        "graphcast-operational-0p25", "graphcast",
        "GraphCast_operational - ERA5-HRES 1979-2021 - resolution 0.25 - pressure levels 13 - "
        "mesh 2to6 - precipitation output only.npz",
        "GraphCast for operational analyses, tuned on HRES to 2021", 0.25, 13, 6, 147,
    ),
    Release(
        "graphcast-small-1p0", "graphcast",
        "GraphCast_small - ERA5 1979-2015 - resolution 1.0 - pressure levels 13 - mesh 2to5 - "
        "precipitation input and output.npz",
        "GraphCast at 1 degree, trained on ERA5 1979 to 2015", 1.0, 13, 5, 147,
    ),
    Release(
        "gencast-0p25", "gencast", "GenCast 0p25deg <2019.npz",
        "GenCast of the paper, trained on ERA5 1979 to 2018", 0.25, 13, 6, 230,
    ),
    Release(
        "gencast-operational-0p25", "gencast", "GenCast 0p25deg Operational <2022.npz",
        "GenCast for operational analyses, tuned on HRES to 2021", 0.25, 13, 6, 230,
    ),
    Release(
        "gencast-1p0", "gencast", "GenCast 1p0deg <2019.npz",
        "GenCast at 1 degree, trained on ERA5 1979 to 2018", 1.0, 13, 5, 230,
    ),
    Release(
        "gencast-1p0-mini", "gencast", "GenCast 1p0deg Mini <2019.npz",
        "GenCast at 1 degree on a coarser mesh: for trials", 1.0, 13, 4, 230,
    ),
)  # fmt: skip

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

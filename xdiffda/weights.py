"""Published weights: downloaded once, compared with what their source says, kept in a cache."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ._catalogue import BUCKET, Release, find_release
from ._download import Unreachable, download
from ._identity import Identity, read_identity, record_of
from .errors import InputError, Problem, StorageError
from .options import get_options

__all__ = ["ReleaseFiles", "fetch"]


@dataclass(frozen=True)
class ReleaseFiles:
    """Where the files of a published model lie on this machine.

    Parameters
    ----------
    params
        Weights and settings (``.npz``).
    mean, stddev, diffs_stddev
        Statistics by level (netCDF).
    minimum
        Smallest values by level (netCDF); GenCast only.
    """

    params: Path
    mean: Path
    stddev: Path
    diffs_stddev: Path
    minimum: Path | None = None

    def __iter__(self) -> Iterator[Path]:
        """All the files."""
        values = (getattr(self, item.name) for item in dataclasses.fields(self))
        return (path for path in values if path is not None)


def fetch(
    name: str, *, mirror: str | os.PathLike | None = None, out: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> ReleaseFiles:  # fmt: skip
    """Bring the files of a published model to this machine, unless they are here already.

    The files come from the public bucket of the GraphCast and GenCast release over plain
    HTTPS, without an account. Their size and digests (crc32c, md5) are compared with those
    that the server tells; an interrupted download goes on where it stopped, in the same call or
    in a later one; a file that was damaged on this disk is brought anew.

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
        Paths ``params``, ``mean``, ``stddev``, ``diffs_stddev`` and ``minimum``.

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
    source = (mirror or BUCKET).rstrip("/")
    shown = options.progress if progress is None else progress
    paths = {}
    for role, key in release.objects.items():
        paths[role] = path = folder / local_name(key)
        if not _intact(path):
            _bring(release, f"{source}/{quote(key)}", path, progress=shown)
    return ReleaseFiles(**paths)


def cached(name: str) -> bool:
    """Whether all files of a published model are here: in the mirror folder or in the cache.

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
    """Where published weights are kept: a part of the cache that is laid out like the bucket."""
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
    """Whether a complete file is there; says so where it is there but damaged."""
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

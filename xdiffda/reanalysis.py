"""Analyses of many times, and cycled streams side by side, in stores that resume.

Works in this process, or on a `dask.distributed` cluster; a worker lost in the middle costs the
work it had in hand and nothing that is in a store.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import xarray as xr

from xdiffda import registry
from xdiffda._analyses_checks import need_observations, need_times, need_written, same_input
from xdiffda._analyses_record import account, describe, state_digest, template, tidy_digest
from xdiffda._backgrounds import Backgrounds, read_backgrounds
from xdiffda._cluster import Task, check_client, run_tasks
from xdiffda._coordinates import find_axes
from xdiffda._cycle_config import Assimilation, assimilation_settings
from xdiffda._flags import with_labels
from xdiffda._icechunk_store import as_store
from xdiffda._jax_settings import with_own_jax
from xdiffda._region_store import Store
from xdiffda._regions import COMPLETE
from xdiffda._settings import check_settings
from xdiffda._stream import Source, make_source
from xdiffda._streams import open_streams, run_streams
from xdiffda.analysis import assimilate
from xdiffda.errors import InputError, Problem, StorageError
from xdiffda.options import get_options
from xdiffda.prior import Prior

__all__ = ["assimilate_store", "open_analyses", "open_streams", "run_streams"]


@with_own_jax
def assimilate_store(
    background: xr.Dataset,
    obs: Any,
    *,
    out: str | os.PathLike | Any,
    n_members: int = 8,
    seed: int = 0,
    model: str | Prior | None = None,
    settings: Assimilation | Mapping[str, Any] | None = None,
    client: Any = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Analyse every time of a background into a store; the same call resumes.

    Each analysis is that of `xdiffda.assimilate` for its time and the same seed. It is written
    as soon as it is made and complete or absent, whatever kills the process that writes it;
    calling again does what is missing. Times do not depend on each other, so they may be
    spread over a cluster.

    Parameters
    ----------
    background : Dataset
        States along time, in any usual convention; lazy (`xdiffda.open_dataset`) so that each
        worker reads its own.
    obs : Dataset, DataFrame or callable
        Observations of all times, in columns or tidy; or a callable from a time to the
        observations of its window, such as `xdiffda.cycle.emulated_stream`.
    out : path or icechunk.Repository
        Zarr store, ``.zarr``, in a folder that all workers see. Or an icechunk repository, in
        which each analysis is one commit on the branch ``main``: the object, wherever it
        stores, or ``"icechunk://FOLDER"`` for one on a disk (extra ``icechunk``).
    n_members, seed, model
        As in `xdiffda.assimilate`. On a cluster, a name is loaded by each worker for itself; a
        prior is sent with every task.
    settings : Assimilation or mapping, optional
        Other settings of `assimilate`; the window is 6 h by default.
    client : distributed.Client, optional
        The cluster; default this process.
    progress : bool, optional
        Show a progress bar; default the option ``progress``.

    Returns
    -------
    Dataset
        The store as `open_analyses` shows it.

    Raises
    ------
    InputError
        If input or settings do not fit, a time has no observation, or the store is that of
        other settings, another version or other input (background and observations of three
        of its times are compared); it is left as it is then.
    StorageError
        If the store cannot be written (by a cluster: a repository in memory), or, at the end, if
        some times failed: all others are in the store then.

    Examples
    --------
    >>> import tempfile, xdiffda
    >>> truth, background = xdiffda.open_sample("truth"), xdiffda.open_sample("background")
    >>> analyses = assimilate_store(
    ...     background.isel(time=slice(2)), xdiffda.cycle.emulated_stream(truth, n_columns=45),
    ...     out=tempfile.mkdtemp() + "/analyses.zarr", settings={"method": "3dvar"},
    ...     progress=False)
    >>> analyses["n_obs_used"].sizes["time"]
    2
    """
    store, prior = as_store(out), registry.resolve(model)
    if client is not None:
        store.need_shared()
        check_client(client)
    keywords = _keywords(settings)
    checked = check_settings(prior, n_members=n_members, seed=seed, **keywords)
    backgrounds = read_backgrounds(background, prior.layout, checked)
    convention = backgrounds.convention
    need_times(background, backgrounds.times, convention.batch_dims)
    dim = str(convention.axes["time"].dim)
    source, stamps = make_source(obs, checked.window)
    need_observations(stamps, backgrounds.times, checked.window, dim)
    # a table may have a description too, in words: whoever made it, or a column
    config = describe(backgrounds, prior, checked, obs if callable(obs) else None)
    if not store.exists():
        store.create(template(backgrounds, prior, checked, dim), dim, config)
    store.check_config(config)
    same_input(store, backgrounds, source, prior)
    missing = store.missing_times()
    name = model if isinstance(model, str) else model or get_options().default_model
    job = Job(store, dim, name, config["version"], n_members, seed, keywords)
    wanted = get_options().progress if progress is None else progress
    run_tasks(
        analyse_one, _tasks(job, backgrounds, source, missing), client, total=len(missing),
        what="assimilate", progress=wanted,
    )  # fmt: skip
    done = store.read_array(COMPLETE) == 1
    need_written(store, [i for i in missing if not done[i]], backgrounds)
    return open_analyses(store)


def open_analyses(out: str | os.PathLike | Any) -> xr.Dataset:
    """Open a store of `assimilate_store`, also while it grows; shows complete times only.

    ``xarray.open_zarr`` on the same path shows all times, and a variable ``complete`` that says
    which to trust.

    Parameters
    ----------
    out : path or icechunk.Repository
        As in `assimilate_store`.

    Returns
    -------
    Dataset
        Lazy, along the time of the background: the analysis under the names of the background;
        and of each time ``n_obs_used``, ``n_obs_rejected`` (by ``reason``),
        ``background_error`` (scale r), and digests of its background and observations.

    Raises
    ------
    StorageError
        If there is no such store.
    """
    store = as_store(out)
    return with_labels(store.open_complete(store.read_config()["dim"]))


def has_times(background: xr.Dataset) -> bool:
    """Whether a background has more than one state along time; computes nothing."""
    axis = find_axes(background)[0].get("time")
    return axis is not None and axis.dim is not None and background.sizes[axis.dim] > 1


@dataclasses.dataclass(frozen=True)
class Job:
    """What the analyses of a store have in common; goes to the workers."""

    store: Store
    dim: str
    model: str | Prior
    version: str
    n_members: int
    seed: int
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Input:
    """One state, lazy where the background is, and the observations of its window.

    Opaque to dask, which would otherwise look for tasks of its own inside.
    """

    state: xr.Dataset
    tidy: xr.Dataset | None


@with_own_jax
def analyse_one(job: Job, i: int, given: Input) -> None:
    """Analyse the time of number ``i`` and commit it: one task of a cluster."""
    import dask

    from xdiffda import __version__

    if __version__ != job.version:
        raise StorageError(
            f"{job.store.name}: this worker has xdiffda {__version__}, the store is of "
            f'{job.version}; repair: `pip install "xdiffda=={job.version}"` on the workers'
        )
    if given.tidy is None:
        raise InputError(
            [Problem("no observation in its window", "at least one",
                     "background.drop_sel(time=...)")], what="observations",
        )  # fmt: skip
    with dask.config.set(scheduler="synchronous"):  # a task must not wait for other tasks
        state = given.state.load()
    analysis = assimilate(
        state, given.tidy, n_members=job.n_members, seed=job.seed, model=job.model,
        progress=False, **job.settings,
    )  # fmt: skip
    observed = {
        "used": json.loads(analysis.attrs["xdiffda_observations_used"])[0],
        "rejected": json.loads(analysis.attrs["xdiffda_observations_rejected"])[0],
        "r": json.loads(analysis.attrs["xdiffda_background_error"])[0],
    }
    digests = state_digest(state, registry.resolve(job.model)), tidy_digest(given.tidy)
    record = analysis.merge(account(observed, digests, job.dim))
    job.store.write_time(i, record, job.dim)


def _keywords(settings: Assimilation | Mapping[str, Any] | None) -> dict[str, Any]:
    """All keywords of `assimilate` but those that are arguments here."""
    signature = inspect.signature(assimilate).parameters.values()
    keywords = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    keywords |= assimilation_settings(settings, assimilate, "6h", call="assimilate_store")
    # inflation goes from one cycle to the next, and times here know nothing of each other
    for own in ("n_members", "seed", "model", "progress", "inflation_factor"):
        keywords.pop(own)
    if keywords["withhold"]:
        raise InputError(
            [Problem(f"withhold={keywords['withhold']!r}", "observations to be used",
                     "xdiffda.verify.split_obs(obs, 0.1)")], what="settings of assimilate_store",
        )  # fmt: skip
    return keywords


def _tasks(
    job: Job, backgrounds: Backgrounds, source: Source, missing: list[int]
) -> Iterator[Task]:
    """One task for each time, made when it is its turn."""
    for i in missing:
        name = str(backgrounds.times[i])[:16]
        given: tuple | Exception
        try:
            given = (job, i, Input(backgrounds.at(i), source(backgrounds.times[i]).tidy))
        except Exception as error:  # the observations are anybody's function
            given = error
        yield name, given

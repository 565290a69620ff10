"""Analyses of many times, and cycled streams side by side, in stores that resume.

Works in this process, or on a `dask.distributed` cluster; a worker lost in the middle costs the
work it had in hand and nothing that is in a store.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr

from xdiffda.assimilation.assimilate import Backgrounds, read_backgrounds, run_assimilation
from xdiffda.assimilation.settings import Settings
from xdiffda.cycling.config import Assimilation, assimilation_settings
from xdiffda.cycling.observation_stream import Source, duration, make_source
from xdiffda.cycling.plan import prior_digest
from xdiffda.cycling.record import account as observations_account
from xdiffda.cycling.streams import open_streams, run_streams
from xdiffda.errors import InputError, Problem, StorageError, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.options import get_options
from xdiffda.priors import registry
from xdiffda.priors.prior import Prior
from xdiffda.state.clock import role_of
from xdiffda.state.convert import from_state, read_metadata, to_state
from xdiffda.state.coordinates import find_axes
from xdiffda.storage.files import digest
from xdiffda.storage.flags import with_flags, with_labels
from xdiffda.storage.icechunk import as_store
from xdiffda.storage.regions import COMPLETE, Store
from xdiffda.storage.tasks import Task, check_client, run_tasks

__all__ = ["assimilate_store", "open_analyses", "open_streams", "run_streams"]


# What a store of analyses keeps besides the states: what it was made of, for every time.

DIGESTS = {"background_digest": "of the background state", "obs_digest": "of its observations"}


def describe(
    backgrounds: Backgrounds, prior: Prior, settings: Settings, obs: Any
) -> dict[str, Any]:
    """Return what identifies a store, as plain JSON."""
    from xdiffda import __version__

    convention = backgrounds.convention
    plain = settings.provenance()
    plain.pop("max_batch", None)  # no member depends on its group
    times = np.array(backgrounds.times, "datetime64[s]")
    return {
        "format": 1,
        "version": __version__,
        "dim": str(convention.axes["time"].dim),
        "model": f"{prior.name} {prior_digest(prior)}",
        "variables": [field.user_name for field in convention.fields],
        "times": f"{times.size} from {times[0]} to {times[-1]} {digest(times)}",
        "observations": dict(getattr(obs, "description", {})) or None,
        "n_members": plain.pop("n_members"),
        "seed": plain.pop("seed"),
        **{f"settings.{name}": value for name, value in plain.items()},
    }


def provenance(prior: Prior, settings: Settings) -> dict[str, Any]:
    from xdiffda import __version__

    return {
        "title": "analyses",
        "xdiffda_version": __version__,
        "xdiffda_jax_version": jax.__version__,
        "xdiffda_model": prior.name,
        "xdiffda_method": settings.method.name,
        "xdiffda_seed": settings.seed,
    }


def template(backgrounds: Backgrounds, prior: Prior, settings: Settings, dim: str) -> xr.Dataset:
    """The store's variables at full length, lazy where they depend on time."""
    import dask.array

    n_members = settings.method.n_members(settings.n_members, backgrounds.n_member)
    first = read_metadata(backgrounds.at(0), prior.layout)
    blank = np.zeros((1, 1, *prior.scale.shape), np.float32)
    one = from_state(blank, prior.layout, first, dims=("member", "time"))
    one = one.merge(account({"used": 0, "rejected": {}, "r": np.nan}, (0, 0), dim))
    member = str(first.axes["member"].dim) if "member" in first.axes else "member"
    sizes = {dim: len(backgrounds), member: n_members}

    def lengthen(variable: xr.DataArray) -> xr.Variable:
        if not {dim, member} & set(variable.dims):
            return variable.variable
        shape = [sizes.get(str(d), n) for d, n in variable.sizes.items()]
        values = dask.array.zeros(shape, dtype=variable.dtype, chunks=-1)
        return xr.Variable(variable.dims, values, variable.attrs)

    known = backgrounds.convention.template.coords
    coords: dict[Any, Any] = {name: c.variable for name, c in one.coords.items()}
    coords |= {name: known[name].variable for name in coords if dim in coords[name].dims}
    coords[member] = (member, np.arange(n_members), dict(one[member].attrs))
    variables = {name: lengthen(v) for name, v in one.data_vars.items()}
    return xr.Dataset(variables, coords, one.attrs | provenance(prior, settings))


def account(observed: Mapping[str, Any], digests: tuple[int, int], dim: str) -> xr.Dataset:
    """Return the counts and the r of one analysis, along ``dim``."""
    record = with_flags(observations_account(observed))
    for (name, what), value in zip(DIGESTS.items(), digests, strict=True):
        record[name] = (), np.int64(value), {"long_name": f"digest {what}"}
    return record.expand_dims({dim: 1})


def state_digest(state: xr.Dataset, prior: Prior) -> int:
    return _number(digest(to_state(state, prior.layout)[0]))


def tidy_digest(tidy: xr.Dataset) -> int:
    parts = [
        tidy[n].values.astype("U" if tidy[n].dtype.kind == "O" else tidy[n].dtype)
        for n in sorted(map(str, tidy.variables))
    ]
    return _number(digest(*parts))


def _number(hexadecimal: str) -> int:
    """Return the same 64 bits as a signed integer."""
    return int(np.array(int(hexadecimal, 16), np.uint64).astype(np.int64))


# What `xdiffda.assimilate_store` asks of its input, and of a store that is there already.


def need_times(background: xr.Dataset, times: list[Any], dims: tuple[str, ...]) -> None:
    """Raise unless a background has one axis of valid times, each of them once."""
    problems = []
    if "lead_time" in dims:
        lead = next(str(d) for d in background.dims if role_of(str(d), {}) == "lead")
        problems.append(
            Problem(
                f"a background along {', '.join(dims)}",
                "one valid time after another along the dimension time",
                f"background.isel({lead}=0)",
            )
        )
    elif "time" not in dims:
        problems.append(
            Problem(
                f"a background along {', '.join(dims) or 'no time'}",
                "one valid time after another along the dimension time",
                'background.expand_dims("time")',
            )
        )
    elif any(t is None or np.isnat(t) for t in times) or len(set(times)) != len(times):
        problems.append(
            Problem(
                "times that are missing or not unique",
                "a valid time for each state",
                'background.drop_duplicates("time")',
            )
        )
    if problems:
        raise InputError(problems, what="background")


def need_written(store: Store, lost: list[int], backgrounds: Backgrounds) -> None:
    """Raise where an analysis was written by its account, and is not in the store."""
    if lost:
        shown = ", ".join(str(backgrounds.times[i])[:16] for i in lost[:5])
        raise StorageError(
            f"{store.name}: {len(lost)} analyses were written and are missing now: {shown}"
            f"{', ...' if len(lost) > 5 else ''}; another process has overwritten them, or a "
            "worker does not see this folder; repair: keep the store where all workers see the "
            "same files, and make the same call again, which resumes"
        )


def need_observations(stamps: np.ndarray | None, times: list[Any], window: Any, dim: str) -> None:
    """Raise where a table of observations has none for a time."""
    if stamps is None:
        return
    half, at = duration(window) / 2, np.array(times, "datetime64[ns]")
    stamps = np.sort(stamps)
    count = np.searchsorted(stamps, at + half, "right") - np.searchsorted(
        stamps, at - half, "right"
    )
    count += np.isin(at, stamps)
    empty = [str(t)[:16] for t in at[count <= 0]]
    if empty:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise InputError(
            [
                Problem(
                    f"no observation within {window} around {len(empty)} times: {shown}",
                    "at least one for each",
                    f"background.drop_sel({dim}=[{empty[0]!r}])",
                )
            ],
            what="observations",
        )


def same_input(store: Store, backgrounds: Backgrounds, source: Source, prior: Prior) -> None:
    """Compare the first, the middle and the last complete time with what they were made of."""
    import dask

    done = np.flatnonzero(store.read_array(COMPLETE) == 1)
    problems = []
    for i in sorted({int(done[k]) for k in (0, done.size // 2, -1)} if done.size else ()):
        with dask.config.set(scheduler="synchronous"):
            state = state_digest(backgrounds.at(i), prior)
        tidy = source(backgrounds.times[i]).tidy
        found = {"background": state, "obs": None if tidy is None else tidy_digest(tidy)}
        for name, own in found.items():
            if own != int(store.read_array(f"{name}_digest")[i]):
                what = "another background" if name == "background" else "other observations"
                problems.append(
                    Problem(
                        f"{what} at {str(backgrounds.times[i])[:16]} than those of the "
                        f"analysis in {store.name}",
                        "the same, or another store",
                        f"assimilate_store(..., out={store.another})",
                    )
                )
    raise_if(problems, what="existing store, which is left as it is")


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
        observations of its window, such as `xdiffda.cycling.cycle.emulated_stream`.
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
    store, prior = as_store(out), registry.choose(model, background).prior
    if client is not None:
        store.need_shared()
        check_client(client)
    chosen = assimilation_settings(settings, "6h", call="assimilate_store")
    if chosen.withhold:
        raise InputError(
            [
                Problem(
                    f"withhold={chosen.withhold!r}",
                    "observations to be used",
                    "xdiffda.verify.split_obs(obs, 0.1)",
                )
            ],
            what="settings of assimilate_store",
        )
    asked = chosen.settings(n_members=n_members, seed=seed)
    checked = asked.for_prior(prior)
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
    # a name where there is one: every worker then loads the model by itself
    default = get_options().default_model
    name = model or (default if prior.name == default else prior)
    job = Job(store, dim, name, config["version"], asked)
    wanted = get_options().progress if progress is None else progress
    run_tasks(
        analyse_one,
        _tasks(job, backgrounds, source, missing),
        client,
        total=len(missing),
        what="assimilate",
        progress=wanted,
    )
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
    """Return whether a background has several states along time, without computing anything."""
    axis = find_axes(background)[0].get("time")
    return axis is not None and axis.dim is not None and background.sizes[axis.dim] > 1


@dataclasses.dataclass(frozen=True)
class Job:
    """The settings that all analyses of a store share; sent to the workers."""

    store: Store
    dim: str
    model: str | Prior
    version: str
    settings: Settings


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
            [Problem("no observation in its window", "at least one, or a store without it", "")],
            what="observations",
        )
    with dask.config.set(scheduler="synchronous"):  # a task must not wait for other tasks
        state = given.state.load()
    analysis = run_assimilation(
        state, given.tidy, job.settings, model=job.model, progress=False
    ).analysis
    observed = {
        "used": json.loads(analysis.attrs["xdiffda_observations_used"])[0],
        "rejected": json.loads(analysis.attrs["xdiffda_observations_rejected"])[0],
        "r": json.loads(analysis.attrs["xdiffda_background_error"])[0],
    }
    digests = state_digest(state, registry.resolve(job.model)), tidy_digest(given.tidy)
    record = analysis.merge(account(observed, digests, job.dim))
    job.store.write_time(i, record, job.dim)


def _tasks(
    job: Job, backgrounds: Backgrounds, source: Source, missing: list[int]
) -> Iterator[Task]:
    """Yield one task for each time, made only when it is due."""
    for i in missing:
        name = str(backgrounds.times[i])[:16]
        given: tuple | Exception
        try:
            given = (job, i, Input(backgrounds.at(i), source(backgrounds.times[i]).tidy))
        except Exception as error:  # the observations are anybody's function
            given = error
        yield name, given

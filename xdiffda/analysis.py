"""Assimilation: a background and observations in, an ensemble of analyses out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda import _innovations as innovations
from xdiffda import registry
from xdiffda.diffusion.guidance import Likelihood, choose_covariance, make_draws
from xdiffda.diffusion.sampling import Conditioned, Guidance, sample_posterior, three_d_var
from xdiffda.errors import InputError, Problem
from xdiffda.observations import to_tidy
from xdiffda.options import get_options
from xdiffda.prior import Prior
from xdiffda.state import Convention, from_state, to_state

METHODS = ("guided", "3dvar")


def assimilate(
    background: xr.Dataset,
    obs: Any,
    *,
    n_members: int = 8,
    model: str | Prior | None = None,
    method: str = "guided",
    n_steps: int = 8,
    start: str = "warm",
    sampler: str = "dpm-solver",
    covariance: str | None = None,
    background_error: float | str = "estimate",
    window: str | np.timedelta64 = "6h",
    gross_check: float = 10.0,
    antithetic: bool = False,
    max_batch: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> xr.Dataset:
    """Draw an ensemble of analyses from p(x | background, observations).

    Parameters
    ----------
    background : Dataset
        Prior state, usually a short forecast, in any usual convention; with a dimension
        ``time``, one analysis is made for each time.
    obs : Dataset or DataFrame
        Observations in columns or in tidy form (see the page on conventions), with errors.
    n_members : int
        Members drawn. Member i is the same whatever ``n_members`` is.
    model : str or Prior, optional
        Name of a model (`xdiffda.models`) or a prior; default the option
        ``default_model``.
    method : {"guided", "3dvar"}
        Guided: posterior sampling with the diffusion prior. 3dvar: the mean of the Gaussian
        posterior with the model's B, one member.
    n_steps : int
        Network evaluations for each member.
    start : {"warm", "cold"}
    sampler : {"dpm-solver", "heun"}
    covariance : {"calibrated", "climatological", "jacobian", "diagonal"}, optional
        V of the Kalman update of guidance; default what the model has measured.
    background_error : float or "estimate"
        Scale r of the background error, in units of the model's s (its 48 h forecasts);
        estimated from the innovations by default.
    window : str or timedelta64
        Width of the window around each analysis time; observations outside are rejected.
    gross_check : float
        Observations whose innovation exceeds so many expected standard deviations are
        rejected.
    antithetic : bool
        Draw members in pairs of opposite perturbations: each is a draw from the posterior,
        and the mean of few members has far less sampling error, but members are no longer
        independent (rank histograms and fair scores assume they are).
    max_batch : int
        Members computed together; bounds the memory.
    seed : int
        Same seed, same analysis: across processes and batch sizes.
    progress : bool, optional
        Show a progress bar; default the option ``progress``.

    Returns
    -------
    Dataset
        As the background, with the dimension ``member`` in front. Provenance in the
        attributes that begin with ``xdiffda_``.

    Raises
    ------
    InputError
        If background, observations or settings do not fit, with all problems at once.

    Notes
    -----
    Method: Huang et al. (2024), DiffDA, arXiv 2401.05932, for the conditioning on the
    background; Rozet et al. (2024), arXiv 2405.13712, for guidance by a Gaussian
    approximation of p(z0 | z_sigma); the spectral covariances and the warm start are ours.

    Examples
    --------
    >>> import xdiffda
    >>> truth, background = xdiffda.open_sample("truth"), xdiffda.open_sample("background")
    >>> obs = truth.isel(time=0).diffda.emulate_obs(n_columns=100)
    >>> analysis = background.isel(time=0).diffda.assimilate(obs, n_members=2, n_steps=3)
    >>> analysis.sizes["member"]
    2
    """
    prior = registry.resolve(model)
    guidance = _settings(prior, locals())
    x_b, convention, times = _read_background(background, prior)
    tidy = to_tidy(obs)
    n_members = 1 if method == "3dvar" else n_members
    groups = -(-n_members // max_batch)
    bar = _Bar(len(times), groups, guidance, method, progress)
    members, records = [], []
    with bar:
        for state, time in zip(x_b, times, strict=True):
            likelihood, r, record = innovations.observe(
                tidy,
                prior,
                state,
                time,
                window=window,
                gross_check=gross_check,
                background_error=background_error,
            )
            conditioned = prior.condition(state, time, r)
            key = jax.random.fold_in(jax.random.key(seed), _stamp(time))
            if method == "3dvar":
                z = three_d_var(prior.covariance, likelihood, solver=guidance.solver)
                bar.tick()
            else:
                z = _draw(
                    conditioned,
                    likelihood,
                    key,
                    np.arange(n_members),
                    max_batch,
                    antithetic,
                    covariance or prior.default_covariance,
                    guidance,
                    bar.tick,
                )
            members.append(state[None] + r * prior.scale[None] * np.moveaxis(np.asarray(z), 1, 0))
            records.append(record)
    return _dataset(
        np.stack(members), convention, prior, records,
        {"method": method, "seed": seed, "antithetic": antithetic,
         "evaluations": guidance.evaluations if method == "guided" else 0,
         "guidance": dataclasses.asdict(guidance),
         "covariance": covariance or prior.default_covariance},
    )  # fmt: skip


def _settings(prior: Prior, given: dict[str, Any]) -> Guidance:
    """Check the settings as a whole and return them as a frozen object."""
    problems = []
    if given["method"] not in METHODS:
        problems.append(
            Problem(f"method={given['method']!r}", f"one of {', '.join(METHODS)}",
                    'assimilate(obs, method="guided")')
        )  # fmt: skip
    for name in ("n_members", "max_batch"):
        if not isinstance(given[name], int | np.integer) or given[name] < 1:
            problems.append(
                Problem(f"{name}={given[name]!r}", "a whole number of 1 or more",
                        f"assimilate(obs, {name}=8)")
            )  # fmt: skip
    r = given["background_error"]
    if r != "estimate" and not (isinstance(r, int | float) and 0 < r < np.inf):
        problems.append(
            Problem(f"background_error={r!r}", 'a positive number or "estimate"',
                    "assimilate(obs, background_error=1.0)")
        )  # fmt: skip
    guidance = Guidance()
    try:
        guidance = Guidance(
            start=given["start"], n_steps=given["n_steps"], sampler=given["sampler"]
        )
        name = given["covariance"] or prior.default_covariance
        has_table = prior.default_covariance == "calibrated"
        if name == "calibrated" and not has_table:
            raise ValueError("this model has no measured V: covariance='climatological'")
        if name != "calibrated":
            choose_covariance(name, prior.covariance, None)
    except ValueError as error:
        problems.append(Problem(str(error), "settings that fit together", "assimilate(obs)"))
    if problems:
        raise InputError(problems, what="settings of assimilate")
    return guidance


def _read_background(
    background: xr.Dataset, prior: Prior
) -> tuple[Float[np.ndarray, "time node channel"], Convention, list[np.datetime64 | None]]:
    x, _, convention = to_state(background, prior.layout, what="background")
    extra = [d for d in convention.batch_dims if d != "time"]
    if extra:
        raise InputError(
            [Problem(f"a background with the dimension {', '.join(extra)}",
                     "one state for each time",
                     f'background.mean("{extra[0]}")')], what="background",
        )  # fmt: skip
    times = innovations.valid_times(convention)
    return x.reshape(-1, *x.shape[-2:]), convention, times


def _draw(
    prior: Conditioned, likelihood: Likelihood, key: Array, numbers: np.ndarray, batch: int,
    antithetic: bool, covariance: str, guidance: Guidance, tick: Callable[[], None],
) -> Float[np.ndarray, "node member channel"]:  # fmt: skip
    """Draw the members of given numbers, ``batch`` at a time."""
    groups = []
    for first in range(0, len(numbers), batch):
        members = jnp.asarray(numbers[first : first + batch])
        draws = make_draws(key, members, antithetic=antithetic)
        z = sample_posterior(
            prior, likelihood, draws, covariance=covariance, guidance=guidance, tick=tick
        )
        groups.append(np.asarray(z))
    return np.concatenate(groups, axis=1)


def _dataset(
    members: Float[np.ndarray, "time member node channel"], convention: Convention, prior: Prior,
    records: list[dict[str, Any]], settings: dict[str, Any],
) -> xr.Dataset:  # fmt: skip
    from xdiffda import __version__

    if "time" in convention.batch_dims:
        x, dims = np.moveaxis(members, 1, 0), ("member", "time")
    else:
        x, dims = members[0], ("member",)
    analysis = from_state(x, prior.layout, convention, dims=dims)
    used = [r["used"] for r in records]
    analysis.attrs |= {
        "xdiffda_version": __version__,
        "xdiffda_jax_version": jax.__version__,
        "xdiffda_model": prior.name,
        "xdiffda_method": settings["method"],
        "xdiffda_seed": settings["seed"],
        "xdiffda_settings": json.dumps(settings),
        "xdiffda_network_evaluations": settings["evaluations"],
        "xdiffda_observations_used": used,
        "xdiffda_observations_rejected": json.dumps([r["rejected"] for r in records]),
        "xdiffda_background_error": [round(r["r"], 4) for r in records],
    }
    return analysis


def _stamp(time: np.datetime64 | None) -> int:
    """A stable 31-bit number of an analysis time, to derive its random key."""
    if time is None or np.isnat(time):
        return 0
    return int(np.asarray(time, "datetime64[m]").astype(np.int64) % (2**31 - 1))


class _Bar:
    """Progress over noise levels, member groups and analysis times; silent when not wanted."""

    def __init__(
        self, n_time: int, groups: int, guidance: Guidance, method: str, wanted: bool | None
    ) -> None:
        total = n_time * (groups * guidance.evaluations if method == "guided" else 1)
        wanted = get_options().progress if wanted is None else wanted
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc="assimilate", unit="level", disable=not wanted)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tick(self) -> None:
        self._bar.update()

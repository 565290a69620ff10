"""4D: one state that fits the observations of a whole window through the forecaster.

The forecaster is a network, so its tangent and adjoint come for nothing: observations of
later times are functions of the state at the start of the window, and both 4D-Var (strong
constraint; Le Dimet & Talagrand 1986; outer loops of Courtier et al. 1994) and guidance of
the diffusion prior (Rozet & Louppe 2023, arXiv 2306.10574, guide whole trajectories; here
the forecaster links the times) follow with the likelihood of `TrajectoryRows`.  Beside it, for
comparison and where a forecaster has no derivatives: first guess at appropriate time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda.assimilation.methods import Guided, Method
from xdiffda.assimilation.one_time import rounded, warn_of_residual
from xdiffda.assimilation.settings import Settings
from xdiffda.covariance.draws import make_draws
from xdiffda.cycling.observation_stream import duration, time_seed
from xdiffda.cycling.rollout import STEP, load_rollout
from xdiffda.cycling.window import DYNAMICS, TrajectoryRows, window_likelihood
from xdiffda.diffusion.kalman import Solver, update
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.posterior import sample_posterior
from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations import to_tidy
from xdiffda.observations.quality import QUALITY, Quality
from xdiffda.options import get_options
from xdiffda.priors import registry
from xdiffda.priors.prior import Prior
from xdiffda.state.convention import Convention
from xdiffda.state.convert import from_state, to_state
from xdiffda.state.grid import Layout

__all__ = ["TrajectoryRows", "assimilate_window", "window_likelihood"]


SMALL_SCALES = 0x5CA1E
METHODS = ("guided", "3dvar")


@with_own_jax
def assimilate_window(
    background: xr.Dataset,
    obs: Any,
    *,
    window: str = "12h",
    n_members: int = 8,
    model: str | Prior | None = None,
    forward: Any = None,
    method: str | Method = "guided",
    dynamics: str = "forecaster",
    model_error: float = 0.0,
    background_error: float | str = "estimate",
    quality: Quality | bool | None = QUALITY,
    remat: bool = False,
    seed: int = 0,
) -> xr.Dataset:
    """Analyse the state at the start of a window from the observations of all of it.

    The analysis is valid at the time of the background, the start of the window; that of
    later times is its forecast.  Both ends of the window belong to it: where windows follow
    each other, give the observations of the instant between two of them to one only.

    Parameters
    ----------
    background : Dataset
        One state at the start of the window, in any usual convention.
    obs : Dataset or DataFrame
        In columns or tidy; of variables of the state. Each is compared with the step of the
        forecaster nearest in time.
    window : str
        Length; a multiple of the forecaster's 6 h.
    n_members : int
    model : str or Prior, optional
    forward : pytree, optional
        One step of the forecaster on arrays, as `xdiffda.cycling.forecast.load_rollout` gives it;
        default that of the model.
    method : {"guided", "3dvar"}, Guided or ThreeDVar
        Guided: posterior sampling with the diffusion prior. 3dvar: with its B alone, which
        through the forecaster is 4D-Var; one member. With their settings, `xdiffda.Guided` and
        `xdiffda.ThreeDVar`; through the forecaster each iteration of the solver runs it and its
        adjoint over the window.
    dynamics : {"forecaster", "fgat", "none"}
        How later observations see the state at the start. forecaster: through the forecaster,
        strong constraint. fgat: first guess at appropriate time; departures are those from
        the background's forecast, and the increment that they ask for stands still (no
        derivatives of the forecaster). none: as if all had been made at the start.
    model_error : float
        What one step of the forecaster adds to the error, in units of s, growing with every
        step (an error that persists) and with the correlations of B.  Counts as error of the
        later observations, one that neighbours share: without it, an imperfect forecaster is
        bent to fit them.  Measured for the bundled model: 0.23.
    remat : bool
        Compute the forecaster's steps again for every adjoint: less memory, for large grids.
    background_error, quality, seed
        See `xdiffda.assimilate`.

    Returns
    -------
    Dataset
        As the background, with the dimension ``member`` in front.  Provenance in the
        attributes that begin with ``xdiffda_``.

    Raises
    ------
    InputError
        If background, observations or settings do not fit, with all problems at once.

    Notes
    -----
    Le Dimet & Talagrand (1986), doi 10.3402/tellusa.v38i2.11706; outer loops of Courtier et
    al. (1994), doi 10.1002/qj.49712051912.

    Examples
    --------
    >>> import xdiffda
    >>> truth, background = xdiffda.open_sample("truth"), xdiffda.open_sample("background")
    >>> obs = truth.isel(time=0).diffda.emulate_obs(n_columns=20)
    >>> analysis = assimilate_window(background.isel(time=0), obs, method="3dvar",
    ...                              dynamics="fgat", window="6h")
    >>> analysis.sizes["member"]
    1
    """
    prior = registry.resolve(model)
    x, layout, convention = to_state(background, prior.layout, what="background")
    named = getattr(method, "name", method)
    own = _problems(x, layout, convention, named, window, dynamics, model_error, background_error)
    settings = _settings(
        own,
        prior,
        method=method if named in METHODS else METHODS[0],
        n_members=n_members,
        background_error=background_error,
        window=window,
        quality=quality,
        seed=seed,
    )
    time = np.asarray(convention.valid_times).reshape(-1)[0]
    given = x.reshape(x.shape[-2:])
    x = prior.filtered(given[None])[0]
    likelihood, r, record = window_likelihood(
        _forward(model, prior) if forward is None else forward,
        prior,
        x,
        time,
        to_tidy(obs, strict=not settings.quality.ranges),
        n_windows=int(duration(window) // STEP),
        background_error=settings.background_error,
        quality=settings.quality,
        model_error=model_error,
        dynamics=dynamics,
        remat=remat,
    )
    if not isinstance(settings.method, Guided):
        found = _variational(prior.covariance, likelihood, settings.method.solves)
        z, residual = np.asarray(found[0]), float(found[1])
    else:
        z, residual = _members(
            prior, given, time, r, likelihood, settings.method, settings.n_members, settings.seed
        )
    warn_of_residual(residual, settings, time)
    members = x[None] + r * prior.scale[None] * np.moveaxis(z, 1, 0)
    analysis = from_state(members, layout, convention, dims=("member",))
    how = {"window": window, "dynamics": dynamics, "model_error": model_error, "remat": remat}
    return analysis.assign_attrs(_provenance(prior, settings, how, record, residual))


def _members(
    prior: Prior,
    given: Float[np.ndarray, "node channel"],
    time: np.datetime64,
    r: float,
    likelihood: Likelihood,
    method: Guided,
    n_members: int,
    seed: int,
) -> tuple[Float[np.ndarray, "node member channel"], float]:
    """Draw members, a group at a time; a member is the same in any group."""
    key = jax.random.key(time_seed(seed, time))
    conditioned, residuals = prior.condition(given, time, r), []
    parts = []
    for first in range(0, n_members, method.max_batch):
        last = min(first + method.max_batch, n_members)
        draws = make_draws(key, jnp.arange(first, last), antithetic=method.antithetic is not False)
        part = sample_posterior(
            conditioned,
            likelihood,
            draws,
            covariance=str(method.covariance),
            guidance=method.guidance,
            watch=lambda found: residuals.append(float(found.max())),
        )
        if method.small_scales:  # of keys that nothing else uses
            keys = jax.vmap(lambda k: jax.random.fold_in(k, SMALL_SCALES))(draws.keys)
            part = part + draws.signs[:, None] * prior.small_scales(keys, r)
        parts.append(np.asarray(part))
    return np.concatenate(parts, axis=1), float(np.max(residuals))


@eqx.filter_jit
def _variational(covariance: Any, likelihood: Likelihood, solver: Solver) -> tuple[Array, Array]:
    """4D-Var with outer loops: Gauss-Newton, linearised anew at each."""
    shape = (covariance.basis.n_node, 1, covariance.values.shape[1])
    found = update(likelihood, covariance, jnp.zeros(shape), solver=solver)
    return found.increment, found.residual[0]


def _problems(
    x: np.ndarray,
    layout: Layout,
    convention: Convention,
    method: str,
    window: str,
    dynamics: str,
    model_error: float,
    background_error: float | str,
) -> list[Problem]:
    """List invalid arguments that `assimilate` does not have, or for which its rules differ."""
    call, times = "assimilate_window(background, obs, {})", convention.valid_times
    try:
        length = duration(window)
    except ValueError:
        length = 0 * STEP
    single = times is not None and x.size == layout.grid.n_node * layout.n_channel
    single = single and not np.isnat(np.asarray(times)).any()
    checks = [
        (
            not single,
            "several states, or none with a time",
            "one state with its time",
            "background.isel(time=0)",
        ),
        (
            method not in METHODS,
            f"method={method!r}",
            f"one of {', '.join(METHODS)}",
            call.format('method="guided"'),
        ),
        (
            not length > 0 * STEP or bool(length % STEP),
            f"window={window!r}",
            "a positive multiple of 6 h",
            call.format('window="12h"'),
        ),
        (
            dynamics not in DYNAMICS,
            f"dynamics={dynamics!r}",
            f"one of {', '.join(DYNAMICS)}",
            call.format('dynamics="forecaster"'),
        ),
        (
            not 0 <= model_error < np.inf,
            f"model_error={model_error}",
            "a number of 0 or more",
            call.format("model_error=0.23"),
        ),
        (
            background_error == "spread",
            'background_error="spread" of one state',
            'a positive number, or "estimate"',
            call.format("background_error=1.0"),
        ),
    ]
    return [Problem(found, needed, repair) for bad, found, needed, repair in checks if bad]


def _settings(own: list[Problem], prior: Prior, **given: Any) -> Settings:
    """The settings, or all that is wrong with them and ``own`` problems."""
    try:
        settings = Settings(**given).for_prior(prior)
    except InputError as error:
        own = [*own, *error.problems]
    if own:
        raise InputError(own, what="4D assimilation")
    return settings


def _provenance(
    prior: Prior, settings: Settings, how: dict[str, Any], record: dict[str, Any], residual: float
) -> dict[str, Any]:
    from xdiffda import __version__

    label = {"forecaster": "4D", "fgat": "FGAT", "none": "3D"}[how["dynamics"]]
    return {
        "xdiffda_version": __version__,
        "xdiffda_jax_version": jax.__version__,
        "xdiffda_model": prior.name,
        "xdiffda_method": f"{label} {settings.method.name}",
        "xdiffda_seed": settings.seed,
        "xdiffda_settings": json.dumps(settings.provenance() | how),
        "xdiffda_network_evaluations": settings.method.network_evaluations(prior),
        "xdiffda_observations_used": json.dumps([record["used"]]),
        "xdiffda_observations_rejected": json.dumps([record["rejected"]]),
        "xdiffda_background_error": json.dumps([round(record["r"], 4)]),
        "xdiffda_solver_residual": json.dumps([rounded(residual)]),
    }


def _forward(model: Any, prior: Prior) -> Callable:
    name = prior.name if isinstance(model, Prior) else model or get_options().default_model
    rollout = load_rollout(Path(name) if Path(name).is_dir() else name)
    if rollout.layout != prior.layout:
        raise InputError(
            [
                Problem(
                    f"a forecaster for {rollout.layout}",
                    f"{prior.layout}",
                    "assimilate_window(..., forward=rollout)",
                )
            ],
            what="4D assimilation",
        )
    return rollout

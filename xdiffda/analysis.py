"""Assimilation: a background and observations in, an ensemble of analyses out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float
from tqdm import tqdm

from xdiffda import _innovations as innovations
from xdiffda import registry
from xdiffda._backgrounds import Backgrounds, read_backgrounds
from xdiffda._devices import Schedule, run_times
from xdiffda._memory import plan_devices
from xdiffda._methods import METHODS, AnalysisTime
from xdiffda._settings import Settings, check_settings
from xdiffda.baselines import Inflation, Localisation
from xdiffda.diffusion.repaint import RePaint
from xdiffda.diffusion.robust import Robust
from xdiffda.observations import select_window, to_tidy
from xdiffda.observations.rows import Operators
from xdiffda.options import get_options
from xdiffda.prior import Prior
from xdiffda.state import Convention, from_state
from xdiffda.verify import split_obs, withheld_report

Analysed = tuple[Float[np.ndarray, "member node channel"], dict[str, Any]]


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
    repaint: RePaint | None = None,
    localisation: Localisation | None = None,
    inflation: Inflation | None = None,
    background_error: float | str = "estimate",
    window: str | np.timedelta64 = "6h",
    gross_check: float = 10.0,
    robust: str | Robust | None = None,
    operators: Operators | None = None,
    error_correlation: Any = None,
    withhold: float = 0.0,
    antithetic: bool = True,
    small_scales: bool = True,
    max_batch: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> xr.Dataset:
    """Draw an ensemble of analyses from p(x | background, observations).

    Parameters
    ----------
    background : Dataset
        Prior state, usually a short forecast, in any usual convention; with a dimension
        ``time``, one analysis is made for each time (lazy data is read time by time). With
        ``member``, the mean is the background of all methods but the LETKF, and the members'
        variance says where V is larger or smaller than the climate's.
    obs : Dataset or DataFrame
        Observations in columns or in tidy form (see the page on conventions), with errors.
    n_members : int
        Members drawn. Member i is the same whatever ``n_members`` is.
    model : str or Prior, optional
        Name of a model (`xdiffda.models`) or a prior; default the option
        ``default_model``.
    method : {"guided", "repaint", "3dvar", "oi", "letkf"}
        guided: posterior sampling with the diffusion prior. repaint: inpainting of
        interpolated observations by the same prior, as in the DiffDA paper; knows no
        observation error. 3dvar: the mean of the Gaussian posterior with the model's B, one
        member. oi: the same from the nearest observations of each grid point. letkf: local
        ensemble transform Kalman filter of a background with ``member``.
    n_steps : int
        Network evaluations for each member.
    start : {"warm", "cold"}
    sampler : {"dpm-solver", "heun", "stochastic"}
    covariance : {"calibrated", "climatological", "jacobian", "diagonal"}, optional
        V of the Kalman update of guidance; default what the model has measured.
    repaint : RePaint, optional
        Settings of ``method="repaint"`` (`xdiffda.RePaint`); default the paper's, 2,910
        evaluations for each member.
    localisation, inflation : Localisation, Inflation, optional
        Settings of ``method="letkf"`` (`xdiffda.baselines`).
    background_error : float or "estimate"
        Scale r of the background error, in units of the model's s (its 48 h forecasts);
        estimated from the innovations by default.
    window : str or timedelta64
        Width of the window around each analysis time; observations outside are rejected.
    gross_check : float
        Observations whose innovation exceeds so many expected standard deviations are
        rejected.
    robust : {"none", "huber", "varqc"} or Robust, optional
        Likelihood that forgives gross errors, at every noise level.
    operators : mapping, optional
        The user's own observation operators, name of the observed variable -> operator
        (`xdiffda.observations.nonlinear`).
    error_correlation : float, VerticalCorrelation or mapping, optional
        Correlation of the errors within a station's column
        (`xdiffda.observations.correlation`).
    withhold : float
        Share of the stations that are not assimilated but checked: the attributes then say
        whether the analysis came closer to them (`xdiffda.verify.withheld_report`).
    antithetic : bool
        Draw members 2k and 2k + 1 with opposite perturbations: each is a draw from the
        posterior like any other, and the mean of a few has far less sampling error. The two
        of a pair are not independent of each other: `xdiffda.verify` knows that from the
        attributes; for statistics of your own that assume independence, take ``False``.
    small_scales : bool
        Add to each member a draw of the scales that the model cannot represent (of the size
        measured for it), so that members differ from each other as they do from the truth.
    max_batch : int
        Most members that a device computes together; fewer where its memory, or the option
        ``memory_limit``, asks for that (`xdiffda.set_options`). With several devices members
        and times are shared out among them.
    seed : int
        Same seed, same analysis: across processes, batch sizes and numbers of devices.
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
    settings = check_settings(
        prior, method=method, n_members=n_members, n_steps=n_steps, start=start, sampler=sampler,
        repaint=repaint, localisation=localisation, inflation=inflation, covariance=covariance,
        background_error=background_error, window=window, gross_check=gross_check,
        robust=robust, operators=operators, error_correlation=error_correlation,
        withhold=withhold, antithetic=antithetic, small_scales=small_scales,
        max_batch=max_batch, seed=seed,
    )  # fmt: skip
    backgrounds = read_backgrounds(background, prior.layout, method=method)
    tidy, held = to_tidy(obs), None
    if withhold:
        tidy, held = split_obs(tidy, withhold, seed=seed)
    wanted = get_options().progress if progress is None else progress
    results = _analyse(prior, backgrounds, tidy, settings, progress=wanted)
    members, records = [x for x, _ in results], [record for _, record in results]
    analysis = _dataset(np.stack(members), backgrounds.convention, prior, records, settings)
    if held is not None:
        report = withheld_report(analysis, background, held, window=window)
        analysis.attrs["xdiffda_withheld"] = report.attrs["summary"]
    return analysis


def _analyse(
    prior: Prior, backgrounds: Backgrounds, tidy: xr.Dataset, settings: Settings, *, progress: bool
) -> list[Analysed]:
    """Analyse every time, spread over the devices of this process."""
    times, schedules = backgrounds.times, plan_devices(prior, settings)
    groups = schedules[0].n_groups(settings.n_members)
    total = len(times) * max(groups * settings.evaluations, 1)
    with tqdm(total=total, desc=f"assimilate ({settings.method})", unit="level",
              disable=not progress) as bar:  # fmt: skip

        def work(i: int, schedule: Schedule) -> Analysed:
            states = backgrounds.states(i)
            return analyse_time(prior, states, times[i], tidy, settings, bar.update, schedule)

        return run_times(work, len(times), schedules)


def analyse_time(
    prior: Prior, states: Float[np.ndarray, "member node channel"], time: np.datetime64 | None,
    tidy: xr.Dataset, settings: Settings, tick: Callable[[int], Any],
    schedule: Schedule | None = None,
) -> Analysed:  # fmt: skip
    """Analyse one time on arrays, physical units; also return the record of what was used.

    ``states`` are background members, or one state; ``schedule`` says on which devices.
    """
    background = states.mean(0, dtype=np.float64).astype(np.float32)
    likelihood, r, record = innovations.observe(
        tidy, prior, background, time, window=settings.window, gross_check=settings.gross_check,
        background_error=settings.background_error, robust=settings.robust,
        operators=settings.operators, error_correlation=settings.error_correlation,
    )  # fmt: skip
    inside = tidy
    if time is not None and not np.isnat(time):
        inside, _ = select_window(tidy, time, settings.window)
    key = jax.random.fold_in(jax.random.key(settings.seed), _stamp(time))
    ensemble = states if len(states) > 1 else None
    at = AnalysisTime(prior, background, time, r, likelihood, inside, key, ensemble, schedule)
    z = METHODS[settings.method](at, settings, tick)
    return background[None] + r * prior.scale[None] * np.moveaxis(z, 1, 0), record


def _dataset(
    members: Float[np.ndarray, "time member node channel"], convention: Convention, prior: Prior,
    records: list[dict[str, Any]], settings: Settings,
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
        "xdiffda_method": settings.method,
        "xdiffda_seed": settings.seed,
        "xdiffda_settings": json.dumps(settings.provenance()),
        "xdiffda_network_evaluations": settings.evaluations,
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

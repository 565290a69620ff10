"""Assimilation: a background and observations in, an ensemble of analyses out."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float
from tqdm import tqdm

from xdiffda.assimilation import innovations
from xdiffda.assimilation.baselines.letkf import Inflation
from xdiffda.assimilation.devices import Schedule, run_times
from xdiffda.assimilation.memory import plan_devices
from xdiffda.assimilation.observed import observation_table
from xdiffda.assimilation.one_time import Analysed, analyse_time, check_clock, rounded
from xdiffda.assimilation.settings import Settings, check_factor, check_settings
from xdiffda.covariance.ensemble import Hybrid
from xdiffda.covariance.localisation import Localisation
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.repaint import RePaint
from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations import to_tidy
from xdiffda.observations.quality import check_table
from xdiffda.observations.robust import Robust
from xdiffda.observations.rows import Operators
from xdiffda.options import get_options
from xdiffda.priors import registry
from xdiffda.priors.prior import Prior
from xdiffda.state.clock import warn_without_clock
from xdiffda.state.convention import Convention
from xdiffda.state.convert import from_state, read_metadata, to_state
from xdiffda.state.grid import Layout
from xdiffda.verify import split_obs, withheld_report

# The states of a background along time: read one at a time where the data is lazy.


@dataclasses.dataclass(frozen=True, eq=False)
class Backgrounds:
    """Background states by analysis time; made by `read_backgrounds`.

    Attributes
    ----------
    convention : Convention
        Of the whole background.
    times : list of datetime64 or None
    n_member : int
        Background members at each time.
    dataset : Dataset
        The whole background.
    loaded : array (time, member, node, channel) or None
        None where the data is lazy and larger than one time.
    """

    convention: Convention
    times: list[np.datetime64 | None]
    n_member: int
    dataset: xr.Dataset
    loaded: Float[np.ndarray, "time member node channel"] | None

    def __len__(self) -> int:
        return len(self.times)

    def states(self, i: int) -> Float[np.ndarray, "member node channel"]:
        """Members at the time of number ``i``, physical units.

        Raises
        ------
        InputError
            If a lazy background holds NaN or implausible values at this time.
        """
        if self.loaded is not None:
            return self.loaded[i]
        layout = self.convention.layout
        where = f"background at {str(self.times[i])[:16]}" if len(self) > 1 else "background"
        x, _, _ = to_state(self.at(i), layout, what=where)
        return x.reshape(self.n_member, *x.shape[-2:])

    def at(self, i: int) -> xr.Dataset:
        """The background at the time of number ``i``, lazy where the whole is."""
        batch = dict(zip(self.convention.batch_dims, self.convention.batch_shape, strict=True))
        batch.pop("member", None)
        where = np.unravel_index(i, tuple(batch.values())) if batch else ()
        axes = self.convention.axes
        return self.dataset.isel(
            {str(axes[name].dim): [int(n)] for name, n in zip(batch, where, strict=True)}
        )


def read_backgrounds(background: xr.Dataset, layout: Layout, settings: Settings) -> Backgrounds:
    """Check a background; its values too where they are in memory already.

    Raises
    ------
    InputError
        If it does not fit the layout, or has too few members for the settings.
    """
    lazy = isinstance(background, xr.Dataset) and background.chunks
    if lazy:
        x, convention = None, read_metadata(background, layout, what="background")
    else:
        x, _, convention = to_state(background, layout, what="background")
    batch = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    n_member = batch.get("member", 1)
    if n_member < 2 and (settings.method == "letkf" or settings.background_error == "spread"):
        repair = 'method="guided"' if settings.method == "letkf" else 'background_error="estimate"'
        raise InputError(
            [
                Problem(
                    f"{n_member} background member",
                    "2 or more along the dimension member",
                    f"assimilate(obs, {repair})",
                )
            ],
            what="background",
        )
    times = innovations.valid_times(convention)[::n_member]  # time comes first, members share it
    loaded = None if x is None else x.reshape(-1, n_member, *x.shape[-2:])
    return Backgrounds(convention, times, n_member, background, loaded)


@with_own_jax
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
    solver: Solver | None = None,
    repaint: RePaint | None = None,
    localisation: Localisation | None = None,
    inflation: Inflation | None = None,
    inflation_factor: Float[np.ndarray, "node channel"] | None = None,
    hybrid: Hybrid | None = None,
    background_error: float | str = "estimate",
    window: str | np.timedelta64 = "6h",
    gross_check: float = 5.0,
    robust: str | Robust | None = None,
    operators: Operators | None = None,
    error_correlation: Any = None,
    withhold: float = 0.0,
    antithetic: bool = True,
    small_scales: bool = True,
    max_batch: int = 8,
    seed: int = 0,
    progress: bool | None = None,
    return_obs: bool = False,
) -> Any:
    """Draw an ensemble of analyses from p(x | background, observations).

    Parameters
    ----------
    background : Dataset
        Prior state, usually a short forecast, in any usual convention; with a dimension
        ``time``, one analysis is made for each time (lazy data is read time by time). With
        ``member``, members and their localised covariance enter guided (see ``hybrid``), 3dvar
        and letkf; of the others the mean is the background.
    obs : Dataset or DataFrame
        Observations in columns or in tidy form (see the page on conventions), with errors.
    n_members : int
        Members drawn. Member i is the same whatever ``n_members`` is.
    model : str or Prior, optional
        Name of a model (`xdiffda.models`) or a prior. By default the bundled network (the option
        ``default_model``) where the background is on its grid with its variables and levels, else
        ``"reference"``, background errors of the real atmosphere (`xdiffda.reference_prior`).
    method : {"guided", "repaint", "3dvar", "oi", "letkf", "interpolation"}
        guided: posterior sampling with the diffusion prior. repaint: inpainting of
        interpolated observations by the same prior, as in the DiffDA paper; knows no
        observation error. 3dvar: the mean of the Gaussian posterior with the model's B, one
        member. oi: the same from the nearest observations of each grid point. letkf: local
        ensemble transform Kalman filter of a background with ``member``. interpolation: the
        observations alone, kriged, the background where none is near: the least to beat.
    n_steps : int
        Network evaluations for each member. With fewer than 4 members lack spread: a warning.
    start : {"warm", "cold"}
    sampler : {"dpm-solver", "heun", "stochastic"}
    covariance : {"calibrated", "climatological", "jacobian", "diagonal"}, optional
        V of the Kalman update of guidance; default what the model has measured.
    solver : Solver, optional
        Tolerance and most iterations of the solver for the observations
        (`xdiffda.diffusion.kalman.Solver`; 3D-Var goes on to 1e-3); what it reached is in the
        attributes.
    repaint : RePaint, optional
        Settings of ``method="repaint"`` (`xdiffda.RePaint`); default the paper's, 2,910
        evaluations for each member.
    localisation, inflation : Localisation, Inflation, optional
        Settings of ``method="letkf"`` (`xdiffda.assimilation.baselines`).
    inflation_factor : array (node, channel), optional
        Adaptive inflation of the cycle before: ``inflation_factor`` of its analysis.
    hybrid : Hybrid, optional
        How background members enter guided and 3dvar (`xdiffda.covariance.ensemble.Hybrid`). By
        default
        each analysis member is drawn around a background member, moved by four parts of B and
        one of the localised covariance of the ensemble.
    background_error : float, "estimate" or "spread"
        Scale r of the background error, in units of the model's s (its 48 h forecasts);
        estimated from the innovations by default; "spread" takes it from the background
        members.
    window : str or timedelta64
        Width of the window around each analysis time; observations outside are rejected, those
        inside count as if made at the analysis time. `xdiffda.cycling.four_d` compares each with
        the
        background at its own time.
    gross_check : float
        Observations whose innovation exceeds so many expected standard deviations are
        rejected, after marks of the file, ranges and repeats (`xdiffda.Quality`).
    robust : {"none", "huber", "varqc"} or Robust, optional
        Likelihood that forgives gross errors, at every noise level.
    operators : mapping, optional
        The user's own observation operators, name of the observed variable -> operator
        (`xdiffda.observations.Operator`).
    error_correlation : float, VerticalCorrelation or mapping, optional
        Correlation of the errors within a station's column
        (`xdiffda.observations.VerticalCorrelation`).
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
        measured for it), given what the observations say of them, so that members differ from
        each other as they do from the truth; to the state of 3dvar and oi their mean.
    max_batch : int
        Most members that a device computes together; fewer where its memory, or the option
        ``memory_limit``, asks for that (`xdiffda.set_options`). With several devices members
        and times are shared out among them.
    seed : int
        Same seed, same members: to the bit across processes where as many are computed together
        (with ``max_batch=1`` whatever ``n_members`` is). Computed in groups of another size they
        agree to rounding, and where rounding ends a solve an iteration earlier, to its tolerance:
        within 0.02 standard deviations of the background error (measured at most 0.016, root
        mean square 0.0007).
    progress : bool, optional
        Show a progress bar; default the option ``progress``.
    return_obs : bool
        Return also what became of each observation.

    Returns
    -------
    analysis : Dataset
        As the background, with the dimension ``member`` in front. Provenance in the
        attributes that begin with ``xdiffda_``. With adaptive inflation also
        ``inflation_factor`` on (``node``, ``channel``) of the model, for the next cycle.
    obs : Dataset
        Only with ``return_obs``: every observation, tidy, with the coordinates ``flag`` (``used``,
        or a word for why not), ``reason`` and ``analysis_time``, and with ``background_departure``
        (O-B) and ``analysis_departure`` (O-A, of the mean); ``xdiffda.quality.report`` counts it.

    Raises
    ------
    InputError
        If background, observations or settings do not fit, with all problems at once.

    Notes
    -----
    Method: Huang et al. (2024), DiffDA, arXiv 2401.05932, for the conditioning on the
    background; Rozet et al. (2024), arXiv 2405.13712, for guidance by a Gaussian
    approximation of p(z0 | z_sigma); the spectral covariances and the warm start are ours.
    All methods depart from the background with its grid-scale noise damped, where the model
    has measured how (`Prior.filtered`): no observation reaches it.

    Examples
    --------
    >>> import xdiffda
    >>> truth, background = xdiffda.open_sample("truth"), xdiffda.open_sample("background")
    >>> obs = truth.isel(time=0).diffda.emulate_obs(n_columns=100)
    >>> analysis = background.isel(time=0).diffda.assimilate(obs, n_members=2, n_steps=4)
    >>> analysis.sizes["member"]
    2
    """
    found = run_assimilation(
        background,
        obs,
        model=model,
        inflation_factor=inflation_factor,
        progress=progress,
        method=method,
        n_members=n_members,
        n_steps=n_steps,
        start=start,
        sampler=sampler,
        solver=solver,
        repaint=repaint,
        localisation=localisation,
        inflation=inflation,
        hybrid=hybrid,
        covariance=covariance,
        background_error=background_error,
        window=window,
        gross_check=gross_check,
        robust=robust,
        operators=operators,
        error_correlation=error_correlation,
        withhold=withhold,
        antithetic=antithetic,
        small_scales=small_scales,
        max_batch=max_batch,
        seed=seed,
    )
    if not return_obs:
        return found.analysis
    table = observation_table(
        found.tidy,
        found.held,
        [record["lost"] for record in found.records],
        found.times,
        background,
        found.analysis,
        window=window,
        operators=operators,
    )
    return found.analysis, table


class Assimilated(NamedTuple):
    """An analysis, and what became of each observation.

    Attributes
    ----------
    analysis : Dataset
    tidy : Dataset
        The observations given, without those withheld.
    records : list of dict
        Of each analysis time: ``used``, ``rejected`` and ``r``; ``kept`` and ``lost``, rows of
        ``tidy`` in use and, by reason, rejected.
    held : Dataset or None
        The observations withheld.
    times : list of datetime64 or None
        Analysis times.
    """

    analysis: xr.Dataset
    tidy: xr.Dataset
    records: list[dict[str, Any]]
    held: xr.Dataset | None
    times: list[np.datetime64 | None]


@with_own_jax
def run_assimilation(
    background: xr.Dataset,
    obs: Any,
    *,
    model: str | Prior | None = None,
    inflation_factor: Float[np.ndarray, "node channel"] | None = None,
    progress: bool | None = None,
    **given: Any,
) -> Assimilated:
    """As `assimilate`, with its keywords and defaults, and with an account of the observations."""
    prior, reason = registry.choose(model, background)
    mine = ("background", "obs", "model", "inflation_factor", "progress", "return_obs")
    defaults = inspect.signature(assimilate).parameters.items()
    keywords = {name: p.default for name, p in defaults if name not in mine} | given
    settings = check_settings(prior, **keywords)
    backgrounds = read_backgrounds(background, prior.layout, settings)
    check_clock(backgrounds.convention)
    check_factor(inflation_factor, prior, settings)
    strict, held = not settings.control.ranges, None
    tidy = to_tidy(obs, operators=settings.operators, strict=strict)
    warn_without_clock(backgrounds.times, tidy)
    if settings.withhold:
        tidy, held = split_obs(tidy, settings.withhold, seed=settings.seed)
    wanted = get_options().progress if progress is None else progress
    results = _analyse(prior, backgrounds, tidy, settings, factor=inflation_factor, progress=wanted)
    members, records = [x for x, _ in results], [record for _, record in results]
    analysis = _dataset(np.stack(members), backgrounds.convention, prior, records, settings)
    analysis.attrs["xdiffda_model_reason"] = reason
    if held is not None:
        wrong = check_table(held, dataclasses.replace(settings.control, duplicates=False))
        good = np.setdiff1d(np.arange(held.sizes["obs"]), np.concatenate([[], *wrong.values()]))
        checked = held.isel(obs=good) if good.size else held
        report = withheld_report(analysis, background, checked, window=settings.window)
        analysis.attrs["xdiffda_withheld"] = report.attrs["summary"]
    return Assimilated(analysis, tidy, records, held, backgrounds.times)


def _analyse(
    prior: Prior,
    backgrounds: Backgrounds,
    tidy: xr.Dataset,
    settings: Settings,
    *,
    factor: Float[np.ndarray, "node channel"] | None,
    progress: bool,
) -> list[Analysed]:
    """Analyse every time, spread over the devices of this process."""
    times, schedules = backgrounds.times, plan_devices(prior, settings)
    groups = schedules[0].n_groups(settings.n_members)
    total = len(times) * max(groups * settings.evaluations, 1)
    with tqdm(
        total=total,
        desc=f"assimilate ({settings.method}, {prior.name})",
        unit="level",
        disable=not progress,
    ) as bar:

        def work(i: int, schedule: Schedule) -> Analysed:
            return analyse_time(
                prior,
                backgrounds.states(i),
                times[i],
                tidy,
                settings,
                bar.update,
                factor=factor,
                schedule=schedule,
            )

        return run_times(work, len(times), schedules)


def _left_out(convention: Convention) -> str:
    """What of the background is not in the analysis: variables, masks and bounds, and levels."""
    parts = [", ".join(convention.extras)] if convention.extras else []
    if convention.other_levels:
        parts.append("levels " + ", ".join(f"{p:g}" for p in convention.other_levels) + " hPa")
    return "; ".join(parts) or "nothing"


def _dataset(
    members: Float[np.ndarray, "time member node channel"],
    convention: Convention,
    prior: Prior,
    records: list[dict[str, Any]],
    settings: Settings,
) -> xr.Dataset:
    from xdiffda import __version__

    # dimensions of the background's clock stay, a lead time of size one too
    kept = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    kept.pop("member", None)
    x = np.moveaxis(members, 1, 0)
    x = x.reshape(x.shape[0], *kept.values(), *x.shape[-2:])
    analysis = from_state(x, prior.layout, convention, dims=("member", *kept))
    used = [r["used"] for r in records]
    analysis.attrs |= {
        "xdiffda_version": __version__,
        "xdiffda_jax_version": jax.__version__,
        "xdiffda_model": prior.name,
        "xdiffda_method": settings.method,
        "xdiffda_left_out": _left_out(convention),
        "xdiffda_seed": settings.seed,
        "xdiffda_settings": json.dumps(settings.provenance()),
        "xdiffda_network_evaluations": settings.evaluations,
        "xdiffda_observations_used": json.dumps(used),
        "xdiffda_observations_rejected": json.dumps([r["rejected"] for r in records]),
        "xdiffda_background_error": json.dumps([round(r["r"], 4) for r in records]),
        # relative, the largest of all solves for the observations; null where none is made
        "xdiffda_solver_residual": json.dumps([rounded(r["residual"]) for r in records]),
    }
    if any(r.get("factors") for r in records):  # of errors by group of variables, beside r
        rounded_factors = [{k: round(v, 3) for k, v in r["factors"].items()} for r in records]
        analysis.attrs["xdiffda_background_error_factors"] = json.dumps(rounded_factors)
    if settings.method == "letkf" and settings.inflation.adaptive:
        factors = np.stack([r["inflation"] for r in records])
        several = "time" in convention.batch_dims
        clock = (convention.axes["time"].dim,) if several else ()
        analysis["inflation_factor"] = (
            (*clock, "node", "channel"),
            factors if several else factors[0],
            {
                "long_name": "inflation of the background's variance, for the next cycle",
                "units": "1",
            },
        )
    return analysis

"""Assimilation: a background and observations in, an ensemble of analyses out."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float
from tqdm import tqdm

from xdiffda.assimilation import innovations
from xdiffda.assimilation.devices import Schedule, run_times
from xdiffda.assimilation.memory import plan_devices
from xdiffda.assimilation.methods import LETKF, Method
from xdiffda.assimilation.observed import observation_table
from xdiffda.assimilation.one_time import Analysed, analyse_time, check_clock, rounded
from xdiffda.assimilation.settings import Settings, names_moved_settings
from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations import to_tidy
from xdiffda.observations.quality import QUALITY, Quality, check_table
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
    alone = settings.method.needs_members
    if n_member < 2 and (alone or settings.background_error == "spread"):
        repair = 'method="guided"' if alone else 'background_error="estimate"'
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
@names_moved_settings
def assimilate(
    background: xr.Dataset,
    obs: Any,
    *,
    n_members: int = 8,
    model: str | Prior | None = None,
    method: str | Method = "guided",
    background_error: float | str = "estimate",
    window: str | np.timedelta64 = "6h",
    quality: Quality | bool | None = QUALITY,
    operators: Operators | None = None,
    error_correlation: Any = None,
    withhold: float = 0.0,
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
        ``member``, members and their localised covariance enter guided (see its ``hybrid``), 3dvar
        and letkf; of the others the mean is the background.
    obs : Dataset or DataFrame
        Observations in columns or in tidy form (see the page on conventions), with errors.
    n_members : int
        Members drawn. Member i is the same whatever ``n_members`` is.
    model : str or Prior, optional
        Name of a model (`xdiffda.models`) or a prior. By default the bundled network (the option
        ``default_model``) where the background is on its grid with its variables and levels, else
        ``"reference"``, background errors of the real atmosphere (`xdiffda.reference_prior`).
    method : str or Method
        An object with the settings of a method, or the name of one with its default settings:
        ``"guided"`` (`xdiffda.Guided`), posterior sampling with the diffusion prior;
        ``"repaint"`` (`xdiffda.RePaint`), inpainting of interpolated observations by the same
        prior, as in the DiffDA paper; ``"3dvar"`` (`xdiffda.ThreeDVar`), the mean of the Gaussian
        posterior with the model's B, one member; ``"oi"`` (`xdiffda.OptimalInterpolation`), the
        same from the nearest observations of each grid point; ``"letkf"`` (`xdiffda.LETKF`), local
        ensemble transform Kalman filter of a background with ``member``; ``"interpolation"``, the
        observations alone, kriged, the background where none is near: the least to beat.
    background_error : float, "estimate" or "spread"
        Scale r of the background error, in units of the model's s (its 48 h forecasts);
        estimated from the innovations by default; "spread" takes it from the background
        members.
    window : str or timedelta64
        Width of the window around each analysis time; observations outside are rejected, those
        inside count as if made at the analysis time. `xdiffda.cycling.four_d` compares each with
        the
        background at its own time.
    quality : Quality, bool or None
        Quality control (`xdiffda.Quality`): marks of the file, ranges, repeats, a background check
        at five expected standard deviations, and robust weights where asked for; ``False`` for
        none.
    operators : mapping, optional
        The user's own observation operators, name of the observed variable -> operator
        (`xdiffda.observations.Operator`).
    error_correlation : float, VerticalCorrelation or mapping, optional
        Correlation of the errors within a station's column
        (`xdiffda.observations.VerticalCorrelation`).
    withhold : float
        Share of the stations that are not assimilated but checked: the attributes then say
        whether the analysis came closer to them (`xdiffda.verify.withheld_report`).
    seed : int
        Same seed, same members: to the bit across processes where as many are computed together
        (with ``Guided(max_batch=1)`` whatever ``n_members`` is). Computed in groups of another
        size they agree to rounding, and where rounding ends a solve an iteration earlier, to its
        tolerance: within 0.02 standard deviations of the background error (measured at most 0.016,
        root mean square 0.0007).
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
    >>> analysis = background.isel(time=0).diffda.assimilate(
    ...     obs, n_members=2, method=xdiffda.Guided(n_steps=4))
    >>> analysis.sizes["member"]
    2
    """
    settings = Settings(
        method,
        n_members,
        background_error,
        window,
        quality,
        operators,
        error_correlation,
        withhold,
        seed,
    )
    found = run_assimilation(background, obs, settings, model=model, progress=progress)
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
    settings: Settings,
    *,
    model: str | Prior | None = None,
    progress: bool | None = None,
) -> Assimilated:
    """As `assimilate`, with an account of the observations."""
    prior, reason = registry.choose(model, background)
    settings = settings.for_prior(prior)
    backgrounds = read_backgrounds(background, prior.layout, settings)
    check_clock(backgrounds.convention)
    strict, held = not settings.quality.ranges, None
    tidy = to_tidy(obs, operators=settings.operators, strict=strict)
    warn_without_clock(backgrounds.times, tidy)
    if settings.withhold:
        tidy, held = split_obs(tidy, settings.withhold, seed=settings.seed)
    wanted = get_options().progress if progress is None else progress
    results = _analyse(prior, backgrounds, tidy, settings, progress=wanted)
    members, records = [x for x, _ in results], [record for _, record in results]
    analysis = _dataset(np.stack(members), backgrounds.convention, prior, records, settings)
    analysis.attrs["xdiffda_model_reason"] = reason
    if held is not None:
        wrong = check_table(held, dataclasses.replace(settings.quality, duplicates=False))
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
    progress: bool,
) -> list[Analysed]:
    """Analyse every time, spread over the devices of this process."""
    times, schedules = backgrounds.times, plan_devices(prior, settings)
    groups = schedules[0].n_groups(settings.n_members)
    total = len(times) * max(groups * settings.method.network_evaluations(prior), 1)
    with tqdm(
        total=total,
        desc=f"assimilate ({settings.method.name}, {prior.name})",
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
        "xdiffda_method": settings.method.name,
        "xdiffda_left_out": _left_out(convention),
        "xdiffda_seed": settings.seed,
        "xdiffda_settings": json.dumps(settings.provenance()),
        "xdiffda_network_evaluations": settings.method.network_evaluations(prior),
        "xdiffda_observations_used": json.dumps(used),
        "xdiffda_observations_rejected": json.dumps([r["rejected"] for r in records]),
        "xdiffda_background_error": json.dumps([round(r["r"], 4) for r in records]),
        # relative, the largest of all solves for the observations; null where none is made
        "xdiffda_solver_residual": json.dumps([rounded(r["residual"]) for r in records]),
    }
    if any(r.get("factors") for r in records):  # of errors by group of variables, beside r
        rounded_factors = [{k: round(v, 3) for k, v in r["factors"].items()} for r in records]
        analysis.attrs["xdiffda_background_error_factors"] = json.dumps(rounded_factors)
    if isinstance(settings.method, LETKF) and settings.method.inflation.adaptive:
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

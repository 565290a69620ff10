"""Simulation-based calibration: is the sampler's posterior that of its own prior?

Draw a truth from the prior, observe it, assimilate, and rank the truth among the members:
if prior, likelihood and sampler fit together, every rank is equally probable, whatever the
quantity that is ranked (Talts et al. 2018, arXiv 1804.06788, theorem 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from xdiffda.assimilation.methods import as_method
from xdiffda.diffusion import programs
from xdiffda.diffusion.noise import karras_ladder
from xdiffda.diffusion.sampler import SAMPLERS
from xdiffda.errors import Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations.quality import Quality
from xdiffda.priors.prior import GaussianPrior, Prior

__all__ = ["default_functions", "simulation_based_calibration"]


# Test functions, ranks and tests of simulation-based calibration.

TestFunction = Callable[[Float[np.ndarray, "*batch node channel"]], Float[np.ndarray, "*batch"]]


def default_functions(
    prior: Prior, *, n_channel: int = 4, seed: int = 0
) -> dict[str, TestFunction]:
    """Grid values, means over the globe and spectral coefficients of some channels.

    Parameters
    ----------
    prior
        Its layout and basis are used.
    n_channel
        How many channels, evenly chosen.
    seed
        Of the grid points, drawn by area.

    Examples
    --------
    >>> import xarray as xr
    >>> from xdiffda.priors.prior import GaussianPrior
    >>> from xdiffda.assimilation.methods import Guided
    >>> noise = np.random.default_rng(0).normal(size=(20, 6, 12))
    >>> errors = xr.Dataset({"2m_temperature": (("member", "lat", "lon"), noise)},
    ...                     {"lat": np.linspace(-75, 75, 6), "lon": np.arange(12) * 30.0})
    >>> list(default_functions(GaussianPrior.from_samples(errors), n_channel=1))[1]
    '2m_temperature, mean'
    """
    layout, basis = prior.layout, prior.covariance.basis
    rng = np.random.default_rng([seed, 0])
    area = layout.grid.area_weights() / layout.grid.n_node
    chosen = np.unique(np.linspace(0, layout.n_channel - 1, n_channel).round().astype(int))
    n_degree, n_order = np.asarray(basis.mask).shape
    out: dict[str, TestFunction] = {}
    for channel in chosen:
        name, node = layout.channel_names[channel], int(rng.choice(area.size, p=area))
        place = f"{layout.grid.node_lat[node]:g} N {layout.grid.node_lon[node]:g} E"
        out[f"{name}, {place}"] = _at(node, channel)
        out[f"{name}, mean"] = _mean(area, channel)
        for degree in sorted({min(2, n_degree - 1), 2 * n_degree // 3}):
            order = int(rng.integers(0, min(2 * degree + 1, n_order)))
            out[f"{name}, coefficient ({degree}, {order})"] = _coefficient(
                basis, channel, degree, order
            )
    return out


def _at(node: int, channel: int) -> TestFunction:
    return lambda z: z[..., node, channel]


def _mean(area: np.ndarray, channel: int) -> TestFunction:
    return lambda z: z[..., channel] @ area


def _coefficient(basis: Any, channel: int, degree: int, order: int) -> TestFunction:
    def function(z: np.ndarray) -> np.ndarray:
        fields = z[..., channel].reshape(-1, z.shape[-2]).T.astype(np.float32)
        return np.asarray(basis.scalar.analysis(fields))[degree, order].reshape(z.shape[:-2])

    return function


def rank_of_first(values: Float[np.ndarray, " state"], rng: np.random.Generator) -> int:
    """Rank of the first value among the others, from 1; chance decides between equals."""
    below, ties = int((values[1:] < values[0]).sum()), int((values[1:] == values[0]).sum())
    return 1 + below + int(rng.integers(0, ties + 1))


def n_bins(n_draws: int, n_rank: int) -> int:
    """Most bins of equally many ranks that expect 5 draws or more each, and at least 2.

    Examples
    --------
    >>> n_bins(100, 16), n_bins(40, 16), n_bins(4, 9)
    (16, 8, 3)
    """
    divisors = [k for k in range(2, n_rank + 1) if n_rank % k == 0]
    return max([k for k in divisors if n_draws / k >= 5], default=divisors[0])


def summary(
    rank: Int[np.ndarray, "function draw"],
    names: Sequence[str],
    n_members: int,
    significance: float,
    prior: Prior,
    rng: np.random.Generator,
) -> xr.Dataset:
    from scipy.stats import kstest

    from xdiffda.verify import flatness

    n_rank, n_draws = n_members + 1, rank.shape[1]
    bins = n_bins(n_draws, n_rank)
    where = (rank - 1) * bins // n_rank
    counts = np.stack([np.bincount(row, minlength=bins) for row in where]).astype(np.float64)
    shape = flatness(xr.Dataset({"count": (("function", "rank"), counts)}))["count"]
    ks = [kstest((row - 1 + rng.random(n_draws)) / n_rank, "uniform") for row in rank]
    columns = {
        str(k): ("function", shape.sel(statistic=k).values)
        for k in ("chi_square", "chi_square_p", "slope", "slope_p", "curvature", "curvature_p")
    }
    columns["ks"] = ("function", np.array([found.statistic for found in ks]))
    columns["ks_p"] = ("function", np.array([found.pvalue for found in ks]))
    p = np.stack([values for name, (_, values) in columns.items() if name.endswith("_p")])
    smallest = float(min(np.isfinite(p).sum() * np.nanmin(p), 1.0))
    return xr.Dataset(
        {
            "rank": (("function", "draw"), rank),
            "count": (("function", "rank_bin"), counts),
            **columns,
        },
        {"function": names, "draw": np.arange(n_draws), "rank_bin": np.arange(1, bins + 1)},
        {
            "protocol": f"ranks of {n_draws} truths drawn from the prior among {n_members} members "
            "of the analyses of their own observations (Talts et al. 2018); uniform: "
            "smallest p of chi-square, slope, curvature and KS over all functions, "
            f"times their number, above {significance:g}",
            "model": prior.name,
            "n_member": n_members,
            "smallest_p": smallest,
            "uniform": int(smallest > significance),
        },
    )


Observe = Callable[[xr.Dataset, int], xr.Dataset]
Analyse = Callable[[xr.Dataset, xr.Dataset, int], xr.Dataset]
J_O = "observation term of the cost function"


@with_own_jax
def simulation_based_calibration(
    prior: Prior,
    background: xr.Dataset,
    *,
    n_draws: int = 100,
    n_members: int = 15,
    n_columns: int = 20,
    error_std: Any = "default",
    observe: Observe | None = None,
    analyse: Analyse | None = None,
    functions: Mapping[str, TestFunction] | None = None,
    prior_steps: int = 64,
    significance: float = 0.01,
    seed: int = 0,
    progress: bool | None = None,
    settings: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Rank truths drawn from the prior among the members of their own analyses.

    Parameters
    ----------
    prior
        A model (`xdiffda.load_model`) or `GaussianPrior`.
    background
        One state of the prior's layout, or several along time, which the draws take in turn:
        ranks are uniform for each of them. Truths are drawn around it with r = 1.
    n_draws
        Truths, and analyses. With 100, a spread that is wrong by a quarter is found.
    n_members
        Members of each analysis; there are n_members + 1 ranks.
    n_columns, error_std
        Emulated observations (`emulate_obs`): new sites for every truth.
    observe
        (truth, number of the draw) -> observations, in place of these.
    analyse
        (background, observations, number of the draw) -> ensemble, in place of `assimilate`:
        another sampler. Its members must not depend on one another.
    functions
        Name -> scalar function of ``z = (x - x_b) / s``, (..., node, channel) -> (...); by
        default `default_functions`. The misfit to the observations is always added: without
        a function of the data, a sampler that ignores them passes (Modrák et al. 2023, arXiv
        2211.02383).
    prior_steps
        Evaluations with which a truth is drawn from a diffusion model (a `GaussianPrior` is
        drawn from exactly).
    significance
        Level at which ``uniform`` is decided, all functions together (Bonferroni).
    seed
        Same seed, same result.
    progress
        Show a progress bar; default the option ``progress``.
    settings
        Of `assimilate`: ``{"method": xdiffda.Guided(n_steps=16, start="cold")}``. Members are drawn
        independently, without small scales.

    Returns
    -------
    xarray.Dataset
        ``rank`` on (``function``, ``draw``), 1 to n_members + 1; ``count`` on (``function``,
        ``rank_bin``); ``chi_square``, ``slope``, ``curvature`` (`xdiffda.verify.flatness`)
        and ``ks`` (Kolmogorov-Smirnov, ranks spread evenly over their cells) with their
        ``_p`` on ``function``. ``attrs``: ``uniform`` (1 or 0), ``smallest_p`` of the four
        tests of all functions after Bonferroni, the protocol, and ``misfit_ratio``: mean misfit
        to the observations of the members over that of the truths, near 1 if both are draws
        from the posterior.

    Raises
    ------
    InputError
        If the numbers are too small, or the background has members.

    Notes
    -----
    What the prior's basis cannot represent is added to the truth before it is observed, as
    white noise, because `assimilate` takes it for error of representativeness. It is not part
    of what is ranked, and members are made without it (``small_scales=False``): what is
    tested is the sampler of z.

    Examples
    --------
    >>> from xdiffda.assimilation.methods import Guided
    >>> noise = np.random.default_rng(0).normal(size=(20, 6, 12))
    >>> errors = xr.Dataset({"2m_temperature": (("member", "lat", "lon"), noise)},
    ...                     {"lat": np.linspace(-75, 75, 6), "lon": np.arange(12) * 30.0})
    >>> found = simulation_based_calibration(
    ...     GaussianPrior.from_samples(errors), errors.isel(member=0, drop=True) + 280,
    ...     n_draws=4, n_members=3, n_columns=5, progress=False,
    ...     settings={"method": Guided(n_steps=4)})
    >>> found["rank"].sizes["draw"], int(found["rank"].max()) <= 4
    (4, True)
    """
    from xdiffda.state.convert import from_state

    _check(n_draws, n_members, n_columns, background)
    starts = _starts(background, prior)
    layout = prior.layout
    functions = default_functions(prior, seed=seed) if functions is None else dict(functions)
    observe = observe or _emulator(n_columns, error_std, seed)
    analyse = analyse or _assimilator(prior, n_members, seed, settings or {})
    ranks, misfits, rng = [], [], np.random.default_rng([seed, 1])
    truths = _truths(prior, starts, n_draws, prior_steps, seed)
    for number, z in _bar(truths, n_draws, progress):
        one, given, convention, _ = starts[number % len(starts)]
        x_b = prior.filtered(given[None])[0]  # what errors are errors of
        unseen = prior.unresolved_at(1.0) * rng.standard_normal(z.shape)
        seen = from_state(x_b + prior.scale * (z + unseen), layout, convention, dims=())
        obs = observe(seen, number)
        members = _members(analyse(one, obs, number), layout, n_members)
        # the truth, rounded as the members are, then the members
        truth = (x_b + prior.scale * z).astype(np.float32)
        together = np.concatenate([truth[None], members]).astype(np.float64)
        values = {name: f((together - x_b) / prior.scale) for name, f in functions.items()}
        values[J_O] = _misfit(together, obs, layout)
        misfits.append((values[J_O][0], values[J_O][1:].mean()))
        ranks.append([rank_of_first(np.asarray(v), rng) for v in values.values()])
    names = [*functions, J_O]
    found = summary(np.array(ranks).T, names, n_members, significance, prior, rng)
    truth, members = np.mean(misfits, axis=0)
    return found.assign_attrs(misfit_ratio=float(members / truth))


def _check(n_draws: int, n_members: int, n_columns: int, background: xr.Dataset) -> None:
    problems = [
        Problem(f"{name}={value!r}", f"{least} or more", f"{name}={least * 5}")
        for name, value, least in (
            ("n_draws", n_draws, 4),
            ("n_members", n_members, 2),
            ("n_columns", n_columns, 1),
        )
        if value < least
    ]
    if (n := background.sizes.get("member", 1)) > 1:
        problems.append(
            Problem(
                f"a background with {n} along member",
                "one state for each time",
                "background.isel(member=0)",
            )
        )
    raise_if(problems, what="simulation_based_calibration")


Start = tuple[xr.Dataset, np.ndarray, Any, "np.datetime64 | None"]


def _starts(background: xr.Dataset, prior: Prior) -> list[Start]:
    """Each background: as a Dataset and as an array, with its convention and valid time."""
    from xdiffda.state.convert import to_state
    from xdiffda.state.coordinates import find_axes

    axis = find_axes(background)[0].get("time")
    dim = axis.dim if axis is not None and axis.dim in background.dims else None
    every = (
        [background]
        if dim is None
        else [background.isel({dim: i}) for i in range(background.sizes[dim])]
    )
    starts = []
    for one in every:
        x, _, convention = to_state(one, prior.layout, what="background")
        stamps = convention.valid_times
        time = None if stamps is None else np.atleast_1d(stamps).reshape(-1)[0]
        starts.append((one, x.reshape(x.shape[-2:]), convention, time))
    return starts


def _truths(prior: Prior, starts: list[Start], n_draws: int, n_steps: int, seed: int) -> Any:
    """Draw z from the prior, one after another."""
    keys = jax.random.split(jax.random.key(seed), (n_draws, 2))
    if isinstance(prior, GaussianPrior):
        b = prior.covariance_at(1.0)
        for key in keys[:, 0]:
            yield np.asarray(programs.sample(b, key[None])[:, 0], np.float64)
        return
    ladder = karras_ladder(n_steps, sigma_max=80.0, sigma_min=0.02)
    for number, (start, noise) in enumerate(keys):
        _, given, _, time = starts[number % len(starts)]
        conditioned = prior.condition(given, time, 1.0)
        # at sigma_max the prior still shines through the largest scales: draw it too
        z = programs.sample(conditioned.climatology, start[None])
        z = z + ladder[0] * programs.unit_noise(conditioned.climatology, noise[None])
        z = SAMPLERS["dpm-solver"](
            lambda z, sigma, own=conditioned: programs.evaluate(own.denoise, z, sigma), z, ladder
        )
        yield np.asarray(z[:, 0], np.float64)


def _emulator(n_columns: int, error_std: Any, seed: int) -> Observe:
    from xdiffda.observations import emulate_obs

    return lambda truth, number: emulate_obs(
        truth, n_columns=n_columns, error_std=error_std, seed=seed + number
    )


def _assimilator(prior: Prior, n_members: int, seed: int, settings: Mapping[str, Any]) -> Analyse:
    from xdiffda.assimilation.assimilate import assimilate

    # r is known here, and to estimate it or to reject what is far off would
    # bend the posterior; ranks are uniform for independent members only
    given = dict(settings)
    method: Any = as_method(given.pop("method", "guided"))
    own = {field.name for field in dataclasses.fields(method)} & {"small_scales", "antithetic"}
    method = dataclasses.replace(method, **dict.fromkeys(own, False))
    fixed = {
        "background_error": 1.0,
        "quality": Quality(gross_check=np.inf),
        "progress": False,
        "method": method,
    }
    return lambda background, obs, number: assimilate(
        background,
        obs,
        model=prior,
        n_members=n_members,
        seed=seed + number,
        **(fixed | given),
    )


def _members(
    analysis: xr.Dataset, layout: Any, n_members: int
) -> Float[np.ndarray, "member node channel"]:
    from xdiffda.state.convert import to_state

    x = to_state(analysis, layout, what="analysis", check_values=False)[0]
    x = x.reshape(-1, *x.shape[-2:])
    found = Problem(f"{len(x)} members of an analysis", f"{n_members}", f"n_members={len(x)}")
    raise_if([found] if len(x) != n_members else [], what="simulation_based_calibration")
    return x.astype(np.float64)


def _misfit(
    x: Float[np.ndarray, "state node channel"], obs: xr.Dataset, layout: Any
) -> Float[np.ndarray, " state"]:
    from xdiffda.observations import observation_rows, to_tidy
    from xdiffda.verify.obs_space import apply_rows

    tidy = to_tidy(obs)
    value, error = tidy["value"].values, tidy["error_std"].values
    kept, seen = apply_rows(observation_rows(tidy, layout), x.astype(np.float32), value)
    return 0.5 * (((value[kept] - seen) / error[kept]) ** 2).sum(-1)


def _bar(truths: Any, n_draws: int, progress: bool | None) -> Any:
    from tqdm import tqdm

    from xdiffda.options import get_options

    wanted = get_options().progress if progress is None else progress
    return tqdm(enumerate(truths), total=n_draws, desc="calibrate", disable=not wanted)

"""Local ensemble transform Kalman filter: the geometry-free core.

Hunt, Kostelich & Szunyogh (2007), doi 10.1016/j.physd.2006.11.008.  A patch (a grid point
at one height, a variable of Lorenz-96) comes with a list of observations and a taper for
each; all patches are independent of each other.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xdiffda.errors import Problem, raise_if

_PRECISION = "highest"  # Gram matrices in tf32 would not be positive definite


@dataclasses.dataclass(frozen=True)
class Inflation:
    """Against the loss of spread by sampling and model error.

    Attributes
    ----------
    factor : float
        Multiplicative inflation of the background's covariance (of its variance; the
        perturbations grow by its square root); first guess if ``adaptive``.
    rtpp : float
        Relaxation of analysis to background perturbations, 0 to 1: Zhang, Snyder & Sun
        (2004), doi 10.1175/1520-0493(2004)132<1238:IOIEAO>2.0.CO;2, eq. 5.
    rtps : float
        Relaxation of analysis to background spread, 0 to 1 (more is allowed): Whitaker &
        Hamill (2012), doi 10.1175/MWR-D-11-00276.1, eq. 2.
    additive : float
        Random states added to the background members, their mean removed: draws from the
        prior's Gaussian of background errors, times this. For errors of the model, which no
        factor can make from members that agree: Mitchell & Houtekamer (2000), doi
        10.1175/1520-0493(2000)128<0416:AAEKF>2.0.CO;2; Whitaker & Hamill (2012), sect. 2b.
    adaptive : bool
        Estimate the factor of each patch from innovations, for the next cycle: Miyoshi
        (2011), doi 10.1175/2010MWR3570.1, eqs. 8 to 13.
    prior_std : float
        How far the factor may move in a cycle, as a standard deviation.
    bounds : tuple of float
        Of the adaptive factor.
    """

    factor: float = 1.0
    rtpp: float = 0.0
    rtps: float = 0.0
    additive: float = 0.0
    adaptive: bool = False
    prior_std: float = 0.04
    bounds: tuple[float, float] = (0.9, 5.0)

    def __post_init__(self) -> None:
        problems = []
        if not self.factor > 0:
            problems.append(Problem(f"factor={self.factor}", "a positive number", "factor=1.1"))
        if not 0 <= self.rtpp <= 1:
            problems.append(Problem(f"rtpp={self.rtpp}", "0 to 1", "rtpp=0.5"))
        if not 0 <= self.rtps < 2:
            problems.append(Problem(f"rtps={self.rtps}", "0 to 1, or a little more", "rtps=0.9"))
        if not self.additive >= 0:
            found = f"additive={self.additive}"
            problems.append(Problem(found, "0 or a share of the background error", "additive=0.2"))
        if not self.prior_std > 0:
            problems.append(Problem(f"prior_std={self.prior_std}", "positive", "prior_std=0.04"))
        if not 0 < self.bounds[0] <= self.bounds[1]:
            problems.append(Problem(f"bounds={self.bounds}", "0 < low <= high", "bounds=(0.9, 5)"))
        raise_if(problems, what="inflation")


INFLATION = Inflation()


class _Knobs(NamedTuple):
    """Numbers of an `Inflation` that may be traced: tuning them compiles nothing anew."""

    rtpp: float | Array
    rtps: float | Array
    prior_std: float | Array
    bounds: tuple[float | Array, float | Array]


class Departures(NamedTuple):
    """What the observations say of the ensemble, divided by their errors.

    Attributes
    ----------
    seen : array (obs, member)
        Perturbations of the members from their mean, in observation space.
    innovation : array (obs,)
        Observation minus the members' mean.
    """

    seen: Float[Array, "obs member"]
    innovation: Float[Array, " obs"]


def departures(
    seen: Float[Array, "member obs"], value: Float[Array, " obs"], error_std: Float[Array, " obs"]
) -> Departures:
    """Whiten the members as the observations see them (Hunt et al. 2007, step 1).

    Observations of infinite error count for nothing.

    Examples
    --------
    >>> d = departures(jnp.array([[1.0], [3.0]]), jnp.array([4.0]), jnp.array([2.0]))
    >>> d.seen.tolist(), d.innovation.tolist()
    ([[-0.5, 0.5]], [1.0])
    """
    mean = seen.mean(0)
    return Departures(((seen - mean) / error_std).T, (value - mean) / error_std)


def ensemble_transform(
    seen: Float[Array, "obs member"],
    innovation: Float[Array, " obs"],
    taper: Float[Array, " obs"],
    factor: float | Array = 1.0,
) -> Float[Array, "member member"]:
    """Weights of the background's perturbations in each member of the analysis.

    ``P = [(N - 1) I / factor + Y^T (rho R^-1) Y]^-1``; column i is
    ``P Y^T (rho R^-1) d + [(N - 1) P]^(1/2) e_i`` (Hunt et al. 2007, steps 4 to 7).  The
    symmetric root keeps the mean and is closest to no change.

    Parameters
    ----------
    seen, innovation : arrays (obs, member) and (obs,)
        `Departures` of the observations near a patch.
    taper : array (obs,)
        rho, 0 to 1: R-localisation divides the error variance by it.
    factor : float
        Multiplicative inflation of the background's covariance.

    Returns
    -------
    array (member, member)
        ``analysis_i = mean + sum_j perturbation_j weights[j, i]``.

    Examples
    --------
    Without observations the ensemble stays as it is.

    >>> w = ensemble_transform(jnp.zeros((1, 2)), jnp.zeros(1), jnp.ones(1))
    >>> w.round(5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    n = seen.shape[1]
    tapered = seen * taper[:, None]
    gram = jnp.matmul(tapered.T, seen, precision=_PRECISION)
    values, vectors = jnp.linalg.eigh(gram)
    # the diagonal is added to the eigenvalues: exact where observations say nothing
    values = jnp.maximum(values, 0.0) + (n - 1) / factor
    pull = jnp.matmul(innovation, tapered, precision=_PRECISION)
    mean = jnp.matmul(vectors / values, vectors.T @ pull, precision=_PRECISION)
    root = jnp.matmul(vectors * jnp.sqrt((n - 1) / values), vectors.T, precision=_PRECISION)
    return mean[:, None] + root


def adapted_factor(
    seen: Float[Array, "obs member"],
    innovation: Float[Array, " obs"],
    taper: Float[Array, " obs"],
    factor: Array,
    inflation: Inflation | _Knobs,
) -> Array:
    """The inflation factor of a patch after its innovations (Miyoshi 2011, eqs. 8 to 13).

    ``E[d^T rho R^-1 d] = factor tr(rho R^-1 H P H^T) + tr(rho)`` gives an estimate, whose
    sampling variance and that of the first guess (``prior_std`` squared) weigh it.
    """
    count = taper.sum()
    spread = (taper * jnp.sum(seen**2, axis=1)).sum() / (seen.shape[1] - 1)
    there = (count > 0) & (spread > 1e-6 * count)
    count, spread = jnp.where(there, count, 1.0), jnp.where(there, spread, 1.0)
    estimate = ((taper * innovation**2).sum() - count) / spread
    variance = 2 / count * (factor + count / spread) ** 2
    gain = inflation.prior_std**2 / (inflation.prior_std**2 + variance)
    new = jnp.clip(factor + gain * (estimate - factor), *inflation.bounds)
    return jnp.where(there, new, factor)


def relax(
    analysis: Float[Array, "member *shape"],
    background: Float[Array, "member *shape"],
    inflation: Inflation | _Knobs,
) -> Float[Array, "member *shape"]:
    """Relax perturbations (RTPP), then spread (RTPS), towards the background's.

    Examples
    --------
    >>> a, b = jnp.array([[-1.0], [1.0]]), jnp.array([[-3.0], [3.0]])
    >>> relax(a, b, Inflation(rtps=0.5)).tolist(), relax(a, b, Inflation(rtpp=0.5)).tolist()
    ([[-2.0], [2.0]], [[-2.0], [2.0]])
    """
    mean = analysis.mean(0)
    own, before = analysis - mean, background - background.mean(0)
    own = (1 - inflation.rtpp) * own + inflation.rtpp * before
    spread, goal = jnp.std(own, axis=0), jnp.std(before, axis=0)
    ratio = (goal - spread) / jnp.where(spread > 0, spread, 1.0)
    return mean + own * (1 + inflation.rtps * jnp.where(spread > 0, ratio, 0.0))


def local_analysis(
    ensemble: Float[Array, "member patch channel"],
    departure: Departures,
    near: Int[Array, "patch neighbour"],
    taper: Float[Array, "patch neighbour"],
    factor: Float[Array, " patch"],
    *,
    inflation: Inflation = INFLATION,
) -> tuple[Float[Array, "member patch channel"], Float[Array, " patch"]]:
    """Analyse every patch from its own observations.

    Parameters
    ----------
    ensemble : array (member, patch, channel)
        Background members; channels of a patch share its weights.
    departure : Departures
        Of all observations.
    near : int array (patch, neighbour)
        Which observations a patch takes.
    taper : array (patch, neighbour)
        Their R-localisation, 0 where the list is padded.
    factor : array (patch,)
        Multiplicative inflation.
    inflation : Inflation
        Relaxation and adaptation.

    Returns
    -------
    ensemble : array (member, patch, channel)
        Analysis members.
    factor : array (patch,)
        For the next cycle.

    Examples
    --------
    One variable, observed directly: mean and variance are the Kalman filter's.

    >>> x = jnp.array([-1.0, 0.0, 1.0])[:, None, None]
    >>> d = departures(x[:, :, 0], jnp.array([2.0]), jnp.array([1.0]))
    >>> a, _ = local_analysis(x, d, jnp.zeros((1, 1), int), jnp.ones((1, 1)), jnp.ones(1))
    >>> round(float(a.mean()), 4), round(float(a.var(ddof=1)), 4)
    (1.0, 0.5)
    """
    knobs = _Knobs(inflation.rtpp, inflation.rtps, inflation.prior_std, inflation.bounds)
    as32 = jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), knobs)
    return _analyse(ensemble, departure, near, taper, factor, as32, inflation.adaptive)


@eqx.filter_jit
def _analyse(
    ensemble: Array,
    departure: Departures,
    near: Array,
    taper: Array,
    factor: Array,
    knobs: _Knobs,
    adaptive: bool,
) -> tuple[Array, Array]:
    seen, innovation = departure.seen[near], departure.innovation[near]
    weights = jax.vmap(ensemble_transform)(seen, innovation, taper, factor)
    mean = ensemble.mean(0)
    spread = jnp.einsum("mpc,pmn->npc", ensemble - mean, weights, precision=_PRECISION)
    analysis = relax(mean + spread, ensemble, knobs)
    if adaptive:

        def adapt(s, d, t, f):
            return adapted_factor(s, d, t, f, knobs)

        factor = jax.vmap(adapt)(seen, innovation, taper, factor)
    return analysis, factor

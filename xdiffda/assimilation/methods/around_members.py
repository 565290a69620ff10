"""Analysis members around background members, without counting the background error twice.

The error of the ensemble's mean has a part that the members show and a part that they do not:

    x = mean + p + r sqrt(alpha) s z,    p ~ N(0, (1 - alpha) P),    z ~ the prior given mean + p,

P the localised covariance of the ensemble.  Its total is the hybrid ``alpha B + (1 - alpha) P``
(Hamill & Snyder 2000), not the sum of two full covariances.  The posterior of both parts is drawn
by composition, ``p(p | y) p(z | p, y)``: first each background member is moved by the observations
as in the perturbed-observation ensemble Kalman filter (Burgers, van Leeuwen & Evensen 1998), the
diffusion part standing in by its B; then the guided prior draws what is left around it.  With a
Gaussian prior and linear observations the result is a draw from the exact posterior.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.covariance.draws import Draws, split_keys
from xdiffda.covariance.ensemble import Hybrid, HybridCovariance, centre, spread_scale
from xdiffda.covariance.localisation import EnsembleCovariance
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.perturbed import perturbed_update
from xdiffda.state.grid import Layout

ENSEMBLE_PART = 0xE25E  # a stream of random numbers that nothing else uses


class MovedMembers(NamedTuple):
    """Background members after the observations.

    Attributes
    ----------
    z : array (node, member, channel)
        Their distance p from the background's mean.
    residual : array (member,)
        Relative residual of the solve.
    """

    z: Float[Array, "node member channel"]
    residual: Float[Array, " member"]


def hybrid_covariance(
    ensemble: Float[np.ndarray, "member node channel"],
    scale: Float[np.ndarray, "node channel"],
    climatology: SpectralCovariance,
    layout: Layout,
    hybrid: Hybrid,
) -> HybridCovariance:
    """``alpha B + (1 - alpha) P`` of z: the ensemble says where the error is and how it is shaped.

    How large it is in all, r says: P is brought to the variance of B on the average over globe
    and channels.  With r from the spread of the ensemble, P is as the ensemble has it.
    """
    _, perturbations = centre(ensemble, scale)
    variance = np.asarray(climatology.variance)
    size = spread_scale(perturbations, variance, layout.grid.area_weights())
    day = EnsembleCovariance.localised(
        perturbations / max(size, 1e-6),
        climatology.basis,
        layout,
        localisation=hybrid.localisation,
    )
    return HybridCovariance(climatology, day, jnp.asarray(hybrid.alpha, jnp.float32))


@eqx.filter_jit
def move_members(
    covariance: HybridCovariance,
    likelihood: Likelihood,
    draws: Draws,
    numbers: Array,
    solver: Solver = Solver(),
) -> MovedMembers:
    """Draw the ensemble's part p of the error given the observations.

    Parameters
    ----------
    covariance : HybridCovariance
    likelihood : Likelihood
        Of z in the unit of ``covariance``, as seen from the mean of the background members.
    draws : Draws
    numbers : int array (member,)
        Analysis members; number i starts from background member i modulo their count, whatever
        its sign: so many as there are background members share their mean exactly.
    solver : Solver
    """
    keys = jax.vmap(lambda key: jax.random.fold_in(key, ENSEMBLE_PART))(draws.keys)
    static_keys, error_keys = split_keys(keys)
    own = jnp.sqrt(1 - covariance.alpha) * covariance.ensemble.members(numbers)
    rest = jnp.sqrt(covariance.alpha) * covariance.static.sample(static_keys)
    found = perturbed_update(
        jnp.zeros_like(own),
        own + draws.signs[:, None] * rest,
        covariance,
        likelihood,
        draws._replace(keys=error_keys),
        solver=solver,
    )
    moved = (1 - covariance.alpha) * covariance.ensemble(found.pulled)
    return MovedMembers(own + moved, found.residual)

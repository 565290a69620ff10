"""What every method behind `assimilate` is: an object with its settings, its checks and its draw.

A new method is one class that derives from `Method` and one row of the table
`xdiffda.assimilation.methods.METHODS`; `assimilate`, cycles, experiments and the command line
know no more of it than that.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from xdiffda.assimilation.devices import Schedule
from xdiffda.assimilation.methods.around_members import hybrid_covariance
from xdiffda.covariance.draws import Draws, make_draws
from xdiffda.covariance.ensemble import Hybrid, HybridCovariance, centre, variance_ratio
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.devices import place_members, replicate
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.unresolved_scales import explain, observed
from xdiffda.errors import Problem
from xdiffda.priors.prior import Prior

# streams of random numbers that nothing else uses
SMALL_SCALES, SMALL_ERRORS = 0x5CA1E, 0x5CA1F
Watch = Callable[[Array], None]
# (draws, numbers of the members) -> z of a group of members
Draw = Callable[[Draws, Array], Array]
Tick = Callable[[int], None]
Members = Float[np.ndarray, "node member channel"]


class Drawn(NamedTuple):
    """What a method returns.

    Attributes
    ----------
    z : array (node, member, channel)
    residual : float
        Largest relative residual of the solves for the observations; NaN where none is made.
    inflation : array (node, channel), optional
        Factor for the next cycle, of the LETKF with adaptive inflation.
    """

    z: Members
    residual: float = float("nan")
    inflation: Float[np.ndarray, "node channel"] | None = None


class AnalysisTime(NamedTuple):
    """All that a method may look at.

    Attributes
    ----------
    prior : Prior
    given : array (node, channel)
        The background as it came, which the network was trained to read; physical units.
    background : array (node, channel)
        The same with its grid-scale noise damped (`Prior.filtered`), from which z departs.
    time : datetime64 or None
    r : float
        Scale of the background error.
    likelihood : Likelihood
        Whitened observations of z.
    rows : int array (obs,)
        Row of ``tidy`` behind each row of the likelihood; -1 where it is not used.
    tidy : Dataset
        The observations behind it: those used, and no others.
    key : jax key
    n_members : int
        How many members are wanted.
    ensemble : array (member, node, channel) or None
        Background members, filtered too, where the background has them; ``background`` is
        then their mean.
    schedule : Schedule, optional
        How members are grouped, and on which devices; by default ``max_batch`` at a time on
        the default device.
    """

    prior: Prior
    given: Float[np.ndarray, "node channel"]
    background: Float[np.ndarray, "node channel"]
    time: np.datetime64 | None
    r: float
    likelihood: Likelihood
    rows: Int[np.ndarray, " obs"]
    tidy: xr.Dataset
    key: Array
    n_members: int = 1
    ensemble: Float[np.ndarray, "member node channel"] | None = None
    schedule: Schedule | None = None

    def conditioned(self) -> Conditioned:
        """The prior, conditioned on the background."""
        return self.prior.condition(self.given, self.time, self.r)

    def flow_dependent_variance(self) -> Float[np.ndarray, "node channel"]:
        """Where background members differ more or less than B says; r says how much in all."""
        layout, covariance = self.prior.layout, self.prior.covariance
        _, perturbations = centre(self.ensemble, self.prior.scale, r=self.r)
        return variance_ratio(
            perturbations,
            np.asarray(covariance.variance),
            covariance.basis,
            area=layout.grid.area_weights(),
        )

    def hybrid(self, hybrid: Hybrid) -> HybridCovariance:
        """``alpha B + (1 - alpha) P``, P the localised covariance of the background members."""
        assert self.ensemble is not None
        return hybrid_covariance(
            self.ensemble,
            self.prior.scale,
            self.prior.covariance_at(self.r),
            self.prior.layout,
            hybrid,
        )

    def on_devices(self, tree: Any) -> Any:
        """A copy on each device of the schedule."""
        if self.schedule is None or not self.schedule.devices:
            return tree
        return replicate(tree, self.schedule.devices)


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A way from one background and its observations to members of the analysis.

    A subclass is a frozen dataclass: its fields are its settings, each with a default, checked in
    ``__post_init__`` (raise `InputError`, or ValueError).

    Attributes
    ----------
    name : str
        As in ``assimilate(obs, method=name)`` and in configuration files.
    ensemble : bool
        Whether it draws as many members as are asked for; False: one best state.
    uses_members : bool
        Whether the covariance of background members enters.
    needs_members : bool
        Whether it works with a background that has members only, and returns as many.
    uses_network : bool
        Whether it evaluates the network for each member: its members are then grouped by what
        the memory of the devices holds.
    all_together : bool
        Whether it solves for all observations together: the methods that take correlated errors
        and robust weights.

    Examples
    --------
    >>> from xdiffda.assimilation.methods import METHODS
    >>> METHODS["3dvar"]().ensemble
    False
    """

    name: ClassVar[str]
    ensemble: ClassVar[bool] = True
    uses_members: ClassVar[bool] = False
    needs_members: ClassVar[bool] = False
    uses_network: ClassVar[bool] = False
    all_together: ClassVar[bool] = True

    @abc.abstractmethod
    def draw(self, at: AnalysisTime, tick: Tick) -> Drawn:
        """Members of the analysis, in units of the background error: z = (x - x_b) / (r s).

        Parameters
        ----------
        at : AnalysisTime
            Background, whitened observations and prior of one analysis time.
        tick : callable
            Called with the number of steps done, for the progress bar.
        """

    def for_prior(self, prior: Prior) -> Self:
        """The method with all that depends on the prior chosen.

        Raises
        ------
        InputError
            If it does not fit the prior.
        """
        return self

    def for_cycle(self, carry: str) -> Self:
        """The method as cycles use it, which carry on the ``mean`` or the ``ensemble``."""
        return self

    def network_evaluations(self, prior: Prior) -> int:
        """Evaluations of the network for each member."""
        return 0

    def n_members(self, wanted: int, n_background: int) -> int:
        """Members of the analysis, of which ``wanted`` are asked for."""
        if self.needs_members:
            return n_background
        return wanted if self.ensemble else 1

    @property
    def alpha(self) -> float:
        """Share of B in the expected variance of departures; background members have the rest."""
        return Hybrid().alpha

    @property
    def solves(self) -> Solver | None:
        """Settings of the solver for the observations; None where nothing is solved."""
        return None

    def plain(self) -> dict[str, Any]:
        """Name and settings as plain data, for attributes and stores."""
        found = dataclasses.asdict(self)
        # numpy's numbers cannot be written down as JSON
        plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in found.items()}
        return {"name": self.name, **plain}


def whole_number(name: str, value: Any, call: str, example: int = 8) -> list[Problem]:
    """The problem of a setting that is to be a whole number of 1 or more, if it has one."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and value >= 1:
        return []
    return [
        Problem(f"{name}={value!r}", "a whole number of 1 or more", f"{call}({name}={example})")
    ]


def true_or_false(name: str, value: Any, call: str) -> list[Problem]:
    """The problem of a setting that is to be True or False, if it has one."""
    if value in (True, False):
        return []
    return [Problem(f"{name}={value!r}", "True or False", f"{call}({name}=True)")]


def of_class(name: str, value: Any, kind: type, call: str) -> list[Problem]:
    """The problem of a setting that is to be an object of a class, if it has one."""
    if isinstance(value, kind):
        return []
    of = kind.__name__
    return [
        Problem(f"{name}={value!r}", f"settings of class {of}", f"{call}({name}=xdiffda.{of}())")
    ]


def in_groups(
    draw: Draw, at: AnalysisTime, *, antithetic: bool, max_batch: int, place: bool = True
) -> Members:
    """Draw all members, a group at a time; a member is the same in any group.

    ``place`` shares the members of a group out among the devices of the schedule.
    """
    schedule = at.schedule or Schedule(max_batch)
    groups = []
    for numbers in map(jnp.asarray, schedule.groups(at.n_members)):
        draws = make_draws(at.key, numbers, antithetic=antithetic)
        if place and schedule.devices:
            draws = place_members(draws, schedule.devices)
        groups.append(np.asarray(draw(draws, numbers)))
    return np.concatenate(groups, axis=1)[:, : at.n_members]


def with_small_scales(
    at: AnalysisTime,
    z: Array,
    draws: Draws,
    likelihood: Likelihood | None = None,
    solver: Solver = Solver(),
    watch: Watch = lambda residual: None,
) -> Array:
    """Members with the unresolved scales, drawn for each from a key of its own.

    Given the observations, where a ``likelihood`` depends on these scales.
    """
    unresolved = at.prior.unresolved_scales(at.r)
    if unresolved is None:
        return z
    keys, error_keys = (_folded(draws.keys, n) for n in (SMALL_SCALES, SMALL_ERRORS))
    drawn = draws.signs[:, None] * unresolved.draw(keys)
    if likelihood is None or not observed(likelihood):
        return z + drawn
    found = explain(
        unresolved,
        likelihood,
        z,
        drawn,
        draws._replace(keys=error_keys),
        solver=solver,
    )
    watch(found.residual)
    return found.z


def with_mean_small_scales(
    at: AnalysisTime, z: Array, solver: Solver, watch: Watch = lambda residual: None
) -> Array:
    """The same for a best estimate: the mean of the unresolved scales."""
    unresolved = at.prior.unresolved_scales(at.r)
    if unresolved is None or not observed(at.likelihood):
        return z
    found = explain(unresolved, at.likelihood, z, jnp.zeros_like(z), solver=solver)
    watch(found.residual)
    return found.z


def _folded(keys: Array, number: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)

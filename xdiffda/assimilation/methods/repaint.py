"""Inpainting of interpolated observations, as DiffDA conditions on them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import jax.numpy as jnp
from jaxtyping import Array

from xdiffda.assimilation.methods.base import (
    AnalysisTime,
    Drawn,
    Method,
    Tick,
    in_groups,
    true_or_false,
    whole_number,
    with_small_scales,
)
from xdiffda.assimilation.methods.interpolation import kriged
from xdiffda.covariance.draws import Draws
from xdiffda.diffusion import repaint
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations import soft_mask
from xdiffda.priors.prior import Prior

CALL = "xdiffda.RePaint"


@dataclasses.dataclass(frozen=True)
class RePaint(Method, repaint.RePaint):
    """Inpainting of interpolated observations by the diffusion prior, as in the DiffDA paper.

    It knows no observation error. The defaults are the paper's: 2,910 evaluations for each member.

    Parameters
    ----------
    n_levels : int
        Noise levels, spread evenly over the 1000 of the linear-beta schedule.
    jump_length : int
        Levels that one jump back goes up.
    resamplings : int
        Visits of each stretch of ``jump_length`` levels.
    mask_sigma : float
        Width of the soft mask in grid cells.
    antithetic, small_scales, max_batch
        See `xdiffda.Guided`.

    Raises
    ------
    InputError
        If a setting is out of its range, with all that is wrong.

    Notes
    -----
    Lugmayr et al. (2022), arXiv 2201.09865; Huang et al. (2024), arXiv 2401.05932.

    Examples
    --------
    >>> RePaint().evaluations
    2910
    >>> RePaint(n_levels=50, jump_length=5, resamplings=2).evaluations
    95
    """

    name: ClassVar[str] = "repaint"
    uses_network: ClassVar[bool] = True

    antithetic: bool | None = None
    small_scales: bool = True
    max_batch: int = 8

    def __post_init__(self) -> None:
        problems = whole_number("max_batch", self.max_batch, CALL)
        problems += true_or_false("small_scales", self.small_scales, CALL)
        if self.antithetic is not None:
            problems += true_or_false("antithetic", self.antithetic, CALL)
        try:
            super().__post_init__()
        except (ValueError, TypeError) as error:
            problems.append(Problem(str(error), "settings that fit together", f"{CALL}()"))
        raise_if(problems, what="settings of repaint")

    def for_prior(self, prior: Prior) -> Self:
        if not prior.has_denoiser:
            problem = Problem(
                f'method="repaint" with the prior {prior.name!r}',
                "a prior with a denoiser",
                'assimilate(obs, method="guided")',
            )
            raise InputError([problem], what="settings of repaint")
        return dataclasses.replace(self, antithetic=self.antithetic is not False)

    def for_cycle(self, carry: str) -> Self:
        pairs = carry == "mean" if self.antithetic is None else self.antithetic
        return dataclasses.replace(self, antithetic=pairs)

    def network_evaluations(self, prior: Prior) -> int:
        return self.evaluations

    def draw(self, at: AnalysisTime, tick: Tick) -> Drawn:
        prior, layout = at.conditioned(), at.prior.layout
        mask = jnp.asarray(soft_mask(at.tidy, layout, sigma=self.mask_sigma))
        # where no site is near there is nothing to inpaint: the background stands, and the mask
        # of a Gaussian is all but zero there
        z = jnp.asarray(kriged(at))
        prior, z, mask = at.on_devices((prior, z, mask))

        def draw(draws: Draws, numbers: Array) -> Array:
            found = repaint.sample_repaint(prior, z, mask, draws, settings=self, tick=tick)
            return with_small_scales(at, found, draws) if self.small_scales else found

        antithetic = self.antithetic is not False
        return Drawn(in_groups(draw, at, antithetic=antithetic, max_batch=self.max_batch))

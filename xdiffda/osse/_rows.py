"""What is called for each row of the tables, and which rows belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import xarray as xr

from xdiffda.analysis import assimilate
from xdiffda.diffusion.repaint import RePaint
from xdiffda.diffusion.sampling import Guidance
from xdiffda.network_prior import DiffusionPrior
from xdiffda.observations import interpolate


@dataclasses.dataclass(frozen=True)
class Case:
    """One analysis time."""

    truth: xr.Dataset
    background: xr.Dataset
    number: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: what is called, and how often the network is evaluated.

    ``sampler`` tells records of one version of the sampler from those of another.
    """

    call: Callable[[Case, xr.Dataset], xr.Dataset]
    evaluations: int = 0
    sampler: str = ""

    def kept_as(self, name: str) -> str:
        """Under what name its records are kept."""
        return f"{name} ({self.sampler})" if self.sampler else name


BASE = "background"
USUAL = (BASE, "interpolated observations", "OI, same B", "3D-Var, same B",
         "guided, warm start, 8 evaluations", "the same, independent members")  # fmt: skip
MASKS = (0.1, 0.2, 0.3, 0.5, 1.0, 1.5)
FULL_SCHEDULE = "RePaint, 2,910 evaluations, mask 0.1 cells"
SWEEPS = {
    "guidance": (
        *(f"guided, V calibrated, warm start, {n} steps" for n in (4, 8, 16, 32, 64)),
        *(f"guided, V calibrated, cold start, {n} steps" for n in (4, 8, 16, 32, 64)),
        *(f"guided, V {v}, {start} steps" for v in ("climatological", "diagonal")
          for start in ("warm start, 8", "cold start, 32")),
        *(f"guided, V calibrated, {start} steps, {s}" for s in ("heun", "stochastic")
          for start in ("warm start, 8", "warm start, 16", "cold start, 32")),
    ),
    "guidance, short": (
        *(f"guided, V calibrated, warm start, {n} steps" for n in (4, 8)),
        "guided, V calibrated, cold start, 32 steps",
        *(f"guided, V {v}, warm start, 8 steps" for v in ("climatological", "diagonal")),
    ),
    # one reverse derivative of the network for each iteration of the solver: dear
    "jacobian": tuple(f"guided, V {v}, warm start, 8 steps" for v in ("jacobian", "calibrated")),
    # what the project has to show: guided in 8 against the field's methods and the paper's own
    "required": (
        "OI, same B", "3D-Var, same B", "guided, warm start, 8 evaluations",
        "guided, 8 evaluations, 2 independent members", FULL_SCHEDULE,
    ),
    # as many independent members, and as many evaluations or four times as many
    "equal cost": (
        "the same, independent members",
        *(f"RePaint, {n} evaluations, mask 0.1 cells" for n in (8, 35)),
    ),
    "masks": tuple(f"RePaint, 95 evaluations, mask {w:g} cells" for w in MASKS),
}  # fmt: skip
"""Rows that belong together, by the name that stands for them in ``--rows``."""
COSTLY = ("draws from the Gaussian posterior (B)", "guided, cold start, 32 evaluations")


class Rows:
    """Makes rows that call `assimilate` with a prior."""

    def __init__(self, prior: DiffusionPrior, n_members: int) -> None:
        self._prior, self._n_members = prior, n_members

    def analysis(self, evaluations: int = 0, *, model: Any = None, **settings: Any) -> Row:
        """A call with ``settings``; the seed is the number of the case."""
        given = {"model": model or self._prior, "n_members": self._n_members} | settings
        sampler = "" if "method" in settings else Guidance().version
        return Row(
            lambda case, obs: assimilate(
                case.background, obs, progress=False, seed=case.number, **given
            ), evaluations, sampler,
        )  # fmt: skip

    def repaint(self, settings: RePaint, **more: Any) -> dict[str, Row]:
        """RePaint, whose members are drawn independently, by its name in the tables."""
        count, width = settings.evaluations, settings.mask_sigma
        return {f"RePaint, {count:,} evaluations, mask {width:g} cells": self.analysis(
            count, method="repaint", repaint=settings, antithetic=False, **more
        )}  # fmt: skip

    def all_repaint(self) -> dict[str, Row]:
        """All schedules and masks.

        The mask of the paper covers all but everything on this grid, and each further visit of a
        level draws the soft rim nearer to the interpolated field: the longer the walk, the
        narrower the mask has to be.
        """
        rows: dict[str, Row] = {}
        for n, jump, times in ((300, 10, 10), (100, 10, 5)):
            for width in MASKS[:3]:
                rows |= self.repaint(RePaint(n, jump, times, width), n_members=2)
        for width in MASKS:
            rows |= self.repaint(RePaint(50, 5, 2, width))
        for n, jump, times in ((8, 4, 1), (20, 5, 2)):
            rows |= self.repaint(RePaint(n, jump, times, MASKS[0]))
        return rows

    def all_guided(self) -> dict[str, Row]:
        """All V, starts, numbers of steps and samplers."""
        return {
            f"guided, V {v}, {start} start, {n} steps{'' if s == 'dpm-solver' else ', ' + s}":
            self.analysis(n, covariance=v, start=start, n_steps=n, sampler=s)
            for v in ("calibrated", "climatological", "diagonal", "jacobian")
            for start in ("warm", "cold")
            for n in (4, 8, 16, 32, 64)
            for s in ("dpm-solver", "heun", "stochastic")
        }  # fmt: skip


def methods(prior: DiffusionPrior, *, n_members: int) -> dict[str, Row]:
    """All rows that a table can have, by their names."""
    rows = Rows(prior, n_members)
    return {
        BASE: Row(lambda case, obs: case.background),
        "interpolated observations": Row(
            lambda case, obs: interpolate(obs, like=case.background, background=case.background)
        ),
        "OI, same B": rows.analysis(method="oi"),
        "3D-Var, same B": rows.analysis(method="3dvar"),
        "draws from the Gaussian posterior (B)": rows.analysis(model=prior.gaussian()),
        "guided, warm start, 8 evaluations": rows.analysis(8),
        "the same, independent members": rows.analysis(8, antithetic=False),
        "guided, 8 evaluations, 2 independent members": rows.analysis(
            8, antithetic=False, n_members=2
        ),
        "guided, cold start, 32 evaluations": rows.analysis(32, start="cold", n_steps=32),
        **rows.all_repaint(),
        **rows.all_guided(),
    }

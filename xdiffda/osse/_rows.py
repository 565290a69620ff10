"""What is called for each row of the tables, and which rows belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import xarray as xr

from xdiffda.analysis import assimilate
from xdiffda.diffusion.repaint import RePaint
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
    """A row of the table: what is called, and how often the network is evaluated."""

    call: Callable[[Case, xr.Dataset], xr.Dataset]
    evaluations: int = 0


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
    # as many independent members, and as many evaluations or up to twelve times as many
    "equal cost": (
        "the same, independent members", *(f"RePaint, {n} evaluations, mask 0.1 cells"
                                           for n in (8, 35, 95)),
    ),
    "masks": tuple(f"RePaint, 95 evaluations, mask {w:g} cells" for w in MASKS),
}  # fmt: skip
"""Rows that belong together, by the name that stands for them in ``--rows``."""
COSTLY = ("draws from the Gaussian posterior (B)", "guided, cold start, 32 evaluations")


def methods(prior: DiffusionPrior, *, n_members: int) -> dict[str, Row]:
    """All rows that a table can have, by their names."""

    def analyse(model: Any, evaluations: int = 0, **settings: Any) -> Row:
        return Row(
            lambda case, obs: assimilate(
                case.background, obs, model=model, progress=False, seed=case.number,
                **({"n_members": n_members} | settings),
            ), evaluations,
        )  # fmt: skip

    def repaint(settings: RePaint, members: int = n_members) -> Row:
        count = settings.evaluations
        return analyse(prior, count, method="repaint", repaint=settings, n_members=members,
                       antithetic=False)  # fmt: skip

    guided = {
        f"guided, V {v}, {start} start, {n} steps{'' if s == 'dpm-solver' else ', ' + s}": analyse(
            prior, n, covariance=v, start=start, n_steps=n, sampler=s
        )
        for v in ("calibrated", "climatological", "diagonal", "jacobian")
        for start in ("warm", "cold")
        for n in (4, 8, 16, 32, 64)
        for s in ("dpm-solver", "heun", "stochastic")
    }
    return {
        BASE: Row(lambda case, obs: case.background),
        "interpolated observations": Row(
            lambda case, obs: interpolate(obs, like=case.background, background=case.background)
        ),
        "OI, same B": analyse(prior, method="oi"),
        "3D-Var, same B": analyse(prior, method="3dvar"),
        "draws from the Gaussian posterior (B)": analyse(prior.gaussian()),
        "guided, warm start, 8 evaluations": analyse(prior, 8),
        "the same, independent members": analyse(prior, 8, antithetic=False),
        "guided, 8 evaluations, 2 independent members": analyse(
            prior, 8, antithetic=False, n_members=2
        ),
        "guided, cold start, 32 evaluations": analyse(prior, 32, start="cold", n_steps=32),
        # the mask of the paper covers all but everything on this grid, and each further visit of a
        # level draws the soft rim nearer to the interpolated field: the longer the walk, the
        # narrower the mask has to be
        **{
            f"RePaint, {RePaint(n, jump, times).evaluations:,} evaluations, mask {width:g} cells":
            repaint(RePaint(n, jump, times, mask_sigma=width), 2)
            for n, jump, times in ((300, 10, 10), (100, 10, 5)) for width in (0.1, 0.2, 0.3)
        },
        **{
            f"RePaint, 95 evaluations, mask {width:g} cells": repaint(
                RePaint(n_levels=50, jump_length=5, resamplings=2, mask_sigma=width)
            )
            for width in MASKS
        },
        **{
            f"RePaint, {short.evaluations} evaluations, mask 0.1 cells": repaint(short)
            for short in (RePaint(8, 4, 1, 0.1), RePaint(20, 5, 2, 0.1))
        },
        **guided,
    }  # fmt: skip

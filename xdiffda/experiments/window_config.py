"""Configuration of the experiment on windows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from xdiffda._toml import build_all, read_toml
from xdiffda.diffusion.guidance import Solver
from xdiffda.errors import Problem, raise_if
from xdiffda.experiments.config import FORMATS, QUARTER, ExperimentConfig
from xdiffda.four_d import METHODS as PRIORS

START, CYCLE = "start", "cycle"
HOW = (START, "none", "fgat", "forecaster", CYCLE)


@dataclasses.dataclass(frozen=True)
class WindowMethod:
    """One row.

    Attributes
    ----------
    how : {"start", "none", "fgat", "forecaster", "cycle"}
        start: the observations of the start alone. none, fgat, forecaster: all of them, by
        `xdiffda.four_d.assimilate_window`. cycle: one time after another, a forecast between.
    method : {"3dvar", "guided"}
    model_error : float
        See `xdiffda.four_d.assimilate_window`; of none, fgat and forecaster.
    n_members, n_steps : int
    tolerance, max_iterations
        Of the solver.
    columns : list of int, optional
        Numbers of columns at which it is run; default all of the experiment.
    n_cases : int, optional
        Run it at so many of the cases only, evenly spread.
    """

    how: str = "forecaster"
    method: str = "3dvar"
    model_error: float = 0.0
    n_members: int = 2
    n_steps: int = 8
    tolerance: float = 1e-3
    max_iterations: int = 400
    columns: tuple[int, ...] = ()
    n_cases: int = 0

    @property
    def solver(self) -> Solver:
        """Of the observations' equations."""
        return Solver(self.tolerance, self.max_iterations)


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """The experiment, as ``xdiffda experiment window`` reads it.

    Attributes
    ----------
    truth, out, background, model, columns, first, last, n_cases, error_std, variables, seed
        See `xdiffda.experiments.ExperimentConfig`; the background is that of the start.
    window : str
        Length, a multiple of 6 h; every 6 h there are observations, at new sites each time.
    methods : table of tables
        Name -> `WindowMethod`.
    figure_format : {"png", "svg", "pdf"}
        Of the figure that is written.
    """

    truth: str
    out: str
    background: str = "48h"
    model: str = ""
    window: str = "12h"
    columns: tuple[int, ...] = (100, 416)
    methods: dict[str, Any] = dataclasses.field(default_factory=lambda: {"4D-Var": {}})
    first: str = ""
    last: str = ""
    n_cases: int = 6
    error_std: str | float | dict[str, Any] = QUARTER
    variables: tuple[str, ...] = ()
    seed: int = 0
    figure_format: str = FORMATS[0]

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        built = build_all(WindowMethod, self.methods, problems, "methods")
        object.__setattr__(self, "methods", built)
        for name, own in built.items():
            for entry, known in (("how", HOW), ("method", PRIORS)):
                if (found := getattr(own, entry)) not in known:
                    problems.append(Problem(f"methods.{name}: {entry} = {found!r}",
                                            f"one of {', '.join(known)}",
                                            f'{entry} = "{known[-1]}"'))  # fmt: skip
            if more := sorted(set(own.columns) - set(self.columns)):
                problems.append(Problem(f"methods.{name}: columns = {more}",
                                        f"some of {list(self.columns)}",
                                        f"columns = {list(self.columns)}"))  # fmt: skip
        raise_if(problems, what="configuration of an experiment")
        self.world()  # has checks of its own

    @classmethod
    def read(cls, path: str | Path) -> WindowConfig:
        """Read a TOML file.

        Raises
        ------
        InputError
            Listing every unknown or mistyped entry.
        """
        return read_toml(cls, path, example='truth = "truth.zarr"')

    def world(self) -> ExperimentConfig:
        """What it takes place in."""
        shared = ("truth", "out", "background", "model", "columns", "first", "last", "n_cases",
                  "error_std", "variables", "seed", "figure_format")  # fmt: skip
        return ExperimentConfig(
            **{name: getattr(self, name) for name in shared},
            forecast_lead=self.window, reference_lead=self.window,
        )  # fmt: skip

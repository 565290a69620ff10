"""Configuration of an experiment: frozen dataclasses, read from one TOML file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from xdiffda.assimilation.methods import RePaint
from xdiffda.cycling.config import Assimilation, Emulation, as_plain
from xdiffda.cycling.observation_stream import duration
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.storage.toml import build_all, read_toml

STARTS = ("mean", "member")
INTERPOLATION = "interpolation"
QUARTER = "quarter"
FORMATS = ("png", "svg", "pdf")


@dataclasses.dataclass(frozen=True)
class Method(Assimilation):
    """One method of the comparison: settings of `xdiffda.assimilate`, and where it is used.

    Attributes
    ----------
    n_members : int
    columns : list of int, optional
        Numbers of columns at which it is run; default all of the experiment.
    ensemble : bool
        Use the members of a background that has them; otherwise their mean alone.
    n_cases : int, optional
        Run it at so many of the analysis times only, evenly spread: for what is costly. It is
        compared with the others at its own times.
    """

    n_members: int = 4
    columns: tuple[int, ...] = ()
    n_cases: int = 0
    ensemble: bool = True


def default_methods() -> dict[str, Any]:
    """Guided sampling beside what is cheap."""
    return {"guided": {}, "3D-Var": {"method": "3dvar"}, INTERPOLATION: {"method": INTERPOLATION}}


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment on analyses, as ``xdiffda experiment`` reads it.

    Attributes
    ----------
    truth : str
        File or store with the truth along time, or ``sample:truth``.
    out : str
        Folder of records, scores and figures; made if it is not there.
    background : str
        A lead time such as ``48h``: forecasts from the truth of so long before; or a file
        with backgrounds along valid time, with or without members.
    background_members : int
        Make each of those forecasts an ensemble of so many members; 0 for single forecasts.
    background_noise : float
        What is added to each of them every 6 h for the errors of the forecaster, in units of
        the model's typical background error; drawn from B. The default makes the spread of 48 h
        forecasts of the testbed that of their error.
    model : str
        Name or folder of a model, which brings the forecaster; empty for the default.
    columns : list of int
        Numbers of observed columns.
    methods : table of tables
        Name -> `Method`. Members of a background are used as `xdiffda.assimilate` does.
    first, last : str
        Period of the analysis times; by default as long as the truth allows.
    n_cases : int
        Analysis times, evenly spread over the period.
    error_std : "quarter", "default", float or table
        Observation errors: a quarter of the model's background errors, channel by channel,
        or as in `xdiffda.observations.emulate_obs`.
    variables : list of str, optional
        What is observed; default all.
    forecast_lead, reference_lead : str
        How far forecasts from the analyses go, and those from the truth that they are
        compared with: their difference is the greatest loss that can be seen.
    lead_times : list of str
        Of the forecasts in the tables, none beyond ``forecast_lead``: the paper's 48 h, or
        more for longer forecasts.
    starts : list of str
        Where forecasts start: ``mean`` of the members, first ``member`` (as in the paper,
        whose analyses are single draws).
    widths : list of float
        Of the soft mask, in grid cells: the ablation of sigma_G.
    repaint : RePaint
        Settings of the ablation, but for the width.
    map_columns : int
        Number of columns of the error maps; the first case is drawn.
    seed : int
    figure_format : {"png", "svg", "pdf"}
        Of the figures that are written.
    """

    truth: str
    out: str
    background: str = "48h"
    background_members: int = 0
    background_noise: float = 0.36
    model: str = ""
    columns: tuple[int, ...] = (5, 45, 416, 1000)
    methods: dict[str, Any] = dataclasses.field(default_factory=default_methods)
    first: str = ""
    last: str = ""
    n_cases: int = 10
    error_std: str | float | dict[str, Any] = QUARTER
    variables: tuple[str, ...] = ()
    forecast_lead: str = "48h"
    reference_lead: str = "144h"
    lead_times: tuple[str, ...] = ("48h",)
    starts: tuple[str, ...] = STARTS
    widths: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0, 1.5)
    repaint: RePaint = RePaint(n_levels=50, jump_length=5, resamplings=2)
    map_columns: int = 416
    seed: int = 0
    figure_format: str = FORMATS[0]

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        built = build_all(Method, self.methods, problems, "methods")
        object.__setattr__(self, "methods", built)
        problems += _problems(self) + format_problems(self.figure_format)
        raise_if(problems, what="configuration of an experiment")

    @classmethod
    def example(cls) -> ExperimentConfig:
        """Two analysis times of the bundled sample, whose forecasts reach 24 h."""
        return cls(
            truth="sample:truth",
            background="sample:background",
            out="experiment",
            columns=(45, 416),
            n_cases=2,
            forecast_lead="24h",
            reference_lead="48h",
            lead_times=("24h",),
            widths=(0.3, 1.5),
        )

    @classmethod
    def read(cls, path: str | Path) -> ExperimentConfig:
        """Read a TOML file.

        Raises
        ------
        InputError
            Listing every unknown or mistyped entry.
        """
        return read_toml(cls, path, example='truth = "truth.zarr"')

    def emulation(self, n_columns: int, error_std: Any) -> dict[str, Any]:
        """Arguments of `emulate_obs`, all but the seed."""
        chosen = Emulation(
            n_columns=n_columns, error_std=error_std, variables=list(self.variables) or None
        ).choices()
        return {k: v for k, v in chosen.items() if k not in ("seed", "fixed_sites")}

    def background_lead(self) -> Any:
        """Lead time of backgrounds that are forecasts from the truth; None of a file's."""
        try:
            return duration(self.background)
        except ValueError:
            return None


def of_widths(config: ExperimentConfig) -> ExperimentConfig:
    """The ablation of sigma_G: RePaint with one soft mask after another."""
    methods = {
        width_name(width): Method(
            method=dataclasses.replace(config.repaint, mask_sigma=width, antithetic=False),
            n_members=config_members(config),
        )
        for width in config.widths
    }
    return dataclasses.replace(config, methods=methods)


def width_name(width: float) -> str:
    """Return the name of the method with this soft mask."""
    return f"sigma_G = {width:g}"


def config_members(config: ExperimentConfig) -> int:
    """Members of the ablation: the fewest of the methods that use RePaint, or two."""
    counts = [m.n_members for m in config.methods.values() if isinstance(m.method, RePaint)]
    return min(counts, default=2)


def plain(value: Any) -> str:
    """Settings as text that is the same in every process."""
    import json

    return json.dumps(as_plain(value), sort_keys=True)


def format_problems(figure_format: str) -> list[Problem]:
    """List the problems of the format of figures."""
    if figure_format in FORMATS:
        return []
    return [
        Problem(
            f"figure_format = {figure_format!r}",
            f"one of {', '.join(FORMATS)}",
            f'figure_format = "{FORMATS[0]}"',
        )
    ]


def _problems(config: ExperimentConfig) -> list[Problem]:
    problems = []

    def need(ok: bool, found: str, needed: str, repair: str) -> None:
        if not ok:
            problems.append(Problem(found, needed, repair))

    need(bool(config.methods), "no methods", "one or more", "[methods.guided]")
    for name in ("n_cases", "map_columns"):
        need(
            getattr(config, name) >= 1,
            f"{name} = {getattr(config, name)}",
            "a whole number of 1 or more",
            f"{name} = 10",
        )
    need(
        bool(config.columns) and all(isinstance(n, int) and n > 0 for n in config.columns),
        f"columns = {list(config.columns)}",
        "whole numbers of 1 or more",
        "columns = [45, 416]",
    )
    need(
        bool(config.starts) and set(config.starts) <= set(STARTS),
        f"starts = {list(config.starts)}",
        f"some of {', '.join(STARTS)}",
        'starts = ["mean"]',
    )
    need(
        bool(config.widths) and all(w > 0 for w in config.widths),
        f"widths = {list(config.widths)}",
        "positive numbers",
        "widths = [0.7, 1.5]",
    )
    n, noise = config.background_members, config.background_noise
    need(
        isinstance(n, int) and (n == 0 or n > 1),
        f"background_members = {n!r}",
        "0, or a whole number of 2 or more",
        "background_members = 20",
    )
    need(noise > 0, f"background_noise = {noise!r}", "above 0", "background_noise = 0.36")
    need(
        not n or config.background_lead() is not None,
        f"background_members = {n} with backgrounds of {config.background!r}",
        "backgrounds that are forecasts from the truth",
        'background = "48h"',
    )
    hours = {}
    for name in ("forecast_lead", "reference_lead"):
        try:
            hours[name] = duration(getattr(config, name)) / duration("6h")
        except ValueError:
            hours[name] = 0.0
        need(
            hours[name] > 0 and hours[name] % 1 == 0,
            f"{name} = {getattr(config, name)!r}",
            "a positive multiple of 6 h",
            f'{name} = "48h"',
        )
    for lead in config.lead_times:
        try:
            fits = duration(lead) > duration("0h") and not duration(lead) % duration("6h")
        except ValueError:
            fits = False
        need(fits, f"lead_times with {lead!r}", "positive multiples of 6 h", 'lead_times = ["48h"]')
    need(
        hours["reference_lead"] >= hours["forecast_lead"],
        f"reference_lead = {config.reference_lead!r}",
        f"at least forecast_lead, {config.forecast_lead}",
        'reference_lead = "144h"',
    )
    return problems


def check_columns(config: ExperimentConfig) -> None:
    """Raise if a method asks for columns that the experiment does not have."""
    wrong = {n: sorted(set(m.columns) - set(config.columns)) for n, m in config.methods.items()}
    problems = [
        Problem(
            f"methods.{name}.columns with {columns}",
            f"some of {list(config.columns)}",
            f"columns = {sorted({*config.columns, *columns})}",
        )
        for name, columns in wrong.items()
        if columns
    ]
    if problems:
        raise InputError(problems, what="configuration of an experiment")

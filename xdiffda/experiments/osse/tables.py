"""Scores of single analyses, kept on disk, and the tables they pool into.

One record is one method at one analysis time.  An interrupted evaluation keeps its records
and goes on where it stopped; costly methods can be added later to the same table.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.assimilation.assimilate import assimilate
from xdiffda.assimilation.methods import Guided, RePaint
from xdiffda.diffusion.posterior import Guidance
from xdiffda.observations import interpolate
from xdiffda.priors.diffusion import DiffusionPrior
from xdiffda.state.grid import Layout
from xdiffda.verify.partners import (
    NONE,
    distance_of_partners,
    fair_crps,
    variance,
    variance_of_mean,
)
from xdiffda.verify.ranks import flatness

# What is called for each row of the tables, and which rows belong together.


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
USUAL = (
    BASE,
    "interpolated observations",
    "OI, same B",
    "3D-Var, same B",
    "guided, warm start, 8 evaluations",
    "the same, independent members",
)
MASKS = (0.1, 0.2, 0.3, 0.5, 1.0, 1.5)
FULL_SCHEDULE = "RePaint, 2,910 evaluations, mask 0.1 cells"
SWEEPS = {
    "guidance": (
        *(f"guided, V calibrated, warm start, {n} steps" for n in (4, 8, 16, 32, 64)),
        *(f"guided, V calibrated, cold start, {n} steps" for n in (4, 8, 16, 32, 64)),
        *(
            f"guided, V {v}, {start} steps"
            for v in ("climatological", "diagonal")
            for start in ("warm start, 8", "cold start, 32")
        ),
        *(
            f"guided, V calibrated, {start} steps, {s}"
            for s in ("heun", "stochastic")
            for start in ("warm start, 8", "warm start, 16", "cold start, 32")
        ),
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
        "OI, same B",
        "3D-Var, same B",
        "guided, warm start, 8 evaluations",
        "guided, 8 evaluations, 2 independent members",
        FULL_SCHEDULE,
    ),
    # as many independent members, and as many evaluations or four times as many
    "equal cost": (
        "the same, independent members",
        *(f"RePaint, {n} evaluations, mask 0.1 cells" for n in (8, 35)),
    ),
    "masks": tuple(f"RePaint, 95 evaluations, mask {w:g} cells" for w in MASKS),
}
"""Rows that belong together, by the name that stands for them in ``--rows``."""
COSTLY = ("draws from the Gaussian posterior (B)", "guided, cold start, 32 evaluations")


class Rows:
    """Makes rows that call `assimilate` with a prior."""

    def __init__(self, prior: DiffusionPrior, n_members: int) -> None:
        self._prior, self._n_members = prior, n_members

    def analysis(self, evaluations: int = 0, *, model: Any = None, **settings: Any) -> Row:
        """A call with ``settings``; the seed is the number of the case."""
        given = {"model": model or self._prior, "n_members": self._n_members} | settings
        guided = isinstance(settings.get("method", Guided()), Guided)
        sampler = Guidance().version if guided else ""
        return Row(
            lambda case, obs: assimilate(
                case.background, obs, progress=False, seed=case.number, **given
            ),
            evaluations,
            sampler,
        )

    def repaint(self, settings: RePaint, **more: Any) -> dict[str, Row]:
        """RePaint, whose members are drawn independently, by its name in the tables."""
        count, width = settings.evaluations, settings.mask_sigma
        return {
            f"RePaint, {count:,} evaluations, mask {width:g} cells": self.analysis(
                count, method=dataclasses.replace(settings, antithetic=False), **more
            )
        }

    def all_repaint(self) -> dict[str, Row]:
        """Return RePaint with every schedule and mask.

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
        """Return guidance with every V, start, number of steps and sampler."""
        return {
            f"guided, V {v}, {start} start, {n} steps{suffix}": self.analysis(
                n, method=Guided(covariance=v, start=start, n_steps=n, sampler=s)
            )
            for v in ("calibrated", "climatological", "diagonal", "jacobian")
            for start in ("warm", "cold")
            for n in (4, 8, 16, 32, 64)
            for s, suffix in (
                ("dpm-solver", ""),
                ("heun", ", heun"),
                ("stochastic", ", stochastic"),
            )
        }


def methods(prior: DiffusionPrior, *, n_members: int) -> dict[str, Row]:
    """Return all rows that a table can have, by their names."""
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
        "the same, independent members": rows.analysis(8, method=Guided(antithetic=False)),
        "guided, 8 evaluations, 2 independent members": rows.analysis(
            8, method=Guided(antithetic=False), n_members=2
        ),
        "guided, cold start, 32 evaluations": rows.analysis(
            32, method=Guided(start="cold", n_steps=32)
        ),
        **rows.all_repaint(),
        **rows.all_guided(),
    }


SHOWN = (
    "geopotential@500",
    "temperature@850",
    "u_component_of_wind@300",
    "specific_humidity@850",
    "2m_temperature",
)


@dataclasses.dataclass(frozen=True)
class Record:
    """Area means over the globe, per channel, of one analysis.

    Attributes
    ----------
    squared, crps, variance : lists of float
        Squared error of the mean; fair CRPS; what the squared error is expected to be:
        ensemble variance plus sampling variance of the mean (without pairs times (N + 1) / N).
    ranks : list of list of float
        Share of the area in which the truth has each rank among the independent members,
        of antithetic pairs the first of each (channel, rank).
    members, evaluations : int
    seconds : float
    """

    squared: list[float]
    crps: list[float]
    variance: list[float]
    ranks: list[list[float]]
    members: int
    evaluations: int
    seconds: float


def score(
    members: Float[np.ndarray, "member node channel"],
    truth: Float[np.ndarray, "node channel"],
    area: Float[np.ndarray, " node"],
    *,
    antithetic: bool = False,
    evaluations: int = 0,
    seconds: float = 0.0,
) -> Record:
    """Score one analysis; ``area`` are weights of mean 1, ``antithetic`` says members are pairs."""
    errors = members.astype(np.float64) - truth.astype(np.float64)
    weight, n = area / area.sum(), len(members)
    absolute = np.abs(errors).mean(0)
    crps, expected = absolute, np.zeros(truth.shape)
    pairs = (list(range(0, n - 1, 2)), list(range(1, n, 2))) if antithetic else NONE
    if n > 1:
        field = xr.DataArray(errors, dims=("member", "node", "channel"))
        order = (2 * np.arange(1, n + 1) - n - 1)[:, None, None]
        crps = absolute - (order * np.sort(errors, axis=0)).sum(0) / (n * (n - 1))
        if antithetic:
            crps = fair_crps(absolute, crps, distance_of_partners(field, pairs).values, n, pairs)
        expected = (variance(field, pairs) + variance_of_mean(field, pairs)).values
    alone = errors[[i for i in range(n) if i not in pairs[1]]]
    rank = (alone < 0).sum(0)
    shares = [
        [float(weight[rank[:, c] == k].sum()) for k in range(len(alone) + 1)]
        for c in range(truth.shape[1])
    ]
    squared, crps, expected = (
        [float(f"{v:.8g}") for v in weight @ field]
        for field in (errors.mean(0) ** 2, crps, expected)
    )
    return Record(squared, crps, expected, shares, n, evaluations, seconds)


def made_with() -> dict[str, str]:
    """Versions to record beside results."""
    from xdiffda import __version__

    others = {p: importlib.metadata.version(p) for p in ("jax", "equinox", "numpy")}
    return {"xdiffda": __version__, **others}


class Ledger:
    """Records of one evaluation in a file of JSON lines, by (columns, method, case).

    The last line of a process that was killed may be torn: it is passed over, and what it
    would have held is run again.
    """

    def __init__(self, path: Path, key: str, *, kind: Callable[..., Any] = Record) -> None:
        self._path, self._key, self._found = path, key, {}
        text = path.read_text() if path.exists() else ""
        self._torn = bool(text) and not text.endswith("\n")
        lines = text.splitlines()
        for line in lines[:-1] if self._torn else lines:
            row = json.loads(line)
            if row["key"] == key:  # of these weights, backgrounds and errors
                self._found[tuple(row["of"])] = kind(**row["record"])

    def __contains__(self, of: tuple[Any, ...]) -> bool:
        return of in self._found

    def __getitem__(self, of: tuple[Any, ...]) -> Any:
        return self._found[of]

    def add(self, of: tuple[Any, ...], record: Any) -> None:
        """Keep a record, on disk first."""
        plain = dataclasses.asdict(record) if dataclasses.is_dataclass(record) else record
        line = json.dumps({"key": self._key, "of": of, "record": plain}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._torn:
            _drop_last_line(self._path)
            self._torn = False
        with self._path.open("a") as file:
            file.write(line)
        self._found[of] = record

    def of(self, columns: int, method: str, cases: Iterable[int]) -> list[Record]:
        """Records of a method, at those of ``cases`` that were run."""
        return [self._found[k] for c in cases if (k := (columns, method, c)) in self._found]

    def cases(self, columns: int, method: str) -> list[int]:
        """Cases at which a method was run."""
        return sorted(c for n, m, c in self._found if (n, m) == (columns, method))


def _drop_last_line(path: Path) -> None:
    """Cut off what follows the last newline."""
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def pool(records: Sequence[Record]) -> dict[str, Any]:
    """RMSE, CRPS, spread per channel, rank shares, and mean cost, over cases."""

    def average(name):
        return np.mean([getattr(r, name) for r in records], axis=0)

    return {
        "rmse": np.sqrt(average("squared")),
        "crps": average("crps"),
        "spread": np.sqrt(average("variance")),
        "ranks": average("ranks").mean(0),
        "channel_ranks": average("ranks"),
        "flatness": _flatness(np.mean([r.ranks for r in records], axis=1)),
        "members": records[0].members,
        "evaluations": records[0].evaluations,
        "seconds": float(average("seconds")),
    }


def _flatness(shares: Float[np.ndarray, "case rank"]) -> dict[str, float]:
    """T-square of flat ranks, its p-value, and how much of it is a U (positive) or a dome."""
    n_case, n_rank = shares.shape
    if n_rank < 3 or n_case < n_rank:
        return {}
    histogram = xr.Dataset({"all": (("case", "rank"), shares)})
    found = flatness(histogram, over="case")["all"]
    names = {"chi_square": "rank_chi_square", "chi_square_p": "rank_p", "curvature": "rank_curve"}
    return {to: float(f"{float(found.sel(statistic=k)):.3g}") for k, to in names.items()}


def summary(own: Sequence[Record], base: Sequence[Record], layout: Layout) -> dict[str, Any]:
    """Return one row of a table, normalised by the background at the same times.

    For each channel there are RMSE (``channels``), CRPS (``channel_crps``) and, of ensembles,
    spread over RMSE and the share of the outer ranks, 1 where ranks are flat.
    """
    mine, reference = pool(own), pool(base)
    ratio, crps = (mine[k] / reference[k] for k in ("rmse", "crps"))
    worst = int(np.argmax(ratio))
    ranks = mine["ranks"] * len(mine["ranks"])  # 1 where flat
    own_ranks = mine["channel_ranks"] * len(ranks)  # a U of one channel and a dome of another
    spread_skill, outer = mine["spread"] / mine["rmse"], (own_ranks[:, 0] + own_ranks[:, -1]) / 2

    def each(values, digits):
        return {
            c: round(float(v), digits) for c, v in zip(layout.channel_names, values, strict=True)
        }

    return {
        "rmse": round(float(ratio.mean()), 4),
        "crps": round(float(crps.mean()), 4),
        "spread_skill": round(float(spread_skill.mean()), 3),
        "worst": round(float(ratio[worst]), 4),
        "worst_channel": layout.channel_names[worst],
        "outer_ranks": round(float((ranks[0] + ranks[-1]) / 2), 3),
        **mine["flatness"],
        "n_case": len(own),
        "members": mine["members"],
        "evaluations": mine["evaluations"],
        "seconds": round(mine["seconds"], 2),
        "ranks": [round(float(r), 4) for r in ranks],
        "channels": each(ratio, 4),
        "channel_crps": each(crps, 3),
        **(
            {"channel_spread_skill": each(spread_skill, 3), "channel_outer_ranks": each(outer, 3)}
            if mine["members"] > 1
            else {}
        ),
    }


def as_text(report: dict[str, Any]) -> str:
    """JSON with the innermost lists and maps on one line each: a third shorter.

    Examples
    --------
    >>> print(as_text({"table": {"ranks": [1.0, 0.9]}}))
    {
     "table": {
      "ranks": [ 1.0, 0.9 ]
     }
    }
    """
    # only line breaks are replaced, and strings have none
    innermost = re.compile(r"[\[{][^\[\]{}]*[\]}]")

    def joined(found):
        return re.sub(r"\s*\n\s*", " ", found[0])

    return innermost.sub(joined, json.dumps(report, indent=1))


def markdown(report: dict[str, Any]) -> str:
    """The table as Markdown."""
    head = (
        "| columns | method | RMSE | z500 | T850 | u300 | q850 | T2m | worst channel | CRPS "
        "| spread/skill | outer ranks | chi-square of ranks (p) | evaluations "
        "| s per analysis | cases x members |\n" + "|---" * 16 + "|\n"
    )
    lines = [
        _line(n_column, name, row)
        for n_column, rows in report["table"].items()
        for name, row in rows.items()
    ]
    kind = "Validation" if report.get("part") == "validation" else "Held-out"
    note = (
        f"\n{kind} analysis times from {report['first']} to {report['last']} of the nature run's "
        f"calendar, 48 h backgrounds, whole columns observed, errors: {report['errors']}. "
        "Area-weighted; RMSE of the ensemble mean and fair CRPS are divided by the background's "
        "at the same times and averaged over all variables and levels. Outer ranks: how often "
        "the truth lies outside all (independent) members, 1 for a calibrated ensemble, more for "
        "too little spread. Chi-square: Hotelling's, of the shares of all ranks, with the analysis "
        "times as repetitions; p is the chance of as large a value if ranks were flat. Of "
        "antithetic pairs only members of different pairs are compared with each other. "
        "Evaluations of the network are per member; seconds are those of the machine that made "
        "the table.\n"
    )
    return head + "\n".join(lines) + "\n" + note


FRONT = USUAL[:-1]
"""Rows of the short table: the strongest simple methods, and the project's own."""


def short(report: dict[str, Any]) -> str:
    """A table that fits the width of a page: one row a method, RMSE for each number of columns."""
    table = {n: rows for n, rows in report["table"].items() if int(n) >= 45}
    middle = list(table)[len(table) // 2]
    head = [
        "",
        *(f"RMSE, {int(n):,} columns" for n in table),
        f"CRPS, {int(middle):,}",
        f"spread / skill, {int(middle):,}",
        "network evaluations",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for name in (name for name in FRONT if name in table[middle]):
        row = table[middle][name]
        cells = [f"{rows[name]['rmse']:.2f}" for rows in table.values()]
        spread = f"{row['spread_skill']:.2f}" if row["members"] > 1 else "-"
        cells += [f"{row['crps']:.2f}", spread, str(row["evaluations"] or "-")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cases = sorted({row["n_case"] for rows in table.values() for row in rows.values()})
    return (
        "\n".join(lines)
        + f"\n\nMeans over all variables and levels at {cases[0]} analysis times; an ensemble has "
        f"{max(row['members'] for row in table[middle].values())} members; 3D-Var has the same "
        "background-error covariance as OI.\n"
    )


def _line(n_column: str, name: str, row: dict[str, Any]) -> str:
    shown = " | ".join(f"{row['channels'].get(c, float('nan')):.3f}" for c in SHOWN)
    ensemble = row["members"] > 1
    spread, outer = (f"{row[k]:.2f}" if ensemble else "-" for k in ("spread_skill", "outer_ranks"))
    chance = f"{row['rank_chi_square']:.0f} ({row['rank_p']:.1g})" if "rank_p" in row else "-"
    cases = f"{row['n_case']} x {row['members']}"
    return (
        f"| {n_column} | {name} | **{row['rmse']:.3f}** | {shown} | {row['worst']:.3f} "
        f"({row['worst_channel']}) | {row['crps']:.3f} | {spread} | {outer} "
        f"| {chance} | {row['evaluations'] or '-'} | {row['seconds']:.1f} | {cases} |"
    )

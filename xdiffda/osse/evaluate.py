"""Score the bundled model on held-out analysis times, beside its baselines.

    python -m xdiffda.osse evaluate --data DIR --pairs DIR --out xdiffda/models/speedy

Same backgrounds, same observations for every method; sites differ between times.  The
protocol is that of `xdiffda.verify`; the averages are over all variables and levels.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm import tqdm

from xdiffda.analysis import assimilate
from xdiffda.observations import emulate_obs, interpolate
from xdiffda.osse.pairs import Pairs, load_pairs
from xdiffda.prior import DiffusionPrior
from xdiffda.registry import load_model
from xdiffda.state import Layout, default_convention, from_state, to_state
from xdiffda.train.data import Nature, load_nature

N_MEMBERS = 8
SPEEDY_LETKF = {
    "temperature": 1.0, "2m_temperature": 1.0, "u_component_of_wind": 1.0,
    "v_component_of_wind": 1.0, "specific_humidity": 1e-3, "mean_sea_level_pressure": 100.0,
    "geopotential": 100.0,
}  # fmt: skip
"""1 m/s, 1 K, 1 g/kg, 1 hPa (Miyoshi's SPEEDY-LETKF); geopotential, not observed there, takes
what 1 hPa is near the ground (about 8 m, 80 m2/s2), rounded up."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One analysis time."""

    truth: xr.Dataset
    background: xr.Dataset
    number: int


class Tally:
    """Sums of squared error, CRPS and ensemble variance per channel, over cases."""

    def __init__(self, layout: Layout) -> None:
        self._area = layout.grid.area_weights() / layout.grid.n_node
        self._rows: list[np.ndarray] = []
        self.seconds = 0.0

    def add(self, members: np.ndarray, truth: np.ndarray, seconds: float) -> None:
        """Add one case: members (member, node, channel), truth (node, channel)."""
        members, truth = members.astype(np.float64), truth.astype(np.float64)
        n = len(members)
        mean = members.mean(0)
        crps = np.abs(members - truth).mean(0)
        variance = np.zeros_like(truth)
        if n > 1:
            ranks = (2 * np.arange(1, n + 1) - n - 1)[:, None, None]
            pairs = (ranks * np.sort(members, axis=0)).sum(0)
            crps = crps - pairs / (n * (n - 1))
            variance = members.var(0, ddof=1) * (n + 1) / n
        stack = np.stack([(mean - truth) ** 2, crps, variance])
        self._rows.append(np.einsum("n,knc->kc", self._area, stack))
        self.seconds += seconds

    def result(self) -> dict[str, np.ndarray]:
        squared, crps, variance = np.mean(self._rows, axis=0)
        return {"rmse": np.sqrt(squared), "crps": crps, "spread": np.sqrt(variance)}


def make_cases(nature: Nature, pairs: Pairs, n_case: int) -> list[Case]:
    """48 h forecasts from the truth, spread over the evaluation year."""
    index = np.flatnonzero((pairs.lead == 48) & ~pairs.perturbed)
    index = index[np.argsort(pairs.row[index])]
    index = index[np.linspace(0, len(index) - 1, n_case).astype(int)]
    return [
        Case(_dataset(nature, nature.states[pairs.row[i]], pairs.row[i]),
             _dataset(nature, pairs.background[i], pairs.row[i]), number)
        for number, i in enumerate(index)
    ]  # fmt: skip


def _dataset(nature: Nature, x: np.ndarray, row: np.ndarray) -> xr.Dataset:
    state = x * nature.stddev + nature.mean
    ds = from_state(state, nature.layout, default_convention(nature.layout))
    return ds.assign_coords(time=nature.time[row])


def quarter_errors(cases: Sequence[Case], layout: Layout) -> dict[str, object]:
    """A quarter of the background error's standard deviation, for each variable and level."""
    tally = Tally(layout)
    for case in cases:
        tally.add(_array(case.background, layout)[None], _array(case.truth, layout), 0)
    errors: dict[str, object] = {}
    for (name, level), value in zip(layout.channels, tally.result()["rmse"] / 4, strict=True):
        if level is None:
            errors[name] = float(value)
        else:
            errors.setdefault(name, {})[level] = float(value)  # type: ignore[index]
    return errors


def _array(ds: xr.Dataset, layout: Layout) -> np.ndarray:
    return to_state(ds, layout)[0]


COSTLY = ("draws from the Gaussian posterior (B)", "guided, cold start, 32 evaluations")
Method = Callable[[Case, xr.Dataset], xr.Dataset]


def methods(prior: DiffusionPrior) -> dict[str, Method]:
    """The rows of the table: name -> (case, observations) -> analysis."""

    def analyse(model: object, **settings: object) -> Method:
        return lambda case, obs: assimilate(
            case.background, obs, model=model, progress=False, seed=case.number,  # type: ignore[arg-type]
            **({"n_members": N_MEMBERS} | settings),  # type: ignore[arg-type]
        )  # fmt: skip

    return {
        "background": lambda case, obs: case.background,
        "interpolated observations": lambda case, obs: interpolate(
            obs, like=case.background, background=case.background
        ),
        "3D-Var, same B": analyse(prior, method="3dvar"),
        "draws from the Gaussian posterior (B)": analyse(prior.gaussian()),
        "guided, warm start, 8 evaluations": analyse(prior),
        "the same, members in antithetic pairs": analyse(prior, antithetic=True),
        "guided, cold start, 32 evaluations": analyse(prior, start="cold", n_steps=32),
    }


def evaluate(
    data: str, pairs: str, *, model: str = "speedy", out: str | None = None, n_case: int = 20,
    columns: Sequence[int] = (5, 45, 416, 1000), costly: Sequence[int] = (416,),
    errors: str = "quarter",
) -> dict[str, object]:  # fmt: skip
    """Run the table and write it as ``skill-<errors>.json`` and ``.md`` into ``out``.

    Parameters
    ----------
    data, pairs : str
        Folders of the nature run and of the pairs.
    model : str
    out : str, optional
        Folder of the tables.
    n_case : int
        Held-out analysis times.
    columns : sequence of int
        Numbers of observed columns over the globe.
    costly : sequence of int
        Column numbers for which the rows `COSTLY` are run as well.
    errors : {"quarter", "speedy-letkf"}
        Observation errors: a quarter of the background's, or the absolute ones of
        SPEEDY-LETKF.
    """
    nature, prior = load_nature(data), load_model(model)
    layout = prior.layout
    cases = make_cases(nature, load_pairs(pairs, "evaluation"), n_case)
    error_std = quarter_errors(cases, layout) if errors == "quarter" else SPEEDY_LETKF
    table: dict[str, dict[str, dict[str, object]]] = {}
    report: dict[str, object] = {
        "model": model, "errors": errors, "n_case": n_case, "n_members": N_MEMBERS,
        "first": str(cases[0].truth.time.values)[:16],
        "last": str(cases[-1].truth.time.values)[:16],
        "table": table,
    }  # fmt: skip
    for n_column in columns:
        rows = {k: v for k, v in methods(prior).items() if k not in COSTLY or n_column in costly}
        tallies = {name: Tally(layout) for name in rows}
        for case in tqdm(cases, desc=f"{n_column} columns, {errors}", mininterval=5):
            obs = emulate_obs(
                case.truth,
                n_columns=n_column,
                error_std=error_std,
                seed=1000 * n_column + case.number,
            )
            truth = _array(case.truth, layout)
            for name, method in rows.items():
                begin = time.perf_counter()
                x = _array(method(case, obs), layout)
                seconds = time.perf_counter() - begin
                tallies[name].add(x.reshape(-1, *truth.shape), truth, seconds)
        table[str(n_column)] = _summaries(tallies, layout, n_case)
        if out:
            _write(Path(out) / f"skill-{errors}.json", json.dumps(report, indent=1))
            _write(Path(out) / f"skill-{errors}.md", markdown(report))
    return report


def _summaries(
    tallies: dict[str, Tally], layout: Layout, n_case: int
) -> dict[str, dict[str, object]]:
    base = tallies["background"].result()
    out: dict[str, dict[str, object]] = {}
    for name, tally in tallies.items():
        own = tally.result()
        ratio = own["rmse"] / base["rmse"]
        worst = int(np.argmax(ratio))
        out[name] = {
            "rmse": round(float(ratio.mean()), 4),
            "crps": round(float((own["crps"] / base["crps"]).mean()), 4),
            "spread_skill": round(float((own["spread"] / own["rmse"]).mean()), 3),
            "worst": round(float(ratio[worst]), 4), "worst_channel": layout.channel_names[worst],
            "seconds": round(tally.seconds / n_case, 2),
            "channels": {c: round(float(r), 4)
                         for c, r in zip(layout.channel_names, ratio, strict=True)},
        }  # fmt: skip
    return out


SHOWN = ("geopotential@500", "temperature@850", "u_component_of_wind@300",
         "specific_humidity@850", "2m_temperature")  # fmt: skip


def markdown(report: dict[str, object]) -> str:
    """The table as Markdown: everything divided by the background's."""
    head = (
        "| columns | method | RMSE | z500 | T850 | u300 | q850 | T2m | worst channel | CRPS "
        "| spread/skill | s per analysis |\n" + "|---" * 12 + "|\n"
    )
    lines = []
    for n_column, rows in report["table"].items():  # type: ignore[attr-defined]
        for name, row in rows.items():
            shown = " | ".join(f"{row['channels'].get(c, float('nan')):.3f}" for c in SHOWN)
            # members in pairs are not exchangeable with the truth: no such ratio for them
            exchangeable = row["spread_skill"] and "pairs" not in name
            spread = f"{row['spread_skill']:.2f}" if exchangeable else "-"
            lines.append(
                f"| {n_column} | {name} | **{row['rmse']:.3f}** | {shown} | {row['worst']:.3f} "
                f"({row['worst_channel']}) | {row['crps']:.3f} | {spread} | {row['seconds']:.1f} |"
            )
    note = (
        f"\n{report['n_case']} held-out analysis times from {report['first']} to "
        f"{report['last']} of the nature run's calendar, 48 h backgrounds, "
        f"{report['n_members']} members, whole columns observed, errors: {report['errors']}. "
        "Area-weighted; RMSE and CRPS divided by the background's, averaged over all variables "
        "and levels. Seconds on the machine that made the table.\n"
    )
    return head + "\n".join(lines) + "\n" + note


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)

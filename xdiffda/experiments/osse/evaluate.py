"""Score the bundled model on held-out analysis times, beside its baselines.

    python -m xdiffda.experiments.osse evaluate --data DIR --pairs DIR --out xdiffda/models/speedy

Same backgrounds, same observations for every method; sites differ between times.  The
protocol is that of `xdiffda.verify`; the averages are over all variables and levels.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from xdiffda.experiments.osse.tables import (
    BASE,
    COSTLY,
    SWEEPS,
    USUAL,
    Case,
    Ledger,
    Row,
    as_text,
    made_with,
    markdown,
    methods,
    score,
    summary,
)
from xdiffda.observations import emulate_obs
from xdiffda.priors.registry import load_model, model_folder
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state, to_state
from xdiffda.state.grid import Layout
from xdiffda.train.data import Nature, Pairs, load_nature, load_pairs
from xdiffda.verify.partners import is_antithetic

SPEEDY_LETKF = {
    "temperature": 1.0,
    "2m_temperature": 1.0,
    "u_component_of_wind": 1.0,
    "v_component_of_wind": 1.0,
    "specific_humidity": 1e-3,
    "mean_sea_level_pressure": 100.0,
    "geopotential": 100.0,
}
"""1 m/s, 1 K, 1 g/kg, 1 hPa (Miyoshi's SPEEDY-LETKF); geopotential, not observed there, takes
what 1 hPa is near the ground (about 8 m, 80 m2/s2), rounded up."""


def make_cases(nature: Nature, pairs: Pairs, n_case: int) -> list[Case]:
    """48 h forecasts from the truth, spread over the evaluation year."""
    index = np.flatnonzero((pairs.lead == 48) & ~pairs.perturbed)
    index = index[np.argsort(pairs.row[index])]
    index = index[np.linspace(0, len(index) - 1, n_case).astype(int)]
    return [
        Case(
            _dataset(nature, nature.states[pairs.row[i]], pairs.row[i]),
            _dataset(nature, pairs.background[i], pairs.row[i]),
            number,
        )
        for number, i in enumerate(index)
    ]


def _dataset(nature: Nature, x: np.ndarray, row: np.ndarray) -> xr.Dataset:
    state = x * nature.stddev + nature.mean
    ds = from_state(state, nature.layout, default_convention(nature.layout))
    return ds.assign_coords(time=nature.time[row])


def quarter_errors(cases: Sequence[Case], layout: Layout) -> dict[str, Any]:
    """A quarter of the background error's standard deviation, for each variable and level."""
    area = layout.grid.area_weights()
    squares = [
        score(_array(c.background, layout)[None], _array(c.truth, layout), area).squared
        for c in cases
    ]
    return layout.table(np.sqrt(np.mean(squares, axis=0)) / 4)


def _array(ds: xr.Dataset, layout: Layout) -> np.ndarray:
    return to_state(ds, layout)[0]


def evaluate(
    data: str,
    pairs: str,
    *,
    model: str = "speedy",
    out: str | None = None,
    n_case: int = 20,
    columns: Sequence[int] = (5, 45, 416, 1000),
    costly: Sequence[int] = (416,),
    errors: str = "quarter",
    rows: Sequence[str] = (),
    n_members: int = 8,
    ledger: str | None = None,
    part: str = "evaluation",
    name: str | None = None,
) -> dict[str, Any]:
    """Run the table and write it as ``<name>.json`` and ``.md`` into ``out``.

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
    rows : sequence of str, optional
        Rows to run instead of the usual ones (names as in the table, or of `SWEEPS`); the
        background's is always run.
    n_members : int
    ledger : str, optional
        File of the single records, default ``records.jsonl`` in ``pairs``; what it holds of
        these weights, and of this version of the sampler, is not run again, and appears in the
        table.
    part : {"evaluation", "validation"}
        Settings are tuned on the second, tables made on the first.
    name : str, optional
        Default ``skill-<errors>``.
    """
    nature, prior = load_nature(data), load_model(model)
    cases = make_cases(nature, load_pairs(pairs, part), n_case)
    error_std = quarter_errors(cases, prior.layout) if errors == "quarter" else SPEEDY_LETKF
    known = methods(prior, n_members=n_members)
    key = f"{weights_digest(model)} {part} {errors} {n_case}"
    book = Ledger(Path(ledger or Path(pairs) / "records.jsonl"), key)
    table: dict[str, dict[str, Any]] = {}
    rows = [r for row in rows for r in SWEEPS.get(row, (row,))]
    name = name or f"skill-{errors}"
    report: dict[str, Any] = {
        "model": model,
        "weights": weights_digest(model),
        "errors": errors,
        "part": part,
        "first": str(cases[0].truth.time.values)[:16],
        "last": str(cases[-1].truth.time.values)[:16],
        "versions": made_with(),
        "seeds": "analysis: number of the case; sites and errors: 1000 x columns + number",
        "table": table,
    }
    for n_column in columns:
        wanted = [BASE, *rows] if rows else [*USUAL, *(COSTLY if n_column in costly else ())]
        for case in tqdm(cases, desc=f"{n_column} columns, {errors}", mininterval=5):
            _run_case(case, n_column, {n: known[n] for n in wanted}, error_std, book, prior.layout)
        table[str(n_column)] = _table(book, n_column, known, n_case, prior.layout)
        report["table"] = dict(sorted(table.items(), key=lambda row: int(row[0])))
        if out:
            _write(Path(out) / f"{name}.json", as_text(report))
            _write(Path(out) / f"{name}.md", markdown(report))
    return report


def _run_case(
    case: Case, n_column: int, rows: dict[str, Row], error_std: Any, book: Ledger, layout: Layout
) -> None:
    missing = {n: r for n, r in rows.items() if (n_column, r.kept_as(n), case.number) not in book}
    if not missing:
        return
    seed = 1000 * n_column + case.number
    obs = emulate_obs(case.truth, n_columns=n_column, error_std=error_std, seed=seed)
    truth, area = _array(case.truth, layout), layout.grid.area_weights()
    for name, row in missing.items():
        begin = time.perf_counter()
        analysis = row.call(case, obs)
        members = _array(analysis, layout).reshape(-1, *truth.shape)
        record = score(
            members,
            truth,
            area,
            antithetic=is_antithetic(analysis),
            evaluations=row.evaluations,
            seconds=time.perf_counter() - begin,
        )
        book.add((n_column, row.kept_as(name), case.number), record)


def _table(
    book: Ledger, n_column: int, known: dict[str, Row], n_case: int, layout: Layout
) -> dict[str, Any]:
    """Rows of all methods that have records, each against the background at its own times."""
    table = {}
    for name, row in known.items():
        kept = row.kept_as(name)
        numbers = [c for c in book.cases(n_column, kept) if c < n_case]
        if numbers:
            own, base = (book.of(n_column, m, numbers) for m in (kept, BASE))
            table[name] = summary(own, base, layout)
    return table


def weights_digest(model: str) -> str:
    """Return a digest of the weights behind a table."""
    card = json.loads((model_folder(model) / "card.json").read_text())
    return hashlib.sha256(json.dumps(card["sha256"], sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)

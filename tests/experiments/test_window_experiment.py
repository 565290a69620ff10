"""4D beside first guess at appropriate time: one command, resumed, one table and figure."""

from __future__ import annotations

import json
from pathlib import Path

import cycle_world as world
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.experiments import command, window
from xdiffda.experiments import window as window_results
from xdiffda.experiments.window import WindowConfig, figure, ratios, table

pytestmark = pytest.mark.long  # a whole experiment

METHODS = {
    "start alone": {"how": "start"},
    "as if at the start": {"how": "none"},
    "FGAT": {"how": "fgat"},
    "4D-Var": {},
    "one after another": {"how": "cycle", "columns": [20]},
    "seldom": {"how": "fgat", "model_error": 0.5, "n_cases": 1},
}


class Turn(eqx.Module):
    """The forecaster of the world on arrays: one meridian to the east."""

    def __call__(self, x, year):
        field = x.reshape(*world.LAYOUT.grid.shape, *x.shape[1:])
        return jnp.roll(field, 1, axis=1).reshape(x.shape)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory):
    """Two cases of a world whose backgrounds have another error each."""
    out = tmp_path_factory.mktemp("window")
    truth, _ = world.make_states(6)
    backgrounds = [world.make_states(1, seed)[1] for seed in (0, 5)]
    times = truth.time.values[:2]
    error = [
        b - world.make_states(1, s)[0].isel(time=0, drop=True)
        for b, s in zip(backgrounds, (0, 5), strict=True)
    ]
    states = [
        (truth.sel(time=t, drop=True) + e).assign_coords(time=t)
        for t, e in zip(times, error, strict=True)
    ]
    xr.concat(states, "time").to_netcdf(out / "background.nc")
    config = WindowConfig(
        "given",
        str(out / "records"),
        str(out / "background.nc"),
        columns=(10, 20),
        methods=METHODS,
        n_cases=2,
        error_std=world.ERRORS,
    )
    options = {
        "prior": world.make_prior(),
        "truth": truth,
        "forecaster": world.forecaster,
        "forward": Turn(),
        "progress": False,
    }
    return config, options, window.run(config, **options)


def _row(found, columns: int, name: str) -> dict:
    return next(r for r in found["rows"] if (r["columns"], r["method"]) == (columns, name))


def test_a_perfect_forecaster_makes_4d_the_best(done) -> None:
    _, _, found = done
    start, none, fgat, four_d, cycle = (
        ratios(_row(found, 20, name)).mean(1) for name in list(METHODS)[:5]
    )
    assert four_d[0] < 0.85 * min(start[0], fgat[0], none[0])
    np.testing.assert_allclose(four_d, four_d[0], rtol=1e-4)  # nothing is lost on the way
    np.testing.assert_allclose(cycle[0], start[0], rtol=1e-4)
    assert cycle[2] < cycle[1] < cycle[0]
    np.testing.assert_array_equal(ratios(_row(found, 20, "FGAT"), of="truth"), 0.0)
    assert _row(found, 20, "seldom")["cases"] == 1


def test_it_resumes_and_says_what_it_found(done, monkeypatch: pytest.MonkeyPatch) -> None:
    config, options, found = done
    monkeypatch.setattr(window, "_record", lambda *_: pytest.fail("run again"))
    again = window.run(config, **options)
    assert again == found == json.loads(json.dumps(found))
    text = table(found)
    assert text.count("\n") == 2 + 11 and "| 10 | one after another |" not in text
    cells = next(line for line in text.splitlines() if "| 20 | 4D-Var |" in line).split("|")
    assert float(cells[3].strip(" *")) == pytest.approx(
        ratios(_row(found, 20, "4D-Var"))[0].mean(), abs=6e-4
    )
    assert cells[-4].strip() == f"{_row(found, 20, '4D-Var')['residual']:.2g}"
    drawn = [ax for ax in figure(found).axes if ax.lines]
    assert [ax.get_title() for ax in drawn] == ["10 columns each time", "20 columns each time"]


def test_rows_that_did_not_converge_are_seen(
    done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the table that the command writes; the figure in the format that it is asked for."""
    rows = [
        {**row, "residual": 0.562} if row["method"] == "4D-Var" else row for row in done[2]["rows"]
    ]
    monkeypatch.setattr(window_results, "run", lambda *_, **__: {**done[2], "rows": rows})
    path, out = tmp_path / "window.toml", tmp_path / "out"
    out.mkdir()
    path.write_text(f'truth = "given"\nout = "{out}"\nfigure_format = "svg"\n')
    lines = command.main("window", path).splitlines()
    column = [name.strip() for name in lines[0].split("|")].index("residual")
    stopped = {line.split("|")[2].strip(): float(line.split("|")[column]) for line in lines[2:]}
    assert stopped.pop("4D-Var") == 0.56 and max(stopped.values()) <= 1.01e-3  # the tolerance
    assert {p.name for p in out.iterdir()} == {"window.json", "window.md", "window.svg"}


def test_a_file_says_the_same_and_all_its_errors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "window.toml"
    path.write_text("""
    truth = "truth.zarr"
    out = "out"
    columns = [416]
    [methods."4D-Var"]
    model_error = 0.23
    """)
    assert WindowConfig.read(path).methods["4D-Var"].model_error == 0.23
    path.write_text(path.read_text() + 'how = "4d"\nmethod = "oi"\ncolumns = [5]\n')
    with pytest.raises(InputError, match="(?s)3 problems.*'4d'.*'oi'.*5"):
        command.main("window", path)
    with pytest.raises(InputError, match="window = |forecast_lead = '7h'"):
        WindowConfig("truth.zarr", "out", window="7h")
    with pytest.raises(InputError, match="figure_format = 'gif'.*one of png, svg, pdf"):
        WindowConfig("truth.zarr", "out", figure_format="gif")

"""Record digests of what the package computes, and compare them with an earlier record.

A change that is meant to move code, and not numbers, leaves every digest as it was:

    PYTHONPATH=. python tests/benchmarks/digests.py --out before.json --values before.npz
    PYTHONPATH=. python tests/benchmarks/digests.py --compare before.json --values before.npz

A digest is the SHA-256 of an array's bytes, with its type, dimensions and shape in plain text. The
second call prints every difference and exits with 1 if there is one; with the values of the first
it also states how large each difference is. Only records of one machine can be compared, with the
same packages, number of cores and ``JAX_DISABLE_MOST_OPTIMIZATIONS``: compilers choose the order of
sums by the processor.
``--only GROUP`` takes one group (see GROUPS) of the record.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compilation is nearly all the cost. Set it to 0 outside to record what users' compiled code gives.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
TESTS = Path(__file__).resolve().parents[1]
SHARED = TESTS.parents[1] / "shared"
# what tests share is found wherever it lies in their tree
for shared in ("gaussian_world", "network_world", "cycle_world", "waves"):
    sys.path.append(str(next(TESTS.rglob(f"{shared}.py")).parent))

import cycle_world  # noqa: E402
import gaussian_world  # noqa: E402
import jax  # noqa: E402
import netCDF4  # noqa: E402
import network_world  # noqa: E402
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
import pandas as pd  # noqa: E402
import waves  # noqa: E402
import xarray as xr  # noqa: E402

import xdiffda  # noqa: E402

# ---- every name of the package that is not directly below `xdiffda`, in one place
from xdiffda.assimilation.baselines.letkf import Inflation  # noqa: E402
from xdiffda.covariance.ensemble import Hybrid  # noqa: E402
from xdiffda.covariance.localisation import Localisation  # noqa: E402
from xdiffda.cycling.cycle import cycle  # noqa: E402
from xdiffda.cycling.observation_stream import emulated_stream  # noqa: E402
from xdiffda.cycling.record import read_observations  # noqa: E402
from xdiffda.observations import (  # noqa: E402
    VerticalCorrelation,
    drop_duplicates,
    emulate_obs,
    interpolate,
    soft_mask,
    to_columns,
    to_tidy,
)

VERIFY = xdiffda.verify  # the subpackage of scores


def analyse(background: xr.Dataset, obs: Any, model: Any, settings: dict[str, Any]) -> xr.Dataset:
    """One analysis; where the arguments of `assimilate` change, only this function does."""
    return xdiffda.assimilate(background, obs, model=model, progress=False, **settings)


# ---------------------------------------------------------------------- arrays of a result

Values = dict[str, np.ndarray]
ACCOUNT = (
    "background_error",
    "observations_used",
    "observations_rejected",
    "solver_residual",
    "withheld",
    "network_evaluations",
)


def arrays(ds: xr.Dataset, account: tuple[str, ...] = ()) -> Values:
    """Variables and coordinates by name, and the attributes that hold results."""
    found = {
        f"{name} {'x'.join(map(str, v.dims))}": plain(v.values) for name, v in ds.variables.items()
    }
    for name in account:
        if f"xdiffda_{name}" in ds.attrs:
            found[f"[{name}]"] = plain(ds.attrs[f"xdiffda_{name}"])
    return found


def plain(values: Any) -> np.ndarray:
    """Texts of any kind as fixed-width text; everything else as it is."""
    values = np.asarray(values)
    return values.astype(str) if values.dtype.kind in "OT" else values


def digest(values: np.ndarray) -> str:
    """Type, shape and SHA-256 of the bytes."""
    data = np.ascontiguousarray(values).tobytes()
    return f"{values.dtype} {values.shape} {hashlib.sha256(data).hexdigest()}"


# ---------------------------------------------------------------------- analyses

PAINT = xdiffda.RePaint(n_levels=6, jump_length=2, resamplings=2)
QUICK = {"n_members": 2, "method": xdiffda.Guided(n_steps=3)}
# name -> settings; those with "ensemble" take background members
ANALYSES: dict[str, dict[str, Any]] = {
    "guided": QUICK,
    "guided cold": QUICK | {"method": xdiffda.Guided(n_steps=3, start="cold")},
    "guided heun": QUICK | {"method": xdiffda.Guided(n_steps=3, sampler="heun")},
    "guided stochastic": QUICK | {"method": xdiffda.Guided(n_steps=3, sampler="stochastic")},
    "guided V climatological": QUICK
    | {"method": xdiffda.Guided(n_steps=3, covariance="climatological")},
    "guided V diagonal": QUICK | {"method": xdiffda.Guided(n_steps=3, covariance="diagonal")},
    "guided V jacobian": QUICK | {"method": xdiffda.Guided(n_steps=3, covariance="jacobian")},
    "guided independent": QUICK | {"method": xdiffda.Guided(n_steps=3, antithetic=False)},
    "guided without small scales": QUICK
    | {"method": xdiffda.Guided(n_steps=3, small_scales=False)},
    "guided groups": QUICK
    | {"n_members": 4, "method": xdiffda.Guided(n_steps=3, max_batch=2), "seed": 7},
    "guided r given": QUICK | {"background_error": 0.8},
    "guided withhold": QUICK | {"withhold": 0.2},
    "guided huber": QUICK | {"quality": xdiffda.Quality(robust="huber")},
    "guided correlated errors": QUICK | {"error_correlation": 0.5},
    "guided ensemble around members": QUICK
    | {"method": xdiffda.Guided(n_steps=3, hybrid=Hybrid(alpha=0.5))},
    "guided ensemble around mean": QUICK
    | {"method": xdiffda.Guided(n_steps=3, hybrid=Hybrid(around="mean"))},
    "repaint": {"method": PAINT, "n_members": 2},
    "3dvar": {"method": "3dvar"},
    "3dvar varqc": {"method": "3dvar", "quality": xdiffda.Quality(robust="varqc")},
    "3dvar gross check": {"method": "3dvar", "quality": xdiffda.Quality(gross_check=1.5)},
    "3dvar correlated errors": {
        "method": "3dvar",
        "error_correlation": VerticalCorrelation(length=0.5),
    },
    "3dvar ensemble": {"method": xdiffda.ThreeDVar(hybrid=Hybrid(alpha=0.3))},
    "3dvar ensemble spread": {"method": "3dvar", "background_error": "spread"},
    "oi": {"method": "oi"},
    "letkf ensemble": {"method": xdiffda.LETKF(localisation=Localisation(length_km=2500.0))},
    "letkf ensemble inflated": {
        "method": xdiffda.LETKF(inflation=Inflation(adaptive=True, additive=0.3))
    },
    "interpolation": {"method": "interpolation"},
}


def analyses(
    names: list[str], background: xr.Dataset, ensemble: xr.Dataset, obs: Any, model: Any
) -> Iterator[tuple[str, Values]]:
    """Analyses by the named settings."""
    for name in names:
        start = ensemble if "ensemble" in name else background
        yield name, arrays(analyse(start, obs, model, ANALYSES[name]), ACCOUNT)


def of_sample() -> Iterator[tuple[str, Values]]:
    """The bundled model: every method, and forecasts."""
    xdiffda.set_options(progress=False)
    truth, background = (xdiffda.open_sample(n).load() for n in ("truth", "background"))
    now, first = truth.isel(time=8), background.isel(time=8)
    obs = now.diffda.emulate_obs(n_columns=60, seed=0)
    yield "emulated observations", arrays(obs)
    errors = (background - truth).isel(time=[0, 2, 4, 6]).rename(time="member").drop_vars("member")
    ensemble = (first + errors).transpose("member", *first.temperature.dims)
    names = [
        "guided",
        "guided cold",
        "guided independent",
        "guided without small scales",
        "guided ensemble around members",
        "repaint",
        "3dvar",
        "3dvar ensemble",
        "oi",
        "letkf ensemble inflated",
        "interpolation",
    ]
    yield from analyses(names, first, ensemble, obs, None)
    times = slice(8, 10)
    many = truth.isel(time=times).diffda.emulate_obs(n_columns=40, seed=1, error_std="default")
    several = analyse(background.isel(time=times), many, None, QUICK)
    yield "guided two times", arrays(several, ACCOUNT)
    yield "forecast", arrays(now.diffda.forecast("12h"))
    yield "forecasts", arrays(truth.isel(time=[2, 7]).diffda.forecast("6h"))


def of_scores() -> Iterator[tuple[str, Values]]:
    """Every score of `xdiffda.verify` that takes states or observations, of a made-up ensemble."""
    truth, background = (xdiffda.open_sample(n).load() for n in ("truth", "background"))
    errors = (background - truth).isel(time=[0, 2, 4, 6]).rename(time="member").drop_vars("member")
    times = slice(8, 10)
    analysis = truth.isel(time=times) + 0.5 * errors
    obs = truth.isel(time=times).diffda.emulate_obs(n_columns=40, seed=1)
    named = {
        "verify": analysis.diffda.verify(truth),
        "increment": analysis.diffda.increment(background),
        "rank histogram": analysis.diffda.rank_histogram(truth=truth),
        "spread error": analysis.diffda.spread_error(truth),
        "zonal spectrum": analysis.diffda.zonal_spectrum(),
        "total spectrum": VERIFY.total_spectrum(analysis),
        "balance": analysis.diffda.balance(),
        "geostrophic wind": VERIFY.geostrophic_wind(analysis),
        "divergence and vorticity": VERIFY.divergence_vorticity(analysis),
        "equivalents": VERIFY.equivalents(analysis, obs),
        "innovations": VERIFY.innovation_statistics(
            background.sel(time=analysis.time), obs, analysis=analysis
        ),
    }
    for name, found in named.items():
        yield name, arrays(found)


def of_gaussian_world() -> Iterator[tuple[str, Values]]:
    """A world whose posterior is known, and a network with random weights as its prior."""
    prior = gaussian_world.make_prior()
    truth, background = gaussian_world.draw_states(prior, seed=5)
    errors = {"2m_temperature": 0.5, "geopotential": 80.0, "temperature": 0.4}
    obs = emulate_obs(truth, n_columns=40, error_std=errors, seed=1, on_grid=False)
    drawn = (gaussian_world.draw_states(prior, seed=k) for k in range(100, 108))
    ensemble = xr.concat([background + one - other for one, other in drawn], "member")
    names = [name for name in ANALYSES if "V calibrated" not in name]
    yield from analyses(names, background, ensemble, obs, prior)
    network = network_world.make_network_prior()
    for name in ("guided", "guided heun", "guided stochastic", "guided V diagonal", "repaint"):
        yield f"network: {name}", arrays(analyse(background, obs, network, ANALYSES[name]))
    ways = {"chunks": {"edge_chunk": 40, "precision": "default"}, "half": {"dtype": "bfloat16"}}
    for name, way in ways.items():
        found = analyse(background, obs, network.reconfigured(**way), QUICK)
        yield f"network: {name}", arrays(found)
    tidy = to_tidy(obs)
    yield "observations: tidy", arrays(tidy)
    yield "observations: columns", arrays(to_columns(tidy))
    twice = xr.concat([tidy, tidy.isel(obs=slice(3))], "obs")
    yield "observations: duplicates", arrays(drop_duplicates(twice))
    yield "observations: interpolated", arrays(interpolate(obs, like=background))
    yield "observations: mask", {"mask": plain(soft_mask(tidy, gaussian_world.LAYOUT))}


# ---------------------------------------------------------------------- readers

TABLE = """Variable;latitude;longitude;plev;datetime;value;units;error_std;station
t;10;-170;50000;2020-01-01T12:00+02:00;-20;degC;0.5;A
ff;10;-170;;2020-01-01T10;10;kt;1;A
2t;-33.25;14.5;;2020-01-01T11;17.25;degC;1;B
2t;10;-170;;2020-01-01T10;;degC;1;A
chlorophyll;10;-170;;2020-01-01T10;3;1;1;A
"""
METARS = """Unix_time,ICAO,Latitude,Longitude,Elev,Temp,Dewp,Wdir,Wspd,Vis,QcFlag,Altimeter
1601530260,CYGW,55.270,-77.770,0,4.0,3.0,270,10,5.0,2,29.92
1601530260,NAAA,50.300,-88.900,1000,,2.0,0,5,,6,29.92
1601530260,CYYY,50.300,-88.900,,3.0,2.0,,,,6,29.92
"""
IGRA = "#AUM00011035 2015 01 23 00 2331    2 ncdc-gts           482333   163500\n" + "".join(
    f"20 {-9999:5d} {p:6d} {z:5d} {t:5d}A{rh:5d} {dpd:5d} {turn:5d} {speed:5d} \n"
    for p, z, t, rh, dpd, turn, speed in (
        (99200, -9999, 38, 500, 22, 300, 50),
        (50000, 5470, -265, -9999, -8888, 140, 60),
    )
)
# real files beside the repository, where they are
REAL = (
    "cases/*.nc*",
    "cases/*.bufr",
    "cases/*.gz",
    "data/ioda/sfc_tv*",
    "data/bufr/obs_3day*",
)


def write_ioda(path: Path) -> None:
    """Three reports in the groups of IODA's present convention."""
    columns = {
        "MetaData/latitude": ([10.0, 20, -30], "degrees_north"),
        "MetaData/longitude": ([-10.0, 20, 30], "degrees_east"),
        "MetaData/pressure": ([50000.0, 100000, np.nan], "Pa"),
        "MetaData/stationElevation": ([1.0, 2, 3], "m"),
        "MetaData/dateTime": ([3600.0, 0, 60], "seconds since 2020-01-01T00:00:00Z"),
        "ObsValue/airTemperature": ([250.0, 280, 290], "K"),
        "ObsValue/windSpeed": ([10.0, 20, 5], "m s-1"),
        "ObsValue/windDirection": ([90.0, 0, 180], "degree"),
        "ObsValue/airTemperatureAt2M": ([250.0, 280, 290], "K"),
        "ObsError/airTemperature": ([0.5, np.nan, 1], "K"),
        "PreQC/airTemperature": ([2.0, 9, 2], ""),
    }
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("Location", 3)
        file.date_time = 2020010100
        for name, (values, units) in columns.items():
            kind = np.int64 if "dateTime" in name else np.float32
            variable = file.createVariable(name, kind, "Location", fill_value=-999)
            if units:
                variable.units = units
            variable[:] = np.ma.masked_invalid(np.array(values)).astype(kind)


def of_readers() -> Iterator[tuple[str, Values]]:
    """The table of every reader, of small files made here and of real ones beside them."""
    counts = ("observations_dropped", "observations_unused", "observations_default_errors")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "table.csv").write_text(TABLE)
        (folder / "metar.csv").write_text(METARS)
        (folder / "igra.txt").write_text(IGRA)
        write_ioda(folder / "ioda.nc")
        own = pd.DataFrame(
            {
                "variable": ["temperature", "2m_temperature"],
                "lat": [1 / 3, -52.1],
                "lon": [359.9, 2 / 7],
                "level": [500.0, np.nan],
                "value": [250 + 1 / 3, 280.0],
                "error_std": [0.3, 1.0],
                "station": ["A", "B"],
                "time": pd.to_datetime(["2020-01-01T00:00", "2020-01-01T03:10"]),
            }
        )
        tidy = to_tidy(own)
        xdiffda.write_dataset(tidy, folder / "tidy.nc")
        xdiffda.write_dataset(tidy, folder / "tidy.zarr")
        xdiffda.write_dataset(to_columns(tidy), folder / "columns.nc")
        for path in sorted(folder.iterdir()):
            yield path.name, arrays(xdiffda.read_obs(path), counts)
    for path in sorted(p for pattern in REAL for p in SHARED.glob(pattern)):
        try:
            yield path.name, arrays(xdiffda.read_obs(path), counts)
        except xdiffda.XdiffdaError as error:  # some are there to be refused
            yield path.name, {"[refused]": plain(type(error).__name__)}


# ---------------------------------------------------------------------- cycles

CYCLES = {
    "3dvar": {"settings": {"method": "3dvar", "background_error": 1.0}},
    "guided ensemble": {
        "settings": {"method": xdiffda.Guided(n_steps=3)},
        "n_members": 4,
        "carry": "ensemble",
        "n_cycles": 2,
    },
    "letkf": {
        "settings": {"method": xdiffda.LETKF(inflation=Inflation(adaptive=True, additive=0.3))},
        "n_members": 4,
        "carry": "ensemble",
    },
}


def of_cycles() -> Iterator[tuple[str, Values]]:
    """Cycles of a world that turns, and one of the bundled model with its forecaster."""
    truth, background = cycle_world.make_states()
    prior = cycle_world.make_prior()
    stream = emulated_stream(truth, n_columns=20, error_std=cycle_world.ERRORS, seed=3)
    drawn = [cycle_world.make_states(seed=k)[1] for k in range(1, 5)]
    mean = sum(drawn[1:], drawn[0]) / len(drawn)
    members = xr.concat([background + one - mean for one in drawn], "member")
    common = {"truth": truth, "progress": False, "seed": 1}
    with tempfile.TemporaryDirectory() as folder:
        for name, choices in CYCLES.items():
            out = Path(folder) / f"{name}.zarr"
            start = members if "carry" in choices else background
            run = cycle(
                start,
                stream,
                out=out,
                model=prior,
                forecaster=cycle_world.forecaster,
                **(common | {"n_cycles": 3, "n_members": 1} | choices),
            )
            yield name, arrays(run.load())
            yield f"{name}: observations", arrays(read_observations(out))
        truth, background = (xdiffda.open_sample(n).load() for n in ("truth", "background"))
        stream = emulated_stream(truth, n_columns=40)
        run = cycle(
            background.isel(time=0),
            stream,
            out=Path(folder) / "sample.zarr",
            n_cycles=2,
            n_members=1,
            settings={"method": "3dvar"},
            **common | {"truth": truth},
        )
        yield "sample", arrays(run.load())


# ---------------------------------------------------------------------- training

FORECASTER = """
task = "forecaster"
data = "{folder}/nature"
out = "{folder}/forecaster"
steps = 3
batch = 2
validate_every = 3
save_every = 3
log_every = 1
[network]
refinement = 1
latent = 8
processor_steps = 1
[optimiser]
peak = 1e-2
warmup_steps = 2
ema = 0.9
"""
DENOISER = (
    FORECASTER.replace('task = "forecaster"', 'task = "denoiser"')
    .replace(
        'out = "{folder}/forecaster"',
        'pairs = "{folder}/pairs"\ninitial = "{folder}/forecaster"\nout = "{folder}/denoiser"',
    )
    .replace("[optimiser]", "conditioning_width = 4\n[optimiser]")
)


def of_training() -> Iterator[tuple[str, Values]]:
    """A forecaster, forecasts by it, and a denoiser from its weights, by the command line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        waves.write_nature(folder / "nature")
        train(folder, "forecaster", FORECASTER)
        yield "forecaster", learned(folder / "forecaster")
        command(
            "xdiffda.experiments.osse",
            "pairs",
            "--data",
            folder / "nature",
            "--forecaster",
            folder / "forecaster",
            "--out",
            folder / "pairs",
            "--n-train",
            12,
        )
        for store in sorted((folder / "pairs").rglob("*.zarr")):
            pairs = xr.open_zarr(store, consolidated=False).load()
            yield f"pairs {store.name}", arrays(pairs)
        train(folder, "denoiser", DENOISER)
        yield "denoiser", learned(folder / "denoiser")


def train(folder: Path, name: str, config: str) -> None:
    """Run ``python -m xdiffda.train``."""
    path = folder / f"{name}.toml"
    path.write_text(config.format(folder=folder))
    command("xdiffda.train", path)


def command(*words: Any) -> None:
    """Run a module of the package in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def learned(folder: Path) -> Values:
    """Losses of each step, and every array that a run leaves in its folder."""
    found = {}
    for path in sorted(folder.rglob("*.csv")):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        for column in rows[0] if rows else ():
            if not re.search("second|time|memory|rate_per|per_s", column):
                found[f"{path.name}: {column}"] = plain([row[column] for row in rows])
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as stored:
            found |= {f"{path.relative_to(folder)}: {k}": plain(v) for k, v in stored.items()}
    for path in sorted(p.parent for p in folder.rglob("_METADATA")):
        stored = jax.tree_util.tree_leaves_with_path(ocp.PyTreeCheckpointer().restore(path))
        where = path.relative_to(folder)
        found |= {f"{where}: {jax.tree_util.keystr(k)}": plain(v) for k, v in stored}
    return found


# ---------------------------------------------------------------------- record and compare

GROUPS: dict[str, Callable[[], Iterator[tuple[str, Values]]]] = {
    "sample": of_sample,
    "scores": of_scores,
    "world": of_gaussian_world,
    "readers": of_readers,
    "cycles": of_cycles,
    "training": of_training,
}


def record(groups: list[str]) -> Values:
    """Arrays by name, ``group/case/array``."""
    found = {}
    for group in groups:
        jax.clear_caches()
        before = first = sum(os.times()[:4])
        for case, values in GROUPS[group]():
            found |= {f"{group}/{case}/{name}": array for name, array in values.items()}
            before, spent = sum(os.times()[:4]), sum(os.times()[:4]) - before
            print(f"{spent:6.1f} s of processor time: {group}/{case}", file=sys.stderr)
        print(f"{before - first:6.1f} s of processor time: {group}", file=sys.stderr)
    return found


def difference(now: np.ndarray, before: np.ndarray | None) -> str:
    """How large a difference is, in words."""
    if before is None or now.shape != before.shape or now.dtype.kind != "f":
        return ""
    change = np.abs(now.astype(float) - before.astype(float))
    size, scale = np.nanmax(change, initial=0.0), np.nanstd(before.astype(float))
    return f"  largest difference {size:.3g}, standard deviation {scale:.3g}"


def compare(found: Values, before: dict[str, str], values: Values) -> list[str]:
    """Every difference, one line each."""
    lines = [f"gone: {name}" for name in before.keys() - found.keys()]
    lines += [f"new: {name}" for name in found.keys() - before.keys()]
    for name in found.keys() & before.keys():
        if (now := digest(found[name])) != before[name]:
            lines.append(
                f"differs: {name}{difference(found[name], values.get(name))}\n"
                f"    before {before[name]}\n    now    {now}"
            )
    return sorted(lines)


def main() -> int:
    """Record, and compare where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file of the digests, name -> digest")
    parser.add_argument("--compare", type=Path, help="JSON file of an earlier call")
    parser.add_argument(
        "--values",
        type=Path,
        help="NPZ file of the values: written beside --out, read beside --compare",
    )
    parser.add_argument("--only", choices=sorted(GROUPS), action="append", help="these groups")
    chosen = parser.parse_args()
    groups = chosen.only or list(GROUPS)
    found = record(groups)
    digests = {name: digest(values) for name, values in sorted(found.items())}
    if chosen.out:
        chosen.out.write_text(json.dumps(digests, indent=1) + "\n")
        if chosen.values and not chosen.compare:
            with chosen.values.open("wb") as file:
                np.savez_compressed(file, **{k.replace("/", "|"): v for k, v in found.items()})
    if not chosen.compare:
        print(f"{len(digests)} digests recorded")
        return 0
    earlier = json.loads(chosen.compare.read_text())
    earlier = {k: v for k, v in earlier.items() if k.partition("/")[0] in groups}
    values = {}
    if chosen.values:
        with np.load(chosen.values) as stored:
            values = {k.replace("|", "/"): v for k, v in stored.items()}
    lines = compare(found, earlier, values)
    print("\n".join(lines) if lines else f"{len(digests)} digests, none differs")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())

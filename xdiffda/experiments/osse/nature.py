"""The nature run: the truth of the embedded testbed, from the SPEEDY-physics model `jcm`.

    python -m xdiffda.experiments.osse nature --out DIR --stream 0 --days 1300

integrates the model at T31 L8 and writes 6-hourly states on pressure levels, on the
64 x 32 equiangular grid, as one zarr store per stream.  The run is seeded and resumable:
each 30-day chunk is written first and its restart file after it, so that a killed run
repeats at most one chunk and ends in the same bits.  Needs the extra ``osse``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

# Sigma levels to pressure levels: linear in log-pressure, extrapolated below ground.

GRAVITY = 9.81  # m s-2
GAS_CONSTANT = 287.0  # J kg-1 K-1
LAPSE_RATE = 0.0065  # K m-1, standard atmosphere


def to_pressure_levels(
    *,
    sigma: np.ndarray,
    surface_pressure: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    temperature: np.ndarray,
    specific_humidity: np.ndarray,
    geopotential: np.ndarray,
    levels: Sequence[int],
) -> dict[str, np.ndarray]:
    """Interpolate a model state from sigma to pressure levels.

    Linear in the logarithm of pressure between sigma centres.  Below the lowest centre,
    wind and humidity are constant; temperature follows the standard lapse rate and
    geopotential the hydrostatic height that belongs to it (Trenberth et al. 1993,
    NCAR/TN-396, section 3, simplified to one lapse rate).  Mean sea level pressure is
    the same extrapolation taken to height zero.

    Parameters
    ----------
    sigma : array (layer,)
        Centres, top first.
    surface_pressure : array (time, x, y), Pa
    u, v, temperature, specific_humidity, geopotential : array (time, layer, x, y)
        Geopotential in m2 s-2 at the centres.
    levels : sequence of int, hPa

    Returns
    -------
    dict of str to array
        WeatherBench names; (time, level, x, y), and (time, x, y) for
        ``mean_sea_level_pressure`` in Pa.
    """
    log_p = np.log(sigma)[None, :, None, None] + np.log(surface_pressure)[:, None]
    p_low, t_low, z_low = (np.exp(log_p[:, -1]), temperature[:, -1], geopotential[:, -1] / GRAVITY)
    exponent = GAS_CONSTANT * LAPSE_RATE / GRAVITY
    columns = {
        "u_component_of_wind": u,
        "v_component_of_wind": v,
        "temperature": temperature,
        "specific_humidity": specific_humidity,
        "geopotential": geopotential,
    }
    out: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for level in levels:
        target = np.log(100.0 * level)
        below = target > log_p[:, -1]
        upper = np.clip((log_p < target).sum(1) - 1, 0, sigma.size - 2)[:, None]
        lower_log, upper_log = (np.take_along_axis(log_p, upper + k, 1)[:, 0] for k in (1, 0))
        weight = np.clip((target - upper_log) / (lower_log - upper_log), 0.0, 1.0)
        ratio = (100.0 * level / p_low) ** exponent
        for name, field in columns.items():
            above_value, below_value = (
                np.take_along_axis(field, upper + k, 1)[:, 0] for k in (0, 1)
            )
            value = (1 - weight) * above_value + weight * below_value
            if name == "temperature":
                value = np.where(below, t_low * ratio, value)
            elif name == "geopotential":
                height = z_low + t_low / LAPSE_RATE * (1 - ratio)
                value = np.where(below, GRAVITY * height, value)
            out[name].append(value)
    fields = {name: np.stack(values, axis=1) for name, values in out.items()}
    base = 1 + LAPSE_RATE * z_low / t_low
    fields["mean_sea_level_pressure"] = p_low * base ** (1 / exponent)
    return fields


LEVELS = (100, 200, 300, 500, 700, 850, 925)
CHUNK_DAYS = 30
STEPS_PER_DAY = 4


@dataclasses.dataclass(frozen=True)
class NatureRun:
    """Configuration of one stream of the nature run.

    Attributes
    ----------
    stream : int
        Number of the stream; seeds the initial perturbation and shifts the start by
        ten years, so that streams are independent.
    days : int
        Days kept, after the spin-up.
    spinup_days : int
        Days dropped at the start (the model forgets its resting initial state).
    """

    stream: int = 0
    days: int = 1300
    spinup_days: int = 120

    @property
    def start(self) -> np.datetime64:
        return np.datetime64(f"{2000 + 10 * self.stream}-01-01", "ns")

    @property
    def n_chunks(self) -> int:
        return -(-(self.days + self.spinup_days) // CHUNK_DAYS)

    @property
    def n_times(self) -> int:
        return (self.n_chunks * CHUNK_DAYS - self.spinup_days) * STEPS_PER_DAY


def build_model(config: NatureRun) -> tuple[Any, Any, Any]:
    """Return (model, forcing, initial state) of the T31 L8 configuration.

    Two repairs to the stock set-up (measured in the project's feasibility study): a
    relaxation of upper-level temperature, without which the polar lid runs away, and a
    slightly lower initial surface pressure, since the default carries too much mass.
    """
    from jcm.forcing import ForcingData
    from jcm.model import Model
    from jcm.physics.dissipation.upper_temperature_relaxation import UpperTemperatureRelaxation
    from jcm.physics.speedy.speedy_coords import get_speedy_coords
    from jcm.physics.speedy.speedy_terms import speedy_physics
    from jcm.terrain import TerrainData

    boundary = resources.files("jcm.data.bc") / "t30/clim"
    coords = get_speedy_coords(layers=8, spectral_truncation=31)
    terrain = TerrainData.from_file(boundary / "terrain.nc", coords=coords)
    forcing = ForcingData.from_file(boundary / "forcing.nc", coords=coords, align_mode="wrap_year")
    lid = UpperTemperatureRelaxation(
        np.r_[216.0, 211.0, np.full(6, 250.0)], n_levels=2, timescale_s=15 * 86400.0, ramp=2.0
    )
    model = Model(
        coords=coords,
        terrain=terrain,
        physics=speedy_physics() + lid,
        time_step=30,
        start_time=str(config.start.astype("datetime64[D]")),
    )
    state = model.dycore.to_physics_state(model.initial_state())
    noise = np.random.default_rng(config.stream).normal(0, 0.1, state.temperature.shape)
    state = state.copy(
        normalized_surface_pressure=0.985 * state.normalized_surface_pressure,
        temperature=state.temperature + noise.astype(np.float32),
    )
    return model, forcing, state


def _regridder(model: Any) -> Any:
    """Return a function (..., lon, lat) -> (..., lat, lon) on the 64 x 32 equiangular grid."""
    from dinosaur import horizontal_interpolation, spherical_harmonic

    target = spherical_harmonic.Grid(
        longitude_nodes=64, latitude_nodes=32, latitude_spacing="equiangular"
    )
    conserve = horizontal_interpolation.ConservativeRegridder(model.coords.horizontal, target)
    lat, lon = np.rad2deg(target.latitudes), np.rad2deg(target.longitudes)
    return lambda field: np.swapaxes(np.asarray(conserve(field)), -1, -2), lat, lon


def _to_dataset(predictions: Any, model: Any, times: np.ndarray) -> xr.Dataset:
    dynamics, surface = predictions.dynamics, predictions.physics["_surface_flux"]
    fields = to_pressure_levels(
        sigma=np.asarray(model.coords.vertical.centers),
        surface_pressure=1e5 * np.asarray(dynamics.normalized_surface_pressure),
        u=np.asarray(dynamics.u_wind),
        v=np.asarray(dynamics.v_wind),
        temperature=np.asarray(dynamics.temperature),
        specific_humidity=np.asarray(dynamics.specific_humidity),
        geopotential=np.asarray(dynamics.geopotential),
        levels=LEVELS,
    )
    fields["2m_temperature"] = np.asarray(surface.t0)
    regrid, lat, lon = _regridder(model)
    dims = {4: ("time", "level", "lat", "lon"), 3: ("time", "lat", "lon")}
    return xr.Dataset(
        {k: (dims[v.ndim], regrid(v).astype(np.float32)) for k, v in fields.items()},
        coords={"time": times, "level": np.array(LEVELS, np.int32), "lat": lat, "lon": lon},
    )


def static_fields(model: Any) -> xr.Dataset:
    """Return land-sea mask (0..1) and surface geopotential (m2 s-2) on the output grid."""
    regrid, lat, lon = _regridder(model)
    terrain = model.terrain
    return xr.Dataset(
        {
            "land_sea_mask": (("lat", "lon"), regrid(terrain.fmask).astype(np.float32)),
            "geopotential_at_surface": (("lat", "lon"), regrid(terrain.phis0).astype(np.float32)),
        },
        coords={"lat": lat, "lon": lon},
    )


def _create_store(store: Path, config: NatureRun, first: xr.Dataset, model: Any) -> None:
    """Write the empty store with its full time axis, atomically."""
    import dask.array as da
    import jcm

    start = config.start + np.timedelta64(config.spinup_days, "D")
    times = start + np.arange(1, config.n_times + 1) * np.timedelta64(6, "h")
    template = xr.Dataset(
        {
            k: (
                v.dims,
                da.zeros(
                    (config.n_times, *v.shape[1:]),
                    dtype=v.dtype,
                    chunks=(CHUNK_DAYS * STEPS_PER_DAY, *v.shape[1:]),
                ),
            )
            for k, v in first.items()
        },
        coords={**first.drop_vars("time").coords, "time": times},
        attrs={
            "title": "nature run, SPEEDY physics, T31 L8",
            "stream": config.stream,
            "spinup_days": config.spinup_days,
            "jcm_version": str(getattr(jcm, "__version__", "?")),
        },
    )
    template = template.merge(static_fields(model))
    partial = store.with_suffix(".partial")
    template.to_zarr(partial, compute=False, mode="w")
    os.replace(partial, store)


def run(out: str | Path, config: NatureRun) -> Path:
    """Integrate one stream and return the path of its zarr store.

    Parameters
    ----------
    out : path
        Folder for ``stream<N>.zarr`` and the restart file; made if absent.
    config : NatureRun

    Returns
    -------
    pathlib.Path
        The finished store.  Calling again on a finished store returns at once.
    """
    from jcm.checkpoint import load_checkpoint, save_checkpoint
    from tqdm.auto import tqdm

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    store, restart = out / f"stream{config.stream}.zarr", out / f"stream{config.stream}.restart"
    progress = out / f"stream{config.stream}.done"
    done = int(progress.read_text()) if progress.exists() else 0
    if done >= config.n_chunks:
        return store
    model, forcing, initial = build_model(config)
    arguments = {"forcing": forcing, "save_interval": "6 hours", "total_time": f"{CHUNK_DAYS} days"}
    if done:
        # a bootstrap gives the restart reader the structure it fills
        model.bootstrap_state(initial)
        load_checkpoint(model, _restart_of(restart, done))
    for chunk in tqdm(range(done, config.n_chunks), desc=f"nature run {config.stream}"):
        predictions = (
            model.resume(**arguments) if chunk else model.run(initial_state=initial, **arguments)
        )
        _write_chunk(store, config, predictions, model, chunk)
        save_checkpoint(model, _restart_of(restart, chunk + 1))
        temporary = progress.with_suffix(".tmp")
        temporary.write_text(str(chunk + 1))
        os.replace(temporary, progress)
        _restart_of(restart, chunk - 1).unlink(missing_ok=True)
    return store


def _restart_of(restart: Path, chunk: int) -> Path:
    return restart.with_suffix(f".{chunk:04d}.msgpack")


def _write_chunk(store: Path, config: NatureRun, predictions: Any, model: Any, chunk: int) -> None:
    n = CHUNK_DAYS * STEPS_PER_DAY
    first = chunk * n - config.spinup_days * STEPS_PER_DAY
    if first < 0:
        return
    begin = config.start + np.timedelta64(chunk * CHUNK_DAYS, "D")
    times = begin + np.arange(1, n + 1) * np.timedelta64(6, "h")
    data = _to_dataset(predictions, model, times)
    if not all(bool(np.isfinite(v).all()) for v in data.values()):
        raise FloatingPointError(f"nature run {config.stream} blew up before {times[-1]}")
    if not store.exists():
        _create_store(store, config, data, model)
    data.drop_vars(["level", "lat", "lon"]).to_zarr(
        store, region={"time": slice(first, first + n)}, mode="r+"
    )

"""Experiment 2 of the DiffDA paper: autoregressive assimilation, every method side by side.

    xdiffda experiment cycling CONFIG.toml

Each method, with each number of columns, at fixed and at changing sites, is one cycled run in
a store of its own (`xdiffda.cycling.cycle.cycle`), which resumes exactly; all start from the same
background and see the same observations. An ERA5 store and other weights need no other code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from xdiffda.cycling.config import CARRY, Assimilation, Emulation
from xdiffda.cycling.cycle import cycle
from xdiffda.cycling.forecast import forecast
from xdiffda.cycling.observation_stream import clock_of, duration, emulated_stream, state_at
from xdiffda.cycling.relaxation import Relaxation
from xdiffda.cycling.store import open_cycle
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.experiments.config import FORMATS, QUARTER, format_problems
from xdiffda.experiments.world import STREAM, errors
from xdiffda.jax_settings import with_own_jax
from xdiffda.priors import registry
from xdiffda.priors.prior import Prior
from xdiffda.priors.samples import open_named
from xdiffda.state.convert import from_state, to_state
from xdiffda.state.variables import canonical_name
from xdiffda.storage.toml import build_all, read_toml

NETWORKS = {"fixed": True, "changing": False}
Forecaster = Callable[[xr.Dataset], xr.Dataset]


@dataclasses.dataclass(frozen=True)
class CycledMethod(Assimilation):
    """Settings of `xdiffda.assimilate` and of `xdiffda.cycling.cycle.cycle` for one method.

    Attributes
    ----------
    n_members : int
    carry : {"mean", "ensemble"}
    columns : list of int, optional
        Numbers of columns at which it is run; default all.
    networks : list of str, optional
        Networks of sites with which it is run; default all.
    """

    n_members: int = 8
    carry: str = "mean"
    columns: tuple[int, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def assimilation(self) -> Assimilation:
        """Settings of `assimilate` alone."""
        names = [field.name for field in dataclasses.fields(Assimilation)]
        return Assimilation(**{name: getattr(self, name) for name in names})


def default_methods() -> dict[str, Any]:
    """Guided sampling, 3D-Var, and a LETKF of 20 members."""
    letkf = {"method": "letkf", "n_members": 20, "carry": "ensemble"}
    return {"guided": {}, "3D-Var": {"method": "3dvar"}, "LETKF (20)": letkf}


@dataclasses.dataclass(frozen=True)
class CyclingConfig:
    """One experiment on cycles, as ``xdiffda experiment cycling`` reads it.

    Attributes
    ----------
    truth : str
        File or store with the truth along time, or ``sample:truth``.
    out : str
        Folder of stores, table and figure; made if it is not there.
    background : str
        A lead time such as ``48h``: the first background is a forecast from the truth of so
        long before; or a file that holds it.
    start : str
        Time of the first analysis; default the first that is possible.
    n_cycles : int
    cycle_length : str
    columns : list of int
    networks : list of str
        ``fixed`` sites, ``changing`` sites, or both.
    error_std, variables
        Of the observations, as in `xdiffda.cycling.cycle.Emulation`; or ``quarter``, a quarter of
        the
        model's background errors, channel by channel.
    model : str
    relaxation : Relaxation, optional
        Of all forecasts, see `xdiffda.cycling.cycle.cycle`; the climatology is the name of a file.
    methods : table of tables
        Name -> `CycledMethod`.
    seed : int
    figure_format : {"png", "svg", "pdf"}
        Of the figure that is written.
    """

    truth: str
    out: str
    background: str = "48h"
    start: str = ""
    n_cycles: int = 80
    cycle_length: str = "6h"
    columns: tuple[int, ...] = (416,)
    networks: tuple[str, ...] = tuple(NETWORKS)
    error_std: str | float | dict[str, Any] = "default"
    variables: tuple[str, ...] = ()
    model: str = ""
    relaxation: Relaxation | None = None
    methods: dict[str, Any] = dataclasses.field(default_factory=default_methods)
    seed: int = 0
    figure_format: str = FORMATS[0]

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        built = build_all(CycledMethod, self.methods, problems, "methods")
        object.__setattr__(self, "methods", built)
        for name, method in built.items():
            if method is not None and method.carry not in CARRY:
                found, needed = f"methods.{name}.carry = {method.carry!r}", " or ".join(CARRY)
                problems.append(Problem(found, needed, 'carry = "mean"'))
        given = [*self.networks, *(n for m in built.values() if m is not None for n in m.networks)]
        if unknown := [n for n in given if n not in NETWORKS] or not self.networks:
            problems.append(
                Problem(
                    f"networks = {unknown}",
                    f"some of {', '.join(NETWORKS)}",
                    'networks = ["fixed"]',
                )
            )
        if not self.columns or min(self.columns) < 1:
            problems.append(
                Problem(f"columns = {self.columns}", "positive numbers", "columns = [416]")
            )
        problems += format_problems(self.figure_format)
        raise_if(problems, what="configuration of an experiment")

    @classmethod
    def example(cls) -> CyclingConfig:
        """A day of cycles on the bundled sample, of two methods."""
        return cls(
            truth="sample:truth",
            background="sample:background",
            start="2012-12-21T06",
            out="experiment-cycling",
            n_cycles=4,
            networks=("fixed",),
            methods={"guided": {}, "3D-Var": {"method": "3dvar"}},
        )

    @classmethod
    def read(cls, path: str | Path) -> CyclingConfig:
        """Read a TOML file.

        Raises
        ------
        InputError
            Listing every unknown or mistyped entry.
        """
        return read_toml(cls, path, example='truth = "truth.zarr"')


@dataclasses.dataclass(frozen=True)
class Run:
    """One cycled run of the experiment."""

    name: str
    method: CycledMethod
    columns: int
    network: str

    @property
    def store(self) -> str:
        """Name of its store: letters, digits and signs that every disk takes."""
        word = "".join(c if c.isalnum() else "-" for c in self.name).strip("-").lower()
        return f"{word}-{self.columns}-{self.network}.zarr"


def runs_of(config: CyclingConfig) -> list[Run]:
    """Return all runs, in the order in which they are made."""
    return [
        Run(name, method, columns, network)
        for columns in config.columns
        for network in config.networks
        for name, method in config.methods.items()
        if columns in (method.columns or config.columns)
        and network in (method.networks or config.networks)
    ]


@with_own_jax
def run(
    config: CyclingConfig | str | Path,
    *,
    prior: Prior | None = None,
    truth: xr.Dataset | None = None,
    forecaster: Forecaster | None = None,
    progress: bool | None = None,
) -> dict[Run, xr.Dataset]:
    """Run or resume the experiment.

    Parameters
    ----------
    config : CyclingConfig or path
    prior : Prior, optional
        Instead of the model named in the configuration.
    truth : Dataset, optional
        Instead of the file named there.
    forecaster : callable Dataset -> Dataset, optional
        Your own model, one cycle a call.
    progress : bool, optional

    Returns
    -------
    dict
        Run -> its store, as `xdiffda.cycling.cycle.open_cycle` gives it.

    Raises
    ------
    InputError
        If the configuration, or what it names, does not fit.
    StorageError
        If a file cannot be read or written.
    """
    config = config if isinstance(config, CyclingConfig) else CyclingConfig.read(config)
    prior = prior or registry.resolve(config.model or None)
    truth = _of_model(open_named(config.truth) if truth is None else truth, prior)
    background = _first_background(config, truth, forecaster)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    relaxation, errors_of = config.relaxation, config.error_std
    if errors_of == QUARTER:
        errors_of = prior.typical_error(1 / 4)
    if relaxation is not None and isinstance(relaxation.climatology, str):
        climatology = _of_model(open_named(relaxation.climatology), prior)
        relaxation = dataclasses.replace(relaxation, climatology=climatology)
    for own in runs_of(config):
        emulation = Emulation(
            n_columns=own.columns,
            fixed_sites=NETWORKS[own.network],
            seed=config.seed,
            error_std=errors_of,
            variables=list(config.variables) or None,
        )
        ensemble = own.method.method.needs_members
        cycle(
            _ensemble(background, prior, own.method.n_members, config.seed)
            if ensemble
            else background,
            emulated_stream(truth, levels=prior.layout.levels or None, **emulation.choices()),
            out=out / own.store,
            n_cycles=config.n_cycles,
            n_members=own.method.n_members,
            carry=own.method.carry,
            cycle_length=config.cycle_length,
            seed=config.seed,
            model=prior if forecaster is not None or not config.model else config.model,
            forecaster=forecaster,
            truth=truth,
            relaxation=relaxation,
            settings=own.method.assimilation,
            progress=progress,
        )
    return {own: open_cycle(out / own.store) for own in runs_of(config)}


def _first_background(
    config: CyclingConfig, truth: xr.Dataset, forecaster: Forecaster | None
) -> xr.Dataset:
    """A forecast from the truth, or that of a file."""
    known = np.sort(clock_of(truth, what="truth"))
    try:
        lead = duration(config.background)
    except ValueError:
        file = open_named(config.background)
        time = (
            np.datetime64(config.start, "ns")
            if config.start
            else clock_of(file, what="background")[0]
        )
        return state_at(file, time, what="background").compute()
    start = np.datetime64(config.start, "ns") if config.start else known[0] + lead
    x = state_at(truth, start - lead, what="truth").compute()
    if forecaster is None:
        step = f"{lead / np.timedelta64(1, 'h'):g}h"
        ahead = forecast(x, step, model=config.model or None)
        return ahead.isel(time=-1).drop_vars(["lead_time", "init_time"])
    for _ in range(int(lead // duration(config.cycle_length))):
        x = forecaster(x)
    return x


def _ensemble(background: xr.Dataset, prior: Prior, n_members: int, seed: int) -> xr.Dataset:
    """Members around the first background, drawn from the Gaussian of its error; mean kept."""
    x, layout, convention = to_state(background, prior.layout, what="background")
    x = x.reshape(layout.grid.n_node, layout.n_channel)
    members = x + errors(prior, jax.random.fold_in(jax.random.key(seed), STREAM), n_members)
    time = convention.valid_times
    ds = from_state(members.astype(np.float32), layout, convention, dims=("member",))
    return ds.assign_coords(time=np.asarray(time).reshape(-1)[0])


def _of_model(ds: xr.Dataset, prior: Prior) -> xr.Dataset:
    """The variables that the model knows: a truth may have others."""
    known = set(prior.layout.variables)

    def of(n):
        return {canonical_name(n, on_levels=on) for on in (True, False)}

    names = [str(n) for n in ds.data_vars if known & of(str(n))]
    if not names:
        raise InputError(
            [
                Problem(
                    f"the variables {', '.join(map(str, ds.data_vars))}",
                    f"{', '.join(known)}",
                    "",
                )
            ],
            what="truth",
        )
    return ds[names]

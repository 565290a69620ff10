"""Configuration of a cycled run: frozen dataclasses, read from one TOML file."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from xdiffda.assimilation.methods import METHODS, Method, as_method, method_class
from xdiffda.assimilation.settings import Settings
from xdiffda.cycling.relaxation import Relaxation
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations.quality import QUALITY, Quality
from xdiffda.state.times import width_of
from xdiffda.storage.toml import read_toml

# Single arguments of a cycled run that cannot be what they should be.

CARRY = ("mean", "ensemble")


def plain_problems(
    *,
    n_cycles: object,
    n_members: object,
    carry: object,
    cycle_length: object,
    seed: object,
    line: str = "cycle(..., {name}={value})",
) -> list[Problem]:
    """List the problems of single values; ``line`` is the template of an entry."""

    def problem(name: str, value: object, needed: str, better: str) -> Problem:
        return Problem(f"{name}={value!r}", needed, line.format(name=name, value=better))

    problems = []
    for name, value, least in (
        ("n_cycles", n_cycles, 1),
        ("n_members", n_members, 1),
        ("seed", seed, 0),
    ):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:  # pyright: ignore[reportOperatorIssue]
            needed = f"a whole number of {least} or more"
            problems.append(problem(name, value, needed, str({"n_cycles": 20}.get(name, least))))
    if carry not in CARRY:
        problems.append(problem("carry", carry, f"one of {', '.join(CARRY)}", '"mean"'))
    length = seconds(cycle_length)
    if not (length > 0 and length == int(length)):
        problems.append(problem("cycle_length", cycle_length, "a positive length", '"6h"'))
    return problems


def kind_problems(
    *, out: object, forecaster: object, truth: object, relaxation: object
) -> list[Problem]:
    """Arguments of `cycle` that are not at all of the kind they should be."""
    problems = []
    if not isinstance(out, str | os.PathLike) or not str(out).strip():
        problems.append(
            Problem(f"out={out!r}", "the name of a zarr store", 'cycle(..., out="run.zarr")')
        )
    if forecaster is not None and not _takes_one(forecaster):
        problems.append(
            Problem(
                f"a forecaster of type {type(forecaster).__name__}, not to be called with one "
                f"state",
                "a function from a Dataset to the Dataset one cycle later, or None for the "
                "model's own",
                "cycle(..., forecaster=lambda ds: my_model(ds))",
            )
        )
    for name, value, kind in (("truth", truth, xr.Dataset), ("relaxation", relaxation, Relaxation)):
        if value is not None and not isinstance(value, kind):
            better = "xdiffda.open_dataset(path)" if kind is xr.Dataset else "Relaxation(climate)"
            problems.append(
                Problem(
                    f"{name} of type {type(value).__name__}",
                    f"a {kind.__name__}",
                    f"cycle(..., {name}={better})",
                )
            )
    return problems


def _takes_one(function: Any) -> bool:
    """Return whether it can be called with one argument."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
        return True
    return True


def seconds(length: Any) -> float:
    """Length in seconds; NaN where it is none."""
    return width_of(length).total_seconds()


def is_time(text: str) -> bool:
    """Return whether numpy reads it as a time."""
    try:
        return not np.isnat(np.datetime64(text, "ns"))
    except ValueError:
        return False


def is_number(text: object) -> bool:
    """Return whether it is a positive number, or the text of one."""
    try:
        return float(str(text)) > 0
    except ValueError:
        return False


# what `cycle` itself hands to `assimilate`
OWN = ("background", "obs", "n_members", "model", "seed", "progress", "return_obs")


@dataclasses.dataclass(frozen=True)
class Assimilation:
    """Settings of `xdiffda.assimilate` in every cycle, with its defaults.

    Attributes
    ----------
    method : str or Method
        See `xdiffda.assimilate`. In a file the settings of the method (`xdiffda.Guided`,
        `xdiffda.ThreeDVar`, `xdiffda.LETKF`, ...) stand beside its name.
    window : str, optional
        Width of the window; default the cycle's length, so that each observation is used
        once.
    background_error
        See `xdiffda.assimilate`.
    quality : Quality
        See `xdiffda.Quality`.
    withhold
        See `xdiffda.assimilate`.
    operators, error_correlation
        See `xdiffda.assimilate`; not in a file.
    """

    FLAT: ClassVar = {"method": method_class}

    method: Method = METHODS["guided"]()
    background_error: float | str = "estimate"
    window: str | None = None
    quality: Quality = QUALITY
    withhold: float = 0.0
    operators: Any = None
    error_correlation: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", as_method(self.method))

    def settings(self, *, n_members: int, seed: int, window: str = "6h") -> Settings:
        """Settings of one analysis."""
        return Settings(
            self.method,
            n_members,
            self.background_error,
            self.window or window,
            self.quality,
            self.operators,
            self.error_correlation,
            self.withhold,
            seed,
        )


@dataclasses.dataclass(frozen=True)
class Emulation:
    """Observations emulated from the truth: see `xdiffda.cycling.cycle.emulated_stream`.

    Attributes
    ----------
    n_columns : int
    fixed_sites : bool
    error_std : "default", float or table
        One number, or a table from variable to a number or to a table from level to number.
    variables : list of str, optional
        Default all.
    seed : int
    """

    n_columns: int = 416
    fixed_sites: bool = True
    error_std: str | float | dict[str, Any] = "default"
    variables: list[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        tables = self.error_std if isinstance(self.error_std, dict) else {}
        wrong = [
            (name, p)
            for name, of in tables.items()
            if isinstance(of, dict)
            for p in of
            if not is_number(p)
        ]
        raise_if(
            [
                Problem(
                    f"error_std of {name} at {p!r}",
                    "a level in hPa",
                    f'error_std = {{ {name} = {{ "850" = 0.5 }} }}',
                )
                for name, p in wrong
            ],
            what="emulate",
        )

    def choices(self) -> dict[str, Any]:
        """Arguments of `emulated_stream`; levels, which TOML writes as text, are numbers."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if isinstance(self.error_std, dict):
            given["error_std"] = {
                name: {float(p): v for p, v in of.items()} if isinstance(of, dict) else of
                for name, of in self.error_std.items()
            }
        return given


@dataclasses.dataclass(frozen=True)
class CycleConfig:
    """One cycled run, as ``xdiffda cycle CONFIG`` reads it.

    Attributes
    ----------
    background : str
        File with the first background, or ``sample:background``.
    out : str
        Store to write, a ``.zarr`` folder.
    n_cycles : int
    observations : str
        File with all observations, in any form that `xdiffda.read_obs` knows; or the table
        ``[emulate]``.
    truth : str
        File with the truth, or ``sample:truth``: adds scores and the free run.
    start : str
        Time of the first analysis, where the file of the background has several.
    n_members, carry, cycle_length, seed
        See `xdiffda.cycling.cycle.cycle`.
    model : str
        Name or folder of a model; empty for the default.
    emulate : Emulation, optional
    relaxation : Relaxation, optional
        See `xdiffda.cycling.cycle.cycle`; the climatology is the name of a file.
    assimilate : Assimilation
    """

    background: str
    out: str
    n_cycles: int
    observations: str = ""
    truth: str = ""
    start: str = ""
    n_members: int = 8
    carry: str = "mean"
    cycle_length: str = "6h"
    seed: int = 0
    model: str = ""
    emulate: Emulation | None = None
    relaxation: Relaxation | None = None
    assimilate: Assimilation = Assimilation()

    def __post_init__(self) -> None:
        problems = plain_problems(
            n_cycles=self.n_cycles,
            n_members=self.n_members,
            carry=self.carry,
            cycle_length=self.cycle_length,
            seed=self.seed,
            line="{name} = {value}",
        )
        if bool(self.observations) == (self.emulate is not None):
            problems.append(
                Problem(
                    "both observations and [emulate]"
                    if self.observations
                    else "neither observations nor [emulate]",
                    "one of them",
                    'observations = "obs.zarr"',
                )
            )
        if self.start and not is_time(self.start):
            problems.append(
                Problem(
                    f"start = {self.start!r}",
                    "the time of the first analysis",
                    'start = "2020-01-01T06"',
                )
            )
        if self.emulate is not None and not self.truth:
            problems.append(
                Problem("[emulate] without truth", "what is to be observed", 'truth = "truth.zarr"')
            )
        raise_if(problems, what="configuration of a cycled run")

    @classmethod
    def example(cls) -> CycleConfig:
        """A day of cycles on the bundled sample."""
        return cls(
            background="sample:background",
            truth="sample:truth",
            start="2012-12-21T06",
            out="run.zarr",
            n_cycles=4,
            emulate=Emulation(),
        )

    @classmethod
    def read(cls, path: str | Path) -> CycleConfig:
        """Read a TOML file.

        Raises
        ------
        InputError
            Listing every unknown or mistyped entry.
        """
        return read_toml(cls, path, example="n_cycles = 20")


def assimilation_settings(
    given: Assimilation | Mapping[str, Any] | None,
    cycle_length: str,
    carry: str = "mean",
    call: str = "cycle",
) -> Assimilation:
    """The settings of every analysis, the defaults filled in; ``call`` is who takes them.

    Raises
    ------
    InputError
        If a name is not one of its settings, or is one that `cycle` sets itself.
    """
    if isinstance(given, Mapping):
        known = [field.name for field in dataclasses.fields(Assimilation)]
        raise_if(
            [_unknown(name, known, call, given) for name in given if name not in known],
            what="settings of assimilate",
        )
        given = Assimilation(**given)
    if given is not None and not isinstance(given, Assimilation):
        raise InputError(
            [
                Problem(
                    f"settings={given!r}",
                    "a mapping from setting to value",
                    f'{call}(..., settings={{"method": "3dvar"}})',
                )
            ],
            what="settings of assimilate",
        )
    given = given or Assimilation()
    window = cycle_length if given.window is None else given.window
    if not seconds(window) > 0:
        raise InputError(
            [
                Problem(
                    f"window={window!r}",
                    "a positive width",
                    f"{call}(..., settings={{'window': '6h'}})",
                )
            ],
            what="settings of assimilate",
        )
    return dataclasses.replace(given, window=window, method=given.method.for_cycle(carry))


def _unknown(name: str, known: list[str], call: str, given: Mapping[str, Any]) -> Problem:
    if name in OWN:
        return Problem(
            f"settings={{{name!r}: ...}}",
            f"an argument of {call} itself",
            f'{name}=settings.pop("{name}")',
        )
    chosen = as_method(given.get("method", "guided"))
    for kind in (type(chosen), *METHODS.values()):
        if name in {field.name for field in dataclasses.fields(kind)}:
            setting = f"xdiffda.{kind.__name__}({name}={given[name]!r})"
            needed = f"{name} as a setting of the method"
            repair = f"{call}(..., settings={{'method': {setting}}})"
            return Problem(f"the setting {name!r}", needed, repair)
    if name in {field.name for field in dataclasses.fields(Quality)}:
        setting = f"xdiffda.Quality({name}={given[name]!r})"
        repair = f"{call}(..., settings={{'quality': {setting}}})"
        return Problem(f"the setting {name!r}", f"{name} as a setting of the quality", repair)
    near = difflib.get_close_matches(name, known, n=1)
    return Problem(
        f"the setting {name!r}",
        f"some of {', '.join(known)}",
        f"settings[{near[0]!r}] = settings.pop({name!r})" if near else "",
    )


def flat_settings(settings: Assimilation) -> dict[str, Any]:
    """Settings as a store keeps them: those of the method, and of quality control, beside them."""
    found = as_plain(settings)
    method, quality = found.pop("method"), found.pop("quality")
    return {"method": method.pop("name"), **method, **found, **quality}


def repair_of_setting(name: str, value: Any, method: str) -> str:
    """The entry of ``settings`` that a flat setting stands for; empty where no text makes it."""
    if isinstance(value, dict | list):
        return ""
    kind = METHODS.get(method)
    if name != "method" and kind and name in {field.name for field in dataclasses.fields(kind)}:
        return f"{{'method': xdiffda.{kind.__name__}({name}={value!r})}}"
    if name in {field.name for field in dataclasses.fields(Quality)}:
        return f"{{'quality': xdiffda.Quality({name}={value!r})}}"
    return f"{{{name!r}: {value!r}}}"


def as_plain(value: Any) -> Any:
    """Settings as JSON can hold them, the same in every process, to tell runs apart."""
    if isinstance(value, Method):
        value = value.plain()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): as_plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    if isinstance(value, str | int | float | None):
        return value
    # the default text of a function or an object has its address in it
    return getattr(value, "__qualname__", str(value) if _has_text(value) else type(value).__name__)


def _has_text(value: object) -> bool:
    return type(value).__str__ is not object.__str__ or type(value).__repr__ is not object.__repr__

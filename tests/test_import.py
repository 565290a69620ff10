"""`import xdiffda` is light and its public names are all there."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys

import pytest

import xdiffda

HEAVY = (
    "jax",
    "jaxlib",
    "equinox",
    "jaxtyping",
    "optax",
    "orbax",
    "matplotlib",
    "cartopy",
    "shapely",
    "scipy",
    "dask",
    "zarr",
    "netCDF4",
    "cfgrib",
    "eccodes",
    "pint",
    "cf_xarray",
    "scores",
    "typer",
    "tqdm",
    "panel",
    "holoviews",
)
# all modules loaded by a statement, and those that the interpreter and xarray load anyway
PROBE = "import sys; {statement}; print(*sorted(sys.modules))"


@functools.cache
def modules_after(statement: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    loaded = modules_after("import xdiffda") - modules_after("import xarray")
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & set(HEAVY)


def test_import_adds_little_to_xarray() -> None:
    """A count, since times on a busy machine mean nothing (see benchmarks/import_time.py)."""
    before, after = modules_after("import xarray"), modules_after("import xdiffda")
    assert len(after) < 1.2 * len(before)


@pytest.mark.parametrize("kind", ["Dataset", "DataArray"])
def test_import_registers_the_accessor(kind: str) -> None:
    import xarray as xr

    assert hasattr(getattr(xr, kind), "diffda")


@pytest.mark.parametrize("name", xdiffda.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(xdiffda, name) is not None
    assert name in dir(xdiffda)


def test_public_names_are_listed_once() -> None:
    assert len(set(xdiffda.__all__)) == len(xdiffda.__all__)
    listed = {*xdiffda._EXPORTS, *xdiffda._SUBMODULES, "__version__"}
    assert listed == set(xdiffda.__all__)


@pytest.mark.parametrize("name", ["models", "verify"])
def test_lazy_names_survive_the_import_of_submodules(name: str) -> None:
    """Importing `xdiffda.priors.registry` must not put a module in the place of a function."""
    before = getattr(xdiffda, name)
    for module in set(xdiffda._EXPORTS.values()):
        importlib.import_module(module)
    assert getattr(xdiffda, name) is before


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'assimilat'"):
        xdiffda.assimilat  # noqa: B018

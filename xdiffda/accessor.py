"""The accessor ``.diffda``: a thin face, one line for each public function."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import xarray as xr

from xdiffda import _describe


class Method:
    """A public function as a method: the object of the accessor is its first argument.

    The function's own signature and documentation are what help and completion show; its
    module is imported when the method is first looked at, not with the package.
    """

    def __init__(self, path: str) -> None:
        self._module, self._name = path.split(":")
        self.__doc__ = f"`{self._module}.{self._name}` of this object."

    def __get__(self, accessor: Any, owner: type | None = None) -> Callable[..., Any]:
        function = getattr(importlib.import_module(self._module), self._name)

        @functools.wraps(function)
        def method(*args: Any, **settings: Any) -> Any:
            return function(*args, **settings)

        if accessor is None:
            return method
        bound = functools.wraps(function)(functools.partial(method, accessor._obj))
        _, *rest = inspect.signature(function).parameters.values()
        bound.__signature__ = inspect.Signature(rest)  # type: ignore[attr-defined]
        return bound


@xr.register_dataset_accessor("diffda")
class DatasetAccessor:
    """Data assimilation of a Dataset; see ``repr(ds.diffda)`` for what is recognised."""

    def __init__(self, obj: xr.Dataset) -> None:
        self._obj = obj

    # of a background
    assimilate = Method("xdiffda.analysis:assimilate")
    assimilate_store = Method("xdiffda.reanalysis:assimilate_store")
    cycle = Method("xdiffda.cycle:cycle")
    # of a state
    forecast = Method("xdiffda.forecast:forecast")
    emulate_obs = Method("xdiffda.observations:emulate_obs")
    # of observations
    dilate_mask = Method("xdiffda.observations:dilate_mask")
    interpolate = Method("xdiffda.observations:interpolate")
    # of an analysis
    increment = Method("xdiffda.verify:increment")
    verify = Method("xdiffda.verify:verify")
    rank_histogram = Method("xdiffda.verify:rank_histogram")
    spread_error = Method("xdiffda.verify:spread_error")
    zonal_spectrum = Method("xdiffda.verify:zonal_spectrum")
    balance = Method("xdiffda.verify:balance")
    map = Method("xdiffda.plot:map_panels")
    explore = Method("xdiffda.explore:explore")

    def __repr__(self) -> str:
        return _describe.describe(self._obj)

    def _repr_html_(self) -> str:
        return _describe.describe_html(self._obj)


@xr.register_dataarray_accessor("diffda")
class DataArrayAccessor:
    """Maps of a DataArray; everything else needs a Dataset."""

    def __init__(self, obj: xr.DataArray) -> None:
        self._obj = obj

    def map(self, **choices: Any) -> Any:
        """Draw maps of this field: `xdiffda.plot.map_panels`."""
        from xdiffda.plot import map_panels

        name = str(self._obj.name or "field")
        return map_panels(self._obj.to_dataset(name=name), name, **choices)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in vars(DatasetAccessor):
            raise AttributeError(name)
        word = self._obj.name or "temperature"
        raise TypeError(f"{name} needs a Dataset: use da.to_dataset(name={word!r}).diffda.{name}")

    def __repr__(self) -> str:
        return "<xdiffda accessor of a DataArray: .map(); for the rest, da.to_dataset(name=...)>"

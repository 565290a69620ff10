"""The accessor ``.diffda``: a thin face, one line for each public function."""

from __future__ import annotations

from typing import Any

import xarray as xr

from xdiffda import _describe


@xr.register_dataset_accessor("diffda")
class DatasetAccessor:
    """Data assimilation of a Dataset; see ``repr(ds.diffda)`` for what is recognised."""

    def __init__(self, obj: xr.Dataset) -> None:
        self._obj = obj

    def assimilate(self, obs: Any, **settings: Any) -> xr.Dataset:
        """Analyse observations with this Dataset as background: `xdiffda.assimilate`."""
        from xdiffda.analysis import assimilate

        return assimilate(self._obj, obs, **settings)

    def forecast(self, lead_time: Any = "48h", *, model: str | None = None) -> xr.Dataset:
        """Forecast from this state: `xdiffda.forecast.forecast`."""
        from xdiffda.forecast import forecast

        return forecast(self._obj, lead_time, model=model)

    def emulate_obs(self, **choices: Any) -> xr.Dataset:
        """Observe this Dataset: `xdiffda.observations.emulate_obs`."""
        from xdiffda.observations import emulate_obs

        return emulate_obs(self._obj, **choices)

    def dilate_mask(self, *, like: xr.Dataset, sigma: float = 1.5) -> xr.Dataset:
        """Soft mask around these observations: `xdiffda.observations.dilate_mask`."""
        from xdiffda.observations import dilate_mask

        return dilate_mask(self._obj, like=like, sigma=sigma)

    def interpolate(self, *, like: xr.Dataset, **settings: Any) -> xr.Dataset:
        """Spread these observations over a grid: `xdiffda.observations.interpolate`."""
        from xdiffda.observations import interpolate

        return interpolate(self._obj, like=like, **settings)

    def increment(self, background: xr.Dataset) -> xr.Dataset:
        """Analysis minus background: `xdiffda.verify.increment`."""
        from xdiffda.verify import increment

        return increment(self._obj, background)

    def verify(self, truth: xr.Dataset, **settings: Any) -> xr.Dataset:
        """Scores of this Dataset against ``truth``: `xdiffda.verify.verify`."""
        from xdiffda.verify import verify

        return verify(self._obj, truth, **settings)

    def map(self, variable: str, **choices: Any) -> Any:
        """Draw maps: `xdiffda.plot.map_panels`."""
        from xdiffda.plot import map_panels

        return map_panels(self._obj, variable, **choices)

    def __repr__(self) -> str:
        return _describe.describe(self._obj)


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

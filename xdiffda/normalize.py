"""Statistics of a state, and normalisation with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import xarray as xr

from ._coordinates import find_axes, levels_in_hpa
from .errors import Problem, raise_if
from .state import Layout
from .variables import VARIABLES, canonical_name

if TYPE_CHECKING:
    from jaxtyping import Float

Array = TypeVar("Array")  # NumPy or JAX: the arithmetic is the same
_NAMES = ("mean", "stddev", "diffs_stddev")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and standard deviations of each channel.

    Parameters
    ----------
    layout
        What the channels are.
    mean, stddev
        Of the state, in canonical units.
    diffs_stddev
        Standard deviation of the change over one forecast step, as GraphCast normalises its
        outputs; None where no forecaster is concerned.

    Raises
    ------
    InputError
        If a shape is wrong, a value is not finite, or a standard deviation is not positive.

    Examples
    --------
    >>> from xdiffda.state import Grid
    >>> layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("2m_temperature",))
    >>> statistics = Statistics(layout, np.array([280.0]), np.array([20.0]))
    >>> statistics.normalise(np.full((6, 1), 300.0))[0, 0].item()
    1.0
    """

    layout: Layout
    mean: Float[np.ndarray, " channel"]
    stddev: Float[np.ndarray, " channel"]
    diffs_stddev: Float[np.ndarray, " channel"] | None = None

    def __post_init__(self) -> None:
        problems = []
        for name in _NAMES:
            if getattr(self, name) is None and name == "diffs_stddev":
                continue
            values = np.array(getattr(self, name), np.float32)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
            if values.shape != (self.layout.n_channel,):
                problems.append(
                    Problem(
                        f"{name} of shape {values.shape}",
                        f"shape ({self.layout.n_channel},)",
                        "Statistics.from_dataset(ds, layout)",
                    )
                )
                continue
            bad = ~np.isfinite(values) if name == "mean" else ~(np.isfinite(values) & (values > 0))
            if bad.any():
                channels = ", ".join(np.asarray(self.layout.channel_names)[bad][:5])
                problems.append(
                    Problem(
                        f"{name} of {channels} {values[bad][:5]}",
                        "finite values" if name == "mean" else "finite values above zero",
                        "Statistics.from_samples(x, layout)",
                    )
                )
        raise_if(problems, what="statistics")

    def normalise(self, x: Array) -> Array:
        """(x - mean) / stddev, for states (..., channel); NumPy or JAX."""
        return (x - self.mean) / self.stddev  # type: ignore[operator]

    def denormalise(self, z: Array) -> Array:
        """z * stddev + mean, the inverse of `normalise`."""
        return z * self.stddev + self.mean  # type: ignore[operator]

    def normalise_difference(self, change: Array) -> Array:
        """A change over one forecast step, divided by ``diffs_stddev``."""
        return change / self._diffs()  # type: ignore[operator]

    def denormalise_difference(self, change: Array) -> Array:
        """The inverse of `normalise_difference`."""
        return change * self._diffs()  # type: ignore[operator]

    def _diffs(self) -> np.ndarray:
        if self.diffs_stddev is None:
            raise_if(
                [
                    Problem(
                        "statistics without diffs_stddev",
                        "the standard deviation of one-step changes",
                        "dataclasses.replace(statistics, diffs_stddev=values)",
                    )
                ],
                what="statistics",
            )
        return self.diffs_stddev  # type: ignore[return-value]

    @classmethod
    def from_samples(
        cls,
        x: Float[np.ndarray, "*batch node channel"],
        layout: Layout,
        *,
        changes: Float[np.ndarray, "*batch node channel"] | None = None,
    ) -> Statistics:
        """Area-weighted statistics of states, and of changes over one step."""
        diffs = None if changes is None else _moments(changes, layout)[1]
        return cls(layout, *_moments(x, layout), diffs)

    @classmethod
    def from_datasets(
        cls,
        layout: Layout,
        *,
        mean: xr.Dataset,
        stddev: xr.Dataset,
        diffs_stddev: xr.Dataset | None = None,
    ) -> Statistics:
        """From one dataset per statistic, as published with GraphCast.

        Parameters
        ----------
        layout
            The channels wanted; the datasets may hold more.
        mean, stddev, diffs_stddev
            Scalars per variable, or vectors along a level coordinate in hPa or Pa, which are
            matched by level and not by position. Canonical units.

        Raises
        ------
        InputError
            With all missing variables and levels at once.
        """
        given: dict[str, xr.Dataset | None] = {
            "mean": mean,
            "stddev": stddev,
            "diffs_stddev": diffs_stddev,
        }
        problems: list[Problem] = []
        arrays = {
            name: _pick(ds, layout, name, problems) for name, ds in given.items() if ds is not None
        }
        raise_if(problems, what="statistics")
        return cls(layout, **arrays)

    @classmethod
    def from_dataset(cls, ds: xr.Dataset, layout: Layout) -> Statistics:
        """From one dataset with dimension ``statistic``, as `to_dataset` writes it."""
        labels = ds["statistic"].values.tolist() if "statistic" in ds.coords else []
        problems = [
            Problem(
                f"no statistic {name!r}",
                "mean and stddev along `statistic`",
                "Statistics.from_datasets(layout, mean=..., stddev=...)",
            )
            for name in _NAMES[:2]
            if name not in labels
        ]
        raise_if(problems, what="statistics")
        parts = {name: ds.sel(statistic=name) for name in _NAMES if name in labels}
        return cls.from_datasets(layout, **parts)

    def to_dataset(self) -> xr.Dataset:
        """One dataset with dimensions ``statistic`` and ``level`` (hPa)."""
        names = [name for name in _NAMES if getattr(self, name) is not None]
        table = np.stack([getattr(self, name) for name in names])
        variables = {}
        for name in self.layout.variables:
            values = table[:, self.layout.channel_slice(name)]
            known = VARIABLES[name]
            dims = ("statistic", "level") if known.on_levels else ("statistic",)
            attrs = {"units": known.units}
            variables[name] = (dims, values if known.on_levels else values[:, 0], attrs)
        coords: dict = {"statistic": names}
        if self.layout.levels:
            levels = np.asarray(self.layout.levels, np.int32)
            coords["level"] = ("level", levels, {"units": "hPa"})
        return xr.Dataset(variables, coords=coords)


def _moments(x: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    states = np.asarray(x, np.float64).reshape(-1, layout.grid.n_node, layout.n_channel)
    weights = layout.grid.area_weights() / layout.grid.n_node
    mean = np.einsum("n,bnc->c", weights, states) / states.shape[0]
    variance = np.einsum("n,bnc->c", weights, (states - mean) ** 2) / states.shape[0]
    return mean, np.sqrt(variance)


def _pick(
    ds: xr.Dataset, layout: Layout, what: str, problems: list[Problem]
) -> Float[np.ndarray, " channel"]:
    level = find_axes(ds)[0].get("level")
    positions: dict[int, int] = {}
    if level is not None and level.coord is not None:
        hpa, _, wrong = levels_in_hpa(ds[level.coord], level.name)
        problems += wrong
        positions = {int(p): i for i, p in enumerate(hpa)}
    names = _named(ds, level.dim if level is not None else None)
    out = np.ones(layout.n_channel)
    for name in layout.variables:
        where = layout.channel_slice(name)
        if name not in names:
            problems.append(
                Problem(f"{what} without {name}", f"{name}", f'{what}.rename({{"...": "{name}"}})')
            )
            continue
        values = np.asarray(ds[names[name]].squeeze(drop=True).values, np.float64)
        levels: Sequence[int] = layout.levels if VARIABLES[name].on_levels else ()
        missing = [p for p in levels if p not in positions]
        if missing:
            problems.append(
                Problem(
                    f"{what} of {name} without {', '.join(map(str, missing))} hPa",
                    f"levels {', '.join(map(str, levels))} hPa",
                    f'xr.concat([{what}, other.sel(level={missing})], dim="level")',
                )
            )
        elif values.ndim > (1 if levels else 0):
            problems.append(
                Problem(
                    f"{what} of {name} with dimensions {ds[names[name]].dims}",
                    "a level dimension" if levels else "a scalar",
                    f"{what}.mean(...)",
                )
            )
        elif levels:
            out[where] = np.atleast_1d(values)[[positions[p] for p in levels]]
        else:
            out[where] = values
    return out


def _named(ds: xr.Dataset, level_dim: str | None) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for user_name, variable in ds.data_vars.items():
        name = canonical_name(str(user_name), on_levels=level_dim in variable.dims)
        if name is not None and (name not in found or user_name == name):
            found[name] = str(user_name)
    return found

"""The states of a background along time: read one at a time where the data is lazy."""

from __future__ import annotations

import dataclasses

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda import _innovations as innovations
from xdiffda._settings import Settings
from xdiffda.errors import InputError, Problem
from xdiffda.state import Convention, Layout, read_metadata, to_state


@dataclasses.dataclass(frozen=True, eq=False)
class Backgrounds:
    """Background states by analysis time; made by `read_backgrounds`.

    Attributes
    ----------
    convention : Convention
        Of the whole background.
    times : list of datetime64 or None
    n_member : int
        Background members at each time.
    dataset : Dataset
        The whole background.
    loaded : array (time, member, node, channel) or None
        None where the data is lazy and larger than one time.
    """

    convention: Convention
    times: list[np.datetime64 | None]
    n_member: int
    dataset: xr.Dataset
    loaded: Float[np.ndarray, "time member node channel"] | None

    def __len__(self) -> int:
        return len(self.times)

    def states(self, i: int) -> Float[np.ndarray, "member node channel"]:
        """Members at the time of number ``i``, physical units.

        Raises
        ------
        InputError
            If a lazy background holds NaN or implausible values at this time.
        """
        if self.loaded is not None:
            return self.loaded[i]
        layout = self.convention.layout
        where = f"background at {str(self.times[i])[:16]}" if len(self) > 1 else "background"
        x, _, _ = to_state(self.at(i), layout, what=where)
        return x.reshape(self.n_member, *x.shape[-2:])

    def at(self, i: int) -> xr.Dataset:
        """The background at the time of number ``i``, lazy where the whole is."""
        batch = dict(zip(self.convention.batch_dims, self.convention.batch_shape, strict=True))
        batch.pop("member", None)
        where = np.unravel_index(i, tuple(batch.values())) if batch else ()
        axes = self.convention.axes
        return self.dataset.isel(
            {str(axes[name].dim): [int(n)] for name, n in zip(batch, where, strict=True)}
        )


def read_backgrounds(background: xr.Dataset, layout: Layout, settings: Settings) -> Backgrounds:
    """Check a background; its values too where they are in memory already.

    Raises
    ------
    InputError
        If it does not fit the layout, or has too few members for the settings.
    """
    lazy = isinstance(background, xr.Dataset) and background.chunks
    if lazy:
        x, convention = None, read_metadata(background, layout, what="background")
    else:
        x, _, convention = to_state(background, layout, what="background")
    batch = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    n_member = batch.get("member", 1)
    if n_member < 2 and (settings.method == "letkf" or settings.background_error == "spread"):
        repair = 'method="guided"' if settings.method == "letkf" else 'background_error="estimate"'
        raise InputError(
            [Problem(f"{n_member} background member", "2 or more along the dimension member",
                     f"assimilate(obs, {repair})")], what="background",
        )  # fmt: skip
    times = innovations.valid_times(convention)[::n_member]  # time comes first, members share it
    loaded = None if x is None else x.reshape(-1, n_member, *x.shape[-2:])
    return Backgrounds(convention, times, n_member, background, loaded)

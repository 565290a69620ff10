"""Data frames before they are read: their index, repeated columns, wide tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Problem
from ..variables import canonical_name

if TYPE_CHECKING:
    import pandas as pd

_CLOCKS = ("time", "valid_time", "datetime")


def with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the levels of its index as columns, and an index of times as ``time``."""
    import pandas as pd

    names = {str(name).lower() for name in frame.columns}
    index = frame.index
    if isinstance(index, pd.DatetimeIndex) and index.name is None and not names & {*_CLOCKS}:
        index = index.rename("time")
    new = [name for name in index.names if name is not None and name not in frame.columns]
    if not new:
        return frame
    levels = index.to_frame(index=False)[new]
    return pd.concat([levels, frame.reset_index(drop=True)], axis=1)


def frame_problem(frame: pd.DataFrame) -> Problem | None:
    """What keeps a data frame from being read at all."""
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return Problem(
            f"columns {', '.join(twice)} more than once", "each column once",
            "obs.loc[:, ~obs.columns.duplicated()]",
        )  # fmt: skip
    lower = {name.lower() for name in [*names, *map(str, frame.index.names)]}
    wide = [name for name in names if canonical_name(name) is not None]
    if wide and {"lat", "latitude"} & lower and {"lon", "longitude"} & lower and (
        not lower & {"value", "obs_value", "observation"}
    ):  # fmt: skip
        return Problem(
            f"a wide table with columns {', '.join(wide)}",
            "one row for each value (variable, lat, lon, level, time, value), or a Dataset in "
            "columns with units in the attributes", "obs.reset_index().to_xarray()",
        )  # fmt: skip
    return None

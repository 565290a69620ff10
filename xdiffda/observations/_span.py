"""The centre and the width of an assimilation window, as users give them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .._times import width_of
from ..errors import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def centre_and_width(tidy: xr.Dataset, time: Any, window: Any) -> tuple[pd.Timestamp, pd.Timedelta]:
    """Centre and width of a window, checked."""
    import pandas as pd

    problem = None
    if "obs" not in tidy.dims:
        problem = Problem(f"observations on {', '.join(map(str, tidy.dims)) or 'nothing'}",
                          "tidy observations", "select_window(to_tidy(obs), ...)")  # fmt: skip
    centre: Any = pd.NaT
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        centre = pd.Timestamp(getattr(time, "values", time))
    width = width_of(window)
    if problem is None and (pd.isna(centre) or pd.isna(width) or width < pd.Timedelta(0)):
        problem = Problem(f"time {time!r} and window {window!r}", "a time and a positive width",
                          'select_window(tidy, "2020-01-01T00", "6h")')  # fmt: skip
    if problem is not None:
        raise InputError([problem], what="assimilation window")
    return centre if centre.tzinfo is None else centre.tz_convert(None), width

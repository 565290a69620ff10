"""A tiny published release: golden checkpoint, statistics, two input frames."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from places import GRAPHCAST_GOLDEN

GOLDEN = GRAPHCAST_GOLDEN / "gc_a"  # 10 degrees, 3 levels
START, STEP = np.datetime64("2020-03-20T12", "ns"), np.timedelta64(6, "h")


def statistics() -> dict[str, xr.Dataset]:
    found = {}
    for role, values in json.loads((GOLDEN / "stats.json").read_text()).items():
        level = values.pop("level")
        data = {k: ("level", v) if isinstance(v, list) else v for k, v in values.items()}
        found[role] = xr.Dataset(data, coords={"level": level}).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def frames() -> xr.Dataset:
    """Two states 6 h apart with plausible values, as a user has them."""
    inputs = xr.open_dataset(GOLDEN / "inputs.nc", decode_timedelta=True).isel(batch=0)
    clocks = [v for v in inputs if "progress" in v or "radiation" in v]
    states = inputs.drop_vars(clocks).assign_coords(time=[START - STEP, START]).load()
    return states.assign(temperature=states["temperature"].clip(150, 350))  # made-up fields

"""What `xdiffda.plan` is asked for: numbers, a grid, a device; all that cannot be meant at once."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np

from xdiffda._grid import NAMED_GRIDS, equiangular
from xdiffda.costs import DEVICES, Device
from xdiffda.errors import Problem, raise_if
from xdiffda.state import Grid

_FINEST = 0.01  # degrees: finer grids are none of this network's
_FROM_0 = ("obs", "edge_chunk", "refinement", "truncation")
_MOST = {"refinement": 9, "obs": 1e12}
_EXAMPLES = {"obs": "1e4", "edge_chunk": 131072, "refinement": 6, "truncation": 63}


def checked_plan(
    grid: Any, device: Any, dtype: str, numbers: dict[str, float]
) -> tuple[Grid, Device]:  # fmt: skip
    """The grid and the device that are meant; raises with all that is wrong."""
    problems = [
        Problem(f"{name}={value!r}", needed, f"xdiffda.plan({name}={_EXAMPLES.get(name, 8)})")
        for name, value in numbers.items()
        if (needed := _number_needed(name, value))
    ]
    if dtype not in ("float32", "bfloat16"):
        problems.append(Problem(f"dtype={dtype!r}", "float32 or bfloat16",
                                'xdiffda.plan(dtype="bfloat16")'))  # fmt: skip
    where = grid if isinstance(grid, Grid) else None
    if isinstance(grid, str) and grid in NAMED_GRIDS:
        where = NAMED_GRIDS[grid]()
    elif _is_number(grid) and _FINEST <= grid <= 45 and _divides(grid):
        where = equiangular(round(180 / grid) + 1, round(360 / grid), poles=True)
    if where is None:
        needed = (
            f"a spacing of {_FINEST} to 45 degrees that divides 180, or one of "
            f"{', '.join(NAMED_GRIDS)}"
        )
        problems.append(Problem(f"grid={grid!r}", needed, "xdiffda.plan(grid=0.25)"))
    unit = DEVICES.get(str(device).lower(), device)
    if not isinstance(unit, Device):
        problems.append(Problem(f"device={device!r}", f"one of {', '.join(DEVICES)}, or a Device",
                                'xdiffda.plan(device="h100")'))  # fmt: skip
    elif not min(unit.float32, unit.bfloat16, unit.bandwidth, unit.efficiency) > 0:
        problems.append(
            Problem(
                f"device={unit!r}",
                "rates, a bandwidth and an efficiency above 0",
                'dataclasses.replace(xdiffda.costs.DEVICES["h100"], ...)',
            )
        )
    raise_if(problems, what="plan")
    assert where is not None and isinstance(unit, Device)
    return where, unit


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _number_needed(name: str, value: Any) -> str:
    """What a number should be where it is not; empty where it is."""
    least, most = (0 if name in _FROM_0 else 1), _MOST.get(name, math.inf)
    if not _is_number(value) or not least <= value < math.inf:
        return "0 or more" if name in _FROM_0 and name != "obs" else "a positive number"
    if value > most:
        return f"{most:g} at most"
    return "" if name == "obs" or isinstance(value, int | np.integer) else "a whole number"


def _divides(spacing: float) -> bool:
    return abs(180 / spacing - round(180 / spacing)) < 1e-6

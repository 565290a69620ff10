"""Numbers of a configuration that cannot be meant."""

from __future__ import annotations

import dataclasses
from typing import Any

from xdiffda.errors import Problem


def out_of_range(
    settings: Any, table: str, ranges: dict[str, tuple[float, float]]
) -> list[Problem]:  # fmt: skip
    """Numbers that cannot be meant (NaN among them), of one table of the configuration."""
    default = {item.name: item.default for item in dataclasses.fields(settings)}
    return [
        Problem(
            f"{table}.{name} = {value}", f"{least:.4g} to {most:.4g}", f"{name} = {default[name]}"
        )
        for name, (least, most) in ranges.items()
        if not least <= (value := getattr(settings, name)) <= most
    ]

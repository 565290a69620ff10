"""What is recognised and cannot be assimilated: observations that are no variable of the state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from xdiffda.errors import InputError, Problem

# Words in names of what is observed -> what it is, and what would be needed.
_INDIRECT = (
    (
        ("brightnesstemperature", "radiance"),
        "radiances",
        "a radiative transfer model as observation operator (RTTOV, CRTM), with bias correction "
        "and a selection of channels; or temperatures and humidities retrieved from them",
    ),
    (
        ("bendingangle", "bendang", "refractivity"),
        "radio occultations (GNSS-RO)",
        "an operator of bending angle or refractivity along the ray (ROPP); or the temperatures "
        "retrieved from them",
    ),
    (
        ("zenithtotaldelay", "zenithwetdelay", "atmosphericpathdelay"),
        "delays of GNSS signals",
        "an operator of the zenith delay; or the total column water vapour derived from it",
    ),
)


def refuse_indirect(path: Path, words: Iterable[str]) -> None:
    """Raise an InputError if these names are of observations that need an operator of their own."""
    names = list(words)
    for keys, what, needed in _INDIRECT:
        plain = {name: name.lower().replace("_", "").replace(" ", "") for name in names}
        found = [name for name in names if any(key in plain[name] for key in keys)]
        if found:
            shown = ", ".join(found[:3])
            problem = Problem(f"{what} ({shown})", needed, "")
            raise InputError([problem], what=str(path))

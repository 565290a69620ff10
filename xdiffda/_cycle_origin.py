"""Whether a run of cycles may go on in the store that it finds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xdiffda.errors import Problem, StorageError, raise_if

# entries of the configuration that are arguments of `cycle` by that name
PLAIN = ("n_members", "carry", "cycle_length", "seed")


def check_version(attributes: Mapping[str, Any], path: Path) -> None:
    """Cycles of two versions do not belong into one store.

    Raises
    ------
    StorageError
    """
    from xdiffda import __version__

    if (made := attributes.get("xdiffda_version", __version__)) != __version__:
        raise StorageError(
            f"{path}: cycles of xdiffda {made}, needed those of {__version__}: two versions do not "
            f"go on alike; repair: another `out`, or `pip install xdiffda=={made}` "
            "(`xdiffda.cycle.open_cycle` reads it in any)"
        )


def check_configuration(stored: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    """A store goes on as it began.

    Raises
    ------
    InputError
        Naming all that differs.
    """
    problems = []
    for key in sorted({*stored, *given}):
        if stored.get(key) != given.get(key):
            value, group, name = stored.get(key), *key.rpartition(".")[::2]
            if group == "settings":
                repair = f"cycle(..., settings={{{name!r}: {value!r}}})"
            elif key in PLAIN:
                repair = f"cycle(..., {key}={value!r})"
            else:
                repair = f"cycle(..., out={str(path.with_name(f'{path.stem}-2.zarr'))!r})"
            problems.append(Problem(f"{key} = {value!r} in {path}",
                                    f"{given.get(key)!r}, as this call says, or another store",
                                    repair))  # fmt: skip
    raise_if(problems, what="store of another configuration")

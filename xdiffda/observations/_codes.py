"""Numbers for what repeats in long tables: names, and places row after row.

A million names compared as text cost seconds and hundreds of megabytes; their numbers do not.
Observations of a column follow one another, so that geometry is done once for each run of rows
at one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_BLOCK = 16384  # names of one block stay in cache while they are compared
_MANY = 64  # with more distinct names, hashing is quicker than comparing


def name_codes(names: np.ndarray) -> tuple[Int[np.ndarray, "row"], list[str]]:
    """Number the distinct names in the order in which they first occur.

    Parameters
    ----------
    names
        Text of fixed width, or objects (each is taken for its ``str``).

    Returns
    -------
    code : int array (row,)
    distinct : list of str
        ``distinct[code[i]]`` is ``str(names[i])``.

    Examples
    --------
    >>> code, distinct = name_codes(np.array(["t", "u", "t"]))
    >>> code.tolist(), distinct
    ([0, 1, 0], ['t', 'u'])
    """
    if names.dtype.kind != "U":
        return _hashed(names.astype(object))
    code = np.empty(names.size, np.int64)
    distinct: list[str] = []
    for start in range(0, names.size, _BLOCK):
        block = names[start : start + _BLOCK]
        found = np.full(block.size, -1)
        for number, name in enumerate(distinct):
            found[block == name] = number
        while (left := np.flatnonzero(found < 0)).size:
            if len(distinct) == _MANY:
                return _hashed(names.astype(object))
            distinct.append(str(block[left[0]]))
            found[block == distinct[-1]] = len(distinct) - 1
        code[start : start + _BLOCK] = found
    return code, distinct


def _hashed(names: np.ndarray) -> tuple[np.ndarray, list[str]]:
    import pandas as pd

    code, distinct = pd.factorize(names, use_na_sentinel=False)
    text = [str(name) for name in distinct]
    if len(set(text)) < len(text):  # 1 and "1" are one name
        again, merged = pd.factorize(np.array(text, object))
        return again[code], [str(name) for name in merged]
    return code, text


class Runs(NamedTuple):
    """Runs of consecutive rows at one place.

    Attributes
    ----------
    first : int array (run,)
        First row of each run.
    of_row : int array (row,)
        The run of each row.
    """

    first: Int[np.ndarray, "run"]
    of_row: Int[np.ndarray, "row"]


def place_runs(lat: Float[np.ndarray, "row"], lon: Float[np.ndarray, "row"]) -> Runs:
    """Runs of consecutive rows with the same latitude and longitude.

    Examples
    --------
    >>> runs = place_runs(np.array([1.0, 1.0, 2.0]), np.array([5.0, 5.0, 5.0]))
    >>> runs.first.tolist(), runs.of_row.tolist()
    ([0, 2], [0, 0, 1])
    """
    begins = np.ones(lat.size, bool)
    begins[1:] = (lat[1:] != lat[:-1]) | (lon[1:] != lon[:-1])
    return Runs(np.flatnonzero(begins), np.cumsum(begins) - 1)

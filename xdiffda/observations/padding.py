"""How far tables of observations are padded, so that analysis times share compiled code."""

from __future__ import annotations

SMALLEST = 128
STEPS = 8  # lengths between a power of two and the next


def padding(n: int) -> int:
    """Return how many rows of padding to add to ``n`` observations.

    Every new length of a table means a new compilation. Padded lengths are multiples of 128, and
    from 1,024 on of an eighth of the power of two below, so that there are few of them and no
    more than an eighth of the rows is padding.

    Examples
    --------
    >>> [n + padding(n) for n in (0, 1, 1000, 1100, 15_300, 15_392)]
    [0, 128, 1024, 1152, 15360, 16384]
    """
    below = 1 << (n - 1).bit_length() >> 1 if n > 1 else 1
    return -n % max(SMALLEST, below // STEPS)

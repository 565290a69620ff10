"""How far tables of observations are filled up, so that analyses share compiled code."""

from __future__ import annotations

SMALLEST = 128
STEPS = 8  # lengths between a power of two and the next


def filling(n: int) -> int:
    """Rows to add to ``n``, so that lengths are few however observations come.

    Lengths are multiples of 128, and from 1,024 on of an eighth of the power of two below: no more
    than an eighth is wasted.

    Examples
    --------
    >>> [n + filling(n) for n in (0, 1, 1000, 1100, 15_300, 15_392)]
    [0, 128, 1024, 1152, 15360, 16384]
    """
    below = 1 << (n - 1).bit_length() >> 1 if n > 1 else 1
    return -n % max(SMALLEST, below // STEPS)

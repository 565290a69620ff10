"""What made a report, in words that are the same for every form of file.

Report types are those of NCEP's table for prepBUFR, which IODA keeps in ``ObsType``: a hundred and
something for mass, two hundred and something for wind.
"""

from __future__ import annotations

import numpy as np

# Last two digits of the report type of prepBUFR -> kind; surface reports are 80 to 99.
_KINDS = {
    20: "radiosonde",
    21: "pilot",
    22: "radiosonde",
    23: "profiler",
    24: "vad",
    26: "profiler",
    27: "profiler",
    28: "profiler",
    29: "profiler",
    **dict.fromkeys(range(30, 40), "aircraft"),
    32: "dropsonde",
    **dict.fromkeys(range(40, 61), "amv"),
    80: "ship",
    81: "synop",
    82: "buoy",
    83: "synop",
    84: "synop",
    85: "scatterometer",
    87: "metar",
    88: "mesonet",
    89: "scatterometer",
    90: "scatterometer",
    91: "scatterometer",
    95: "mesonet",
}
# Mass reports whose last two digits mean another thing than those of a wind report.
_MASS = {
    **dict.fromkeys(range(150, 180), "satellite"),
    153: "gps",
    170: "tower",
    171: "tower",
    182: "dropsonde",
    189: "type 189",
    190: "type 190",
    191: "type 191",
}
SURFACE_TYPES = (80, 100)


def kinds_of(report_type: np.ndarray) -> np.ndarray:
    """Kind of each report; ``"type 199"`` where the table has no word for it.

    Examples
    --------
    >>> kinds_of(np.array([120, 220, 231, 245, 187, 290, np.nan])).tolist()
    ['radiosonde', 'radiosonde', 'aircraft', 'amv', 'metar', 'scatterometer', '']
    """
    codes, where = np.unique(np.asarray(report_type, np.float64), return_inverse=True)
    words = []
    for code in codes:
        if not np.isfinite(code):
            words.append("")
            continue
        known = _MASS.get(int(code)) or _KINDS.get(int(code) % 100)
        words.append(known or f"type {int(code)}")
    return np.array(words, str)[where.reshape(np.shape(report_type))]


def is_surface_type(report_type: np.ndarray) -> np.ndarray:
    """Whether a report type is one of the surface: 180 to 199, 280 to 299.

    Examples
    --------
    >>> is_surface_type(np.array([120.0, 181.0, 280.0, np.nan])).tolist()
    [False, True, True, False]
    """
    last = np.mod(np.asarray(report_type, np.float64), 100)
    return (last >= SURFACE_TYPES[0]) & (last < SURFACE_TYPES[1])

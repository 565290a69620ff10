"""Whether two stores hold the same files, byte for byte."""

from __future__ import annotations

import filecmp
from pathlib import Path


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    names = [
        sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()) for f in (one, other)
    ]
    match, mismatch, errors = filecmp.cmpfiles(one, other, names[0], shallow=False)
    return names[0] == names[1] and not mismatch and not errors and len(match) > 5

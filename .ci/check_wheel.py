"""Check that a wheel holds every file of the package folder: weights, samples, coastline.

python .ci/check_wheel.py WHEEL_FOLDER PACKAGE_FOLDER
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path


def missing_files(wheels: Path, package: Path) -> list[str]:
    """Return the files of ``package`` that the only wheel in ``wheels`` lacks."""
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    files = (p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sorted(str(p) for p in files if p.as_posix() not in held)


if __name__ == "__main__":
    lost = missing_files(Path(sys.argv[1]), Path(sys.argv[2]))
    if lost:
        raise SystemExit("not in the wheel:\n" + "\n".join(lost))

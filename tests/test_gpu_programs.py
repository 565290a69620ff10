"""Every program of an analysis can be made for a GPU: none needs what only CPUs have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# what must have been lowered on the way, or the script no longer sees it
NEEDED = {
    "guided": {"evaluate", "updated", "draw_errors", "prepare"},
    "chunks": {"evaluate", "updated", "embedded_mesh"},
    "half": {"evaluate", "updated"},
    "jacobian": {"guided_by_jacobian"},
    "repaint": {"_advance", "_noise"},
    "3dvar": {"_three_d_var"},
    "oi": {"_solve"},
}


def test_all_programs_lower_for_a_gpu() -> None:
    """In a process of its own: see gpu_programs_script.py."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "gpu_programs_script.py")],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = {
        name: {entry.partition(":")[0] for entry in rest}
        for name, *rest in (line.split() for line in done.stdout.splitlines())
    }
    assert set(found) == set(NEEDED)
    for name, programs in NEEDED.items():
        assert programs <= found[name], (name, found[name])

"""Where things lie: the repository, its tests, golden files, real files beside the repository."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"
DOCS = ROOT / "tutorials" / "docs"
GRAPHCAST_GOLDEN = TESTS / "networks/graphcast/golden"
GENCAST_GOLDEN = TESTS / "networks/gencast/golden"
FGN_GOLDEN = TESTS / "networks/fgn/golden"

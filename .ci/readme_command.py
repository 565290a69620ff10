"""Print the one-line command that README.md gives for a purpose: `demo` or `test`.

The command is the line after the marker `<!-- command: PURPOSE -->` and its code fence.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def readme_command(purpose: str, text: str) -> str:
    """Return the command for ``purpose`` in the README's ``text``."""
    pattern = rf"<!-- command: {re.escape(purpose)} -->\s*```bash\n([^\n]+)\n```"
    found = re.findall(pattern, text)
    if len(found) != 1:
        raise SystemExit(f"README.md has {len(found)} one-line commands for {purpose!r}, not 1")
    return found[0]


if __name__ == "__main__":
    print(readme_command(sys.argv[1], README.read_text(encoding="utf-8")))

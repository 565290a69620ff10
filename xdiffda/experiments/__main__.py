"""``python -m xdiffda.experiments KIND CONFIG``: the same as ``xdiffda experiment``."""

from __future__ import annotations

from xdiffda.experiments.command import main

if __name__ == "__main__":
    import sys

    print(main(*sys.argv[1:]))

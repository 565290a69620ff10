"""The figure of the front page: one analysis of the bundled sample, as in ``xdiffda demo``.

    python tutorials/docs/_front.py

It is written to ``tutorials/docs/_static/first-analysis.png``, which README.md shows.
"""

from __future__ import annotations

from pathlib import Path

TARGET = Path(__file__).resolve().parent / "_static" / "first-analysis.png"


def main() -> None:
    """Assimilate 416 emulated columns into a 48 h forecast and draw 500 hPa geopotential."""
    import numpy as np

    import xdiffda
    from xdiffda.plot import map_panels

    truth = xdiffda.open_sample("truth").isel(time=8).load()
    background = xdiffda.open_sample("background").isel(time=8).load()
    errors = xdiffda.load_model("speedy").typical_error(1 / 4)
    obs = truth.diffda.emulate_obs(n_columns=416, error_std=errors, seed=0)
    analysis = background.diffda.assimilate(obs, n_members=8, model="speedy")
    figure = map_panels(
        analysis,
        "geopotential",
        level=500,
        truth=truth,
        background=background,
        obs=obs,
        panels=("background", "analysis", "truth", "increment", "error", "spread"),
    )
    figure.suptitle(
        "Testbed (nature run of SPEEDY): 48 h background, 416 columns observed, 8 members, "
        f"{np.datetime_as_string(truth.time.values, 'h')}",
        fontsize="medium",
    )
    figure.savefig(TARGET, dpi=100)


if __name__ == "__main__":
    main()

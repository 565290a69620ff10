"""What a visitor will need works: run by postBuild, so that a broken image is never published."""

from __future__ import annotations

import xdiffda

background = xdiffda.open_sample("background").isel(time=slice(0, 2))
truth = xdiffda.open_sample("truth").isel(time=slice(0, 2))
assert background.diffda.map("temperature", level=500, time=truth.time[1].values, truth=truth).axes
assert background.diffda.explore(truth=truth, view="error").frame().field.size
assert "speedy" in xdiffda.models().model
print(f"xdiffda {xdiffda.__version__}: model, sample, figures and explorer are there")

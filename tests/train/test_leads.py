"""Times of pairs: lead times in any order, valid times that a store has."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from xdiffda.errors import InputError
from xdiffda.state.grid import Grid, Layout
from xdiffda.train.config import Era5
from xdiffda.train.finetune import _rms_of_longest
from xdiffda.train.forecasts import initial_times


@pytest.mark.parametrize("leads", [(6, 48), (48, 6)])
def test_the_scale_is_that_of_the_longest_lead_in_any_order(leads: tuple[int, ...]) -> None:
    """Backgrounds miss by 1 after 6 h and by 8 after 48 h."""
    layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("2m_temperature",))
    pairs = [(None, number, lead) for number in range(3) for lead in range(2)]
    zero = np.zeros((6, 1))
    world = SimpleNamespace(
        layout=layout,
        parts={"train": pairs},
        backgrounds=SimpleNamespace(leads=leads),
        pair=lambda part, i: (zero, zero + leads[pairs[i][2]] / 6),
    )
    np.testing.assert_allclose(_rms_of_longest(world, np.arange(6)), zero + 8)
    shortest = np.flatnonzero([leads[lead] == 6 for _, _, lead in pairs])
    np.testing.assert_allclose(_rms_of_longest(world, shortest), zero + 1)


@pytest.mark.parametrize("apart", [1, 6])
def test_valid_times_that_a_store_does_not_have_are_no_step(apart: int) -> None:
    """Every 4 h of six-hourly times would be every 12 h, in silence."""
    times = np.arange("2000-01-01", "2000-01-04", apart, "datetime64[h]").astype("datetime64[ns]")
    data = SimpleNamespace(times=times, task=SimpleNamespace(n_frames=2))
    options = {"variables": ("2m_temperature",), "first": "2000-01-02", "last": "2000-01-02"}
    for hours in (1, 4, 6, 12):
        era5 = Era5(**options, leads=(6,), every_hours=hours)
        if hours % apart == 0:
            assert len(initial_times(era5, data)) == 24 // hours
            continue
        with pytest.raises(InputError, match=rf"every_hours = {hours} of .* every 6 h; .*of 6"):
            initial_times(era5, data)

"""Quality control: settings, and what becomes of observations that are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from xdiffda import InputError, Quality, Robust


@pytest.mark.parametrize("value", ["a", None, np.nan, 0, -1.0, True])
def test_a_check_needs_a_positive_number_of_standard_deviations(value):
    with pytest.raises(InputError, match="gross_check=.*positive number"):
        Quality(gross_check=value)


def test_all_settings_that_are_wrong_are_named_at_once():
    with pytest.raises(InputError, match=r"(?s)2 problems.*gross_check=0.*'median' is not one of"):
        Quality(gross_check=0, robust="median")


def test_settings_are_plain_numbers_and_hashable():
    quality = Quality(gross_check=np.float32(5.0), robust="huber")
    assert type(quality.gross_check) is float
    assert hash(quality) == hash(Quality(gross_check=5, robust="huber"))
    assert quality.weights == Robust("huber")
    assert Quality().weights is None

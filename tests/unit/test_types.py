"""What passes between the modules refuses values that nothing could be done with."""

import math

import numpy as np
import pytest

from eager.types import TEMPERATURES, SamplingParams

COLDEST, HOTTEST = TEMPERATURES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", t) for t in (0, -1, 5e-324, 1e-45, 1e-38, COLDEST / 2, HOTTEST * 2, 1e308)],
        *[("top_p", p) for p in (0, -0.5, 1.5)],
        *[("top_k", k) for k in (-1, 2.5)],
        *[("min_p", p) for p in (-0.1, 1.1)],
        *[(name, x) for name in ("temperature", "top_p", "top_k", "min_p") for x in (math.nan, math.inf, -math.inf)],
    ],
)
def test_sampling_outside_its_range_is_refused(name, value):
    """By name; among them the temperatures that 32-bit numbers cannot divide by, and everywhere nan and inf."""
    with pytest.raises(ValueError, match=f"{name} must be "):
        SamplingParams(**{name: value})


def test_the_ends_of_the_ranges_are_inside():
    """And a whole number is one in numpy's types too."""
    SamplingParams(COLDEST, 1.0, np.int64(5), 1.0)
    SamplingParams(HOTTEST, 1e-300, 0, 0.0)

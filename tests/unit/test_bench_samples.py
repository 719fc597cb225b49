# SPDX-License-Identifier: Apache-2.0
"""Medians, quantiles, ratios: small functions that every figure stands on."""

import pytest

from unit.bench_material import samples


@pytest.mark.parametrize(
    ("values", "middle"),
    [([], None), ([3.0], 3.0), ([9.0, 1.0, 5.0], 5.0), ([4.0, 1.0, 2.0, 100.0], 3.0)],
)
def test_median_is_the_middle_in_whatever_order(values: list[float], middle: float | None) -> None:
    assert samples.median(values) == middle


def test_quantile_is_a_value_that_occurred() -> None:
    values = [float(number) for number in range(1, 1001)]
    assert samples.quantile(values, 0.5) == 500
    assert samples.quantile(values, 0.999) == 999
    assert samples.quantile(values, 1.0) == 1000
    assert samples.quantile([7.0], 0.01) == 7
    assert samples.quantile([], 0.5) is None


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_quantile_refuses_what_is_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="a share lies above 0"):
        samples.quantile([1.0], share)


def test_count_above_leaves_out_the_bound_itself() -> None:
    assert samples.count_above([1.0, 1.3, 1.31, 9.0], 1.3) == 2


def test_ratio_is_none_rather_than_infinite() -> None:
    assert samples.ratio(27.0, 0.9) == pytest.approx(30)
    assert samples.ratio(27.0, 0.0) is None
    assert samples.ratio(None, 1.0) is None
    assert samples.ratio(1.0, None) is None

"""Medians, quartiles and ratios mean what the tables say."""

import pytest

from tests.bench.spread import Spread, percentile


def test_the_median_and_the_quartiles_are_of_what_was_measured() -> None:
    spread = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (spread.low, spread.median, spread.high, spread.count) == (2.0, 3.0, 4.0, 5)


def test_one_value_has_no_spread() -> None:
    assert Spread.of([7.0]).to_map() == {"median": 7.0, "low": 7.0, "high": 7.0, "count": 1}


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Spread.of([])


def test_a_ratio_is_taken_within_each_round() -> None:
    """A round that was slow for both changes no ratio."""
    assert Spread.of_ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]).to_map() == {
        "median": 2.0,
        "low": 2.0,
        "high": 2.0,
        "count": 3,
    }


def test_series_of_different_lengths_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Spread.of_ratios([1.0, 2.0], [1.0])


def test_a_percentile_is_interpolated() -> None:
    assert percentile([float(number) for number in range(101)], 99) == 99.0
    assert percentile([3.0], 99) == 3.0

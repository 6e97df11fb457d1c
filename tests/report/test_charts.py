"""Axes enclose their values with few round ticks; long curves are thinned without losing their mean."""

import math
import re

import numpy as np
import pytest

from ddrnet_jax.report import charts


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0, 0.0107), (0, 4.76), (0, 99.9), (-3, 5), (0, 0), (7, 7), (0, 1e-7), (0, 3e9), (2, 2.001)],
)
def test_ticks_are_few_round_and_enclose(low, high):
    found = charts.ticks(low, high, 4)
    steps = np.diff(found)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 7
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert any(math.isclose(mantissa, m, rel_tol=1e-6) for m in (1, 2, 2.5, 5))
    assert len({charts.short(t) for t in found}) == len(found)


def test_ticks_of_steps_are_whole():
    for last in (1, 2, 3, 7, 10, 90, 420, 120_000):
        found = charts.ticks(0, last, 4, whole=True)
        assert all(float(t).is_integer() for t in found)
        assert 2 <= len(found) <= 7
        assert found[1] / 10 ** math.floor(math.log10(found[1])) in (1, 2, 2.5, 5)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.067, 152, [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]),
        (0.2, 20, [0.2, 0.5, 1, 2, 5, 10, 20]),
        (70, 1400, [100, 200, 500, 1000]),
    ],
)
def test_logarithmic_ticks_are_1_2_and_5_in_each_power_of_ten(low, high, expected):
    assert charts.log_ticks(low, high) == expected
    axes = charts.Axes((low, high), expected, [0, 1], is_log=True)
    assert axes.x(low) < axes.x(expected[0]) + 1e-9
    assert axes.x((low * high) ** 0.5) == pytest.approx((axes.x(low) + axes.x(high)) / 2)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (420, "420"), (120_000, "120k"), (2.5e6, "2.5M"), (1e-5, "1e-05")]
)
def test_short_numbers(number, text):
    assert charts.short(number) == text


def test_a_long_curve_is_thinned_to_means_and_ends_at_its_end():
    steps = list(range(1, 5002))
    values = [float(s) for s in steps]
    source = charts.line_chart([charts.Curve(steps, values)], title="loss", unit="", has_points=False)
    points = re.search(r'points="([^"]*)"', source).group(1).split()
    assert 300 < len(points) <= 600
    group = charts.lines_a_point(len(steps))
    assert len(points) == math.ceil(5001 / group)
    x, y = (np.array([float(p.split(",")[i]) for p in points]) for i in (0, 1))
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) < 0).all()  # up is less in SVG


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_values_are_drawn(count):
    curve = charts.Curve(list(range(count)), [0.5] * count)
    source = charts.line_chart([curve], title="mIoU", unit=" %", has_points=True)
    assert source.count("<circle") == count
    assert "nan" not in source

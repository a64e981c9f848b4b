"""Schedules: first value, last value, and monotonic in between."""

import itertools

import pytest

from sagips_kit import Settings
from sagips_kit.training import schedules

SETTINGS = Settings(settled_rate=0.4, final_rate=0.1, damping=1e-4, constraint_weight=2.0, exploration=0.25)


def test_long_runs_take_smaller_rates():
    settings = Settings(generator_rate=3e-4, discriminator_rate=4e-3, full_rate_steps=1000)
    assert schedules.first_rates(10, settings) == schedules.first_rates(1000, settings) == (3e-4, 4e-3)
    assert schedules.first_rates(16_000, settings) == pytest.approx((7.5e-5, 1e-3))


@pytest.mark.parametrize(
    ("changing", "first", "last", "from_when"),
    [
        (schedules.rate_factor, 1.0, 0.1, 1.0),
        (schedules.generator_rate_factor, 1.0, 0.04, 1.0),
        (schedules.latent_spread, 0.3, 0.0, 0.25),
        (schedules.damping, 1.0, 1e-4, 0.2),
        (schedules.constraint_weight, 2e-3, 2.0, 0.2),
    ],
)
def test_each_is_monotonic_from_its_first_to_its_last_value(changing, first, last, from_when):
    values = [changing(k / 100, SETTINGS) for k in range(101)]
    assert values[0] == pytest.approx(first) and values[-1] == pytest.approx(last)
    steps = [(late - early) * (last - first) for early, late in itertools.pairwise(values)]
    assert min(steps) >= 0
    assert changing(from_when, SETTINGS) == pytest.approx(last)
    assert changing(0.8 * from_when, SETTINGS) != pytest.approx(last)


def test_without_exploration_there_is_no_spread():
    assert schedules.latent_spread(0.0, Settings(exploration=0.0)) == 0.0

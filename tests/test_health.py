"""Early warnings about bad rows and failing training, and the recognition of the floor during training."""

import dataclasses
import warnings

import numpy as np
import pytest
from gaussian import QUICK, Gaussian, exact_fit

from sagips_kit import Trainer, floor_step
from sagips_kit.store.diagnostics import N_ROWS, complaints

NAMES = ("a", "b")


def rows(t=0.5, loss=1.38):
    """Rows of three generators with the ranges (0, 10) and (-1, 1), all alike."""
    theta = np.broadcast_to(np.array([0.0, -1.0]) + np.multiply([10.0, 2.0], t), (N_ROWS, 3, 2)).copy()
    return theta, np.full((N_ROWS, 3), loss)


def complain(theta, losses, loss="likelihood"):
    return complaints(theta, losses, (0.0, -1.0), (10.0, 1.0), NAMES, loss)


def test_good_rows_cause_no_warning():
    assert complain(*rows()) == {}
    assert complain(*rows(loss=0.49), loss="least squares") == {}


def test_a_saturated_discriminator_is_named_with_what_guessing_gives():
    theta, losses = rows()
    losses[:, 1] = 0.03
    assert complain(theta, losses)["saturated"].startswith("1 of 3 discriminators")
    assert "loss 0.03, where guessing gives 1.39" in complain(theta, losses)["saturated"]
    losses[5, 1] = 1.0
    assert complain(theta, losses) == {}, "a moment is no reason"


def test_a_generator_at_an_end_is_named_with_its_parameter():
    theta, losses = rows()
    theta[:, :2, 1] = 0.999
    found = complain(theta, losses)
    assert found.keys() == {"upper"} and "b (2 of 3 generators)" in found["upper"] and "a (" not in found["upper"]
    assert complain(*rows(t=0.001)).keys() == {"lower"}


def test_a_generator_without_numbers_is_named():
    theta, losses = rows()
    theta[:, 0, 0] = np.nan
    assert complain(theta, losses)["diverged"].startswith("1 of 3 generators")


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        # mu ends at 2: just above, the generator moves to that end; far above, its gradients vanish.
        (3.0, "upper end of the range of mu ("),
        (9.0, "discriminators separate generated from observed events almost perfectly"),
    ],
)
def test_training_that_cannot_reach_the_events_warns_once(mean, text):
    events = np.random.default_rng(0).normal(mean, 1.0, (1000, 1))
    trainer = Trainer(Gaussian(), QUICK, events, n_steps=400)
    with pytest.warns(UserWarning) as shown:
        trainer.run()
    texts = [str(one.message) for one in shown]
    assert sum(text in one for one in texts) == 1
    assert all(one.startswith("Rank 0, step ") for one in texts)


def test_successful_training_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(Gaussian(), QUICK, Gaussian().observed(2000, np.random.default_rng(7)), n_steps=400).run()


def test_the_step_to_the_floor_is_the_distance_to_the_exact_answer():
    events = Gaussian().observed(2000, np.random.default_rng(7))
    best, deviation = exact_fit(events)
    for offset in ([0.0, 0.0], [0.5, -0.3], [-1.0, 1.0]):
        step = floor_step(Gaussian(), best + np.multiply(offset, deviation), events)
        # Features are linear only to first order, and one unit is not infinitely small.
        np.testing.assert_allclose(step, np.multiply(-1, offset), atol=0.1)


def test_training_is_at_the_floor_when_the_step_to_it_says_so():
    events = Gaussian().observed(2000, np.random.default_rng(7))
    best, deviation = exact_fit(events)
    trainer = Trainer(Gaussian(), dataclasses.replace(QUICK, record_every=25), events, n_steps=400)
    ways = []
    for record in trainer.iterate():
        theta = record.theta.mean(0)
        ways.append((np.abs(floor_step(Gaussian(), theta, events)).max(), np.abs((theta - best) / deviation).max()))
        if ways[-1][0] < 0.3:
            break
    assert 50 < trainer.step < 400, "neither at once nor never"
    assert ways[0][0] > 3 and ways[0][1] > 3
    assert ways[-1][1] < 0.5

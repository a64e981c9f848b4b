"""Snapshots and scores of a trainer, which do not change the run."""

import dataclasses

import numpy as np
import pytest
from gaussian import QUICK, Gaussian
from test_trainer import Halls, state

from sagips_kit import Trainer
from sagips_kit.training import predictions

SETTINGS = dataclasses.replace(QUICK, n_predictive=90, n_scores=400)


@pytest.fixture
def events(rng):
    return Gaussian().observed(1000, rng)


def test_snapshots_and_scores_do_not_change_the_run(events):
    one, other = (Trainer(Gaussian(), SETTINGS, events, n_steps=20) for _ in range(2))
    for record in one.iterate():
        predictions.snapshot(one)
        predictions.scores(one, np.zeros((2, 5, 90, 1), np.float32))
    other.run()
    for mine, its in zip(state(one.gan.generator), state(other.gan.generator), strict=True):
        np.testing.assert_array_equal(mine, its)
    np.testing.assert_array_equal(one.predict(), other.predict())


def test_events_of_a_snapshot_follow_its_parameters(events):
    trainer = Trainer(Gaussian(), SETTINGS, events, n_steps=400)
    trainer.run(3)
    parameters, generated = predictions.snapshot(trainer)
    assert parameters.shape == (2, 4, 2) and generated.shape == (2, 90, 1)
    # 90 events from 4 sets: two of the sets have 23 events, and all noise is stratified.
    np.testing.assert_allclose(generated[..., 0].mean(1), parameters[..., 0].mean(1), atol=0.15)
    # Every fourth event comes from the same set.
    trainer.theta[:, 0, 0] += 100
    assert (predictions.snapshot(trainer)[1][:, 0::4] > 50).all() and (
        predictions.snapshot(trainer)[1][:, 1::4] < 50
    ).all()


def test_scores_distinguish_wrong_events_from_observed_ones(events):
    trainer = Trainer(Gaussian(), SETTINGS, events, n_steps=400)
    trainer.run()
    generated, observed = predictions.scores(trainer, trainer.predict())
    assert generated.shape == observed.shape == (2, 400)
    assert abs(generated.mean() - observed.mean()) < 0.1
    trainer = Trainer(Gaussian(), SETTINGS, events, n_steps=400)
    trainer.run(20)  # the generators are still far from the answer, and the discriminators notice
    generated, observed = predictions.scores(trainer, np.full((2, 5, 90, 1), -1.5, np.float32))
    assert (observed.mean(1) > generated.mean(1) + 0.1).all()


def test_stored_events_have_the_observed_shares_of_categories():
    hall = np.arange(1000) % 5 // 4
    trainer = Trainer(Halls(), SETTINGS, np.stack([1.0 - 2.0 * hall, hall], axis=-1), n_steps=10)
    trainer.run()
    for events in (*trainer.predict().reshape(-1, 90, 2), *predictions.snapshot(trainer)[1]):
        counts = np.bincount(events[:, 1].astype(int), minlength=2)
        assert abs(counts - [72, 18]).max() <= 2, counts
        assert (np.diff(np.unique(events[:, 0])) > 0).sum() > 60, "none is repeated"
    trainer.gan.discriminator.forward = lambda features: features[..., -1]
    observed = predictions.scores(trainer, trainer.predict())[1]
    assert np.unique(observed[0].round(4), return_counts=True)[1].tolist() in ([320, 80], [80, 320])


def test_no_more_events_are_scored_than_exist():
    assert predictions.n_scored(SETTINGS, 10_000) == 400
    assert predictions.n_scored(SETTINGS, 30) == 30
    assert predictions.n_scored(dataclasses.replace(SETTINGS, n_predictive=1), 30) == 5

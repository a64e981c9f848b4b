"""Recorded steps: repeated without Python, they do what the steps themselves do."""

import dataclasses

import numpy as np
import pytest
import torch
from fake_graphs import FakeGraphs
from gaussian import QUICK, Calibrated, Gaussian

from sagips_kit import DayaBay, Proxy, Settings, Trainer, World
from sagips_kit.training.capture import recorder_for

SMALL = dataclasses.replace(QUICK, n_events=64, n_draws=3, record_every=5, bootstrap=True)


def make_trainer(problem, recorder=None, n_steps=60, settings=SMALL):
    events = problem.observed(2000 if isinstance(problem, DayaBay) else 500, np.random.default_rng(0))
    trainer = Trainer(problem, settings, events, n_steps=n_steps, world=World.alone("cpu"))
    trainer._repeat_with(recorder)
    return trainer


@pytest.mark.parametrize("problem", [Calibrated(), Proxy(), DayaBay()], ids=lambda problem: type(problem).__name__)
def test_a_recorded_run_is_the_run(problem):
    """Schedules, random numbers and batches change from step to step, though Python runs only the first ones."""
    settings = dataclasses.replace(SMALL, n_members=2, axes_every=20)
    graphs = FakeGraphs()
    plain, recorded = make_trainer(problem, settings=settings), make_trainer(problem, graphs, settings=settings)
    for one, other in zip(plain.iterate(), recorded.iterate(), strict=True):
        np.testing.assert_allclose(other.theta, one.theta, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other.loss_discriminator, one.loss_discriminator, rtol=1e-4)
    np.testing.assert_allclose(recorded.draws, plain.draws, rtol=1e-4, atol=1e-5)
    assert (graphs.n_recorded, graphs.n_repeated) == (3, 3 * 57)
    assert np.ptp(recorded.draws, axis=1).max() > 1e-4


def test_a_recorded_run_continues_with_the_same_bits():
    whole, first, second = (make_trainer(Gaussian(), FakeGraphs()) for _ in range(3))
    whole.run()
    first.run(30)
    second.run(10)  # its recordings are those of other memory
    second.load_state_dict(first.state_dict())
    second.run()
    np.testing.assert_array_equal(second.draws, whole.draws)


class NeedsTheHost(FakeGraphs):
    def record(self, part):
        raise RuntimeError("operation not permitted when stream is capturing")


def test_what_cannot_be_recorded_runs_as_it_is_and_is_reported_once():
    plain, trainer = make_trainer(Gaussian()), make_trainer(Gaussian(), NeedsTheHost())
    with pytest.warns(UserWarning, match="not captured.*RuntimeError: operation not permitted.*capture=.off") as caught:
        trainer.run()
    assert len(caught) == 1 and not trainer._repeated.is_recording
    plain.run()
    np.testing.assert_allclose(trainer.draws, plain.draws, rtol=1e-4, atol=1e-5)


def test_the_setting_says_whether_steps_are_recorded():
    cpu = torch.device("cpu")
    assert recorder_for(Settings(), cpu, False) is None and recorder_for(Settings(capture="off"), cpu, False) is None
    with pytest.raises(ValueError, match="capture = .on.: the device is 'cpu', and only GPUs of NVIDIA and AMD"):
        recorder_for(Settings(capture="on"), cpu, False)
    with pytest.raises(ValueError, match="capture = .on.: events are read from a file"):
        recorder_for(Settings(capture="on"), torch.device("cuda"), True)

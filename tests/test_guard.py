"""NaN and infinity: they do not reach other ranks or members, are counted, and end the run if they persist."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussian import QUICK, Gaussian, Poisoned
from mpi_launcher import mpiexec

from sagips_kit import Ring, RunSpec, Trainer, open_run
from sagips_kit.exchange import Mixed
from sagips_kit.exchange.mean import MeanChannel
from sagips_kit.report import progress_line
from sagips_kit.training.networks import Generator

SMALL = dataclasses.replace(
    QUICK, n_members=3, n_events=64, n_draws=3, n_predictive=4, record_every=5, rows_per_block=4
)


def make_trainer(n_steps=60, **changes):
    events = Gaussian().observed(500, np.random.default_rng(0))
    return Trainer(Gaussian(), dataclasses.replace(SMALL, **changes), events, n_steps=n_steps)


def poison(trainer, what, steps, member=1):
    """Make a member's generated events NaN, or its observed events infinite, in some steps."""
    generate, draw = trainer._generate, trainer.data.batches.draw

    def poisoned_generate(theta, noise):
        events = generate(theta, noise)
        if trainer.step in steps and what == "generated":
            return events * torch.tensor([np.nan if k == member else 1.0 for k in range(3)])[:, None, None]
        return events

    def poisoned_draw():
        batch = draw()
        if trainer.step in steps and what == "observed":
            batch[member] *= np.inf
        return batch

    trainer._generate, trainer.data.batches.draw = poisoned_generate, poisoned_draw


@pytest.mark.parametrize("what", ["generated", "observed"])
@pytest.mark.parametrize("step", [0, 12, 29])
def test_training_recovers_from_one_bad_step_which_is_counted(what, step):
    whole, trainer = make_trainer(), make_trainer()
    poison(trainer, what, {step})
    with pytest.warns(UserWarning, match="numbers were not finite. Their gradients counted as zero") as caught:
        records = list(trainer.iterate())
    assert len(caught) == 1
    rejected = [record.rejected for record in records]
    assert 1 <= sum(rejected) <= 5 and rejected.index(max(rejected)) == step // 5
    # The other members are not affected.
    others = [0, 2]
    for record, undisturbed in zip(records, whole.iterate(), strict=True):
        np.testing.assert_array_equal(record.theta[others], undisturbed.theta[others])
    assert np.isfinite(records[-1].theta).all() and np.isfinite(records[-1].loss_discriminator).all()
    assert all(weight.isfinite().all() for weight in trainer.gan.discriminator.parameters())


def damage(trainer, step, number, member=1):
    """Replace a number in a member's mean gradient that comes from other ranks."""
    finish = trainer._channel.finish

    def damaged():
        mixed = dataclasses.replace(finish(), received=1)
        if trainer.step == step:
            trainer.gan.gradient.buffer[member, -1] = number
        return mixed

    trainer._channel.finish = damaged


@pytest.fixture(scope="module")
def undisturbed():
    """The records of 400 steps without any damage."""
    return list(make_trainer(400).iterate())


@pytest.mark.filterwarnings("ignore:Rank 0, step")
@pytest.mark.parametrize(("number", "is_noticed"), [(np.nan, True), (1e30, True), (1e9, False)])
def test_a_damaged_message_costs_a_step(number, is_noticed, undisturbed):
    """A wrong but finite number cannot be recognised; Adam limits the step that it causes."""
    trainer = make_trainer(400)
    damage(trainer, 333, number)
    records = list(trainer.iterate())
    assert sum(record.rejected for record in records) == is_noticed
    for record, right in zip(records, undisturbed, strict=True):
        np.testing.assert_array_equal(record.theta[[0, 2]], right.theta[[0, 2]])
    assert not np.array_equal(records[-1].theta, undisturbed[-1].theta)
    np.testing.assert_allclose(records[-1].theta, undisturbed[-1].theta, atol=0.1)


def test_a_damaged_message_is_reported():
    """It may have split ranks that hold the same generators."""
    trainer = make_trainer()
    damage(trainer, 12, np.nan)
    with pytest.warns(UserWarning) as warned:
        trainer.run()
    assert sum("1 mean gradients from other ranks were damaged" in str(one.message) for one in warned) == 1


@pytest.mark.filterwarnings("ignore:Rank 0, step")
def test_no_weight_is_frozen_by_an_infinite_square():
    """A flipped bit can cause one: Adam would keep the infinity, and the weight would never move again."""
    trainer = make_trainer()
    damage(trainer, 12, 3e35)
    trainer.run()
    assert all(moment.isfinite().all() for moment in moments(trainer))


@pytest.mark.filterwarnings("ignore:Rank 0, step")
def test_no_weight_of_a_discriminator_is_frozen_by_an_infinite_square():
    trainer = make_trainer()
    update = trainer._update_discriminator

    def damaged():
        if trainer.step == 12:
            next(trainer.gan.discriminator.parameters()).grad[1] = 3e35  # the gradient of observed events is added
        return update()

    trainer._update_discriminator = damaged
    rejected = [record.rejected for record in trainer.iterate()]
    assert sum(rejected) == rejected[2] > 0
    assert all(moment.isfinite().all() for moment in moments(trainer))


def moments(trainer):
    """The moments that the optimisers keep."""
    return [item for one in trainer.gan.optimisers.values() for items in one.state.values() for item in items.values()]


def test_discriminators_return_to_the_last_record():
    trainer = make_trainer()
    trainer.run(10)
    good = [weight.detach().clone() for weight in trainer.gan.discriminator.parameters()]
    poison(trainer, "generated", range(10, 15))
    with pytest.warns(UserWarning, match="numbers were not finite"):
        trainer.run(5)
    for weight, before in zip(trainer.gan.discriminator.parameters(), good, strict=True):
        assert torch.equal(weight[1], before[1]) and not torch.equal(weight[0], before[0])


TWO = SimpleNamespace(size=2, device_buffers=False, device=torch.device("cpu"))


class Gives(MeanChannel):
    """Behaves as if another rank had sent the same gradient."""

    def mean(self, flat, step):
        yield from ()
        return Mixed(received=1)


@pytest.mark.filterwarnings("ignore:Rank 0, step")
@pytest.mark.parametrize("payload", ["gradient", "weights", "updates"])
@pytest.mark.parametrize("step", [0, 12])
def test_received_weights_are_tested_too(payload, step):
    whole, trainer = make_trainer(), make_trainer()
    for one in (whole, trainer):
        one._channel = Gives(Ring(payload=payload), TWO, one.gan.gradient.buffer)
    mix = trainer._channel.mean

    def damaged(flat, now):
        flat[5] = np.nan if now == step else flat[5]
        return (yield from mix(flat, now))

    trainer._channel.mean = damaged
    records, undisturbed = list(trainer.iterate()), list(whole.iterate())
    assert sum(record.rejected for record in records) == 1
    assert all(weight.isfinite().all() for weight in trainer.gan.generator.parameters())
    np.testing.assert_allclose(records[-1].theta, undisturbed[-1].theta, atol=0.1)


@pytest.mark.filterwarnings("ignore:Rank 0, step")
def test_persistent_trouble_ends_the_run():
    trainer = make_trainer(max_rollbacks=3)
    poison(trainer, "generated", range(20, 60))
    with pytest.raises(
        RuntimeError, match=r"of 1 of 3 generators .* 3 consecutive rollbacks .*\(max_rollbacks\). Check that"
    ):
        trainer.run()
    assert trainer.step == 40


@pytest.mark.filterwarnings("ignore:Rank 0, step")
def test_intermittent_trouble_does_not_end_the_run():
    trainer = make_trainer(max_rollbacks=1)
    poison(trainer, "generated", range(0, 60, 10))
    assert trainer.run().step == 60


@pytest.mark.filterwarnings("ignore:Rank 0, step")
def test_a_guard_continues_from_its_state():
    trainer, other = make_trainer(), make_trainer()
    for one in (trainer, other):
        poison(one, "generated", range(10, 40))
    trainer.run(20)
    other.load_state_dict(trainer.state_dict())
    for record, again in zip(trainer.iterate(), other.iterate(), strict=True):
        np.testing.assert_array_equal(record.theta, again.theta)
        assert record.rejected == again.rejected


def test_axes_stay_where_the_information_is_not_finite():
    generator = Generator(2, (4,), 2, [torch.Generator().manual_seed(k) for k in range(2)])
    information = torch.eye(2).repeat(2, 1, 1) * 4
    information[1, 0, 1] = torch.nan
    centre = generator.centre()
    generator.update_axes(information, 0.0)
    torch.testing.assert_close(generator.axes, torch.stack([torch.eye(2) / 2, torch.eye(2)]))
    torch.testing.assert_close(generator.centre(), centre)


@pytest.mark.mpi
def test_nan_on_one_rank_does_not_reach_the_other(tmp_path, nest):
    store = tmp_path / "a.zarr"
    spec = RunSpec(
        problem=Poisoned(n_observed=200),
        store=str(store),
        settings=SMALL,
        exchange=Ring(),
        n_steps=203,
        reference=False,
        fit=False,
    )
    (tmp_path / "spec.json").write_text(spec.to_json())
    done = mpiexec(2, *nest.stub, "-m", "sagips_kit", "run", tmp_path / "spec.json")
    assert done.returncode == 0 and done.stdout.count("numbers were not finite") == 1, done.stdout
    history = open_run(store)["history"]
    rejected = history["rejected"].values
    assert rejected[0].sum() == 0 and rejected[1].sum() > 0
    assert np.isfinite(history["theta"]).all() and np.isfinite(history["loss_discriminator"][0]).all()
    assert np.isfinite(history["loss_discriminator"][1, :, -1]).all()
    assert progress_line.snapshot(store).rejected == 0  # no longer

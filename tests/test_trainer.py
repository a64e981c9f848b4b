"""The training loop: the same numbers for any division of work among ranks and members, and the right answer."""

import dataclasses

import numpy as np
import pytest
import torch
from gaussian import QUICK, Calibrated, Gaussian, exact_fit
from mpi_launcher import TESTS, mpiexec

from sagips_kit import AllReduce, FlatGradient, Independent, Proxy, Ring, Settings, Trainer, World, fit_likelihood
from sagips_kit._partition import chunk_bounds
from sagips_kit._value import value

SMALL = dataclasses.replace(QUICK, n_events=64, n_draws=3, n_predictive=4, record_every=1, bootstrap=True)


@pytest.fixture
def events():
    return Gaussian().observed(500, np.random.default_rng(0))


def make_trainer(events, settings=SMALL, n_steps=20, rank=0, size=1, **options):
    """A trainer of one rank of several, without communication with the others."""
    world = World(rank, size, torch.device("cpu"))
    return Trainer(Gaussian(), settings, events, n_steps=n_steps, world=world, **options)


def state(network):
    return [tensor.numpy() for tensor in network.state_dict().values()]


def assert_same_records(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert one.step == other.step
        for name in ("theta", "loss_discriminator", "loss_generator"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_same_seed_gives_the_same_bits(events):
    one, same, other = (make_trainer(events, seed=seed) for seed in (3, 3, 4))
    first = list(one.iterate())
    assert_same_records(first, same.iterate())
    np.testing.assert_array_equal(one.draws, same.draws)
    np.testing.assert_array_equal(one.predict(), same.predict())
    assert (other.run().theta != first[-1].theta).all()


def test_training_in_pieces_gives_the_same_bits(events):
    whole, pieces = make_trainer(events), make_trainer(events)
    assert_same_records(whole.iterate(), [*pieces.iterate(7), *pieces.iterate(1), *pieces.iterate()])
    np.testing.assert_array_equal(whole.draws, pieces.draws)


def test_a_checkpoint_with_other_random_numbers_is_refused(events):
    trainer = make_trainer(events)
    state = trainer.state_dict()
    state["random"] = {"noise": {}, "prediction": {}}  # as before training had random numbers by counter
    with pytest.raises(ValueError, match="that of an earlier version of sagips_kit.*overwrite=True"):
        trainer.load_state_dict(state)


def test_records_come_at_their_steps_and_after_the_last_step(events):
    trainer = make_trainer(events, dataclasses.replace(SMALL, record_every=4), n_steps=10)
    assert trainer.run(0) is None
    assert trainer.run(3).step == 3
    records = list(trainer.iterate())
    assert [record.step for record in records] == [4, 8, 10]
    assert trainer.run() is None and trainer.run(5) is None


def test_the_discriminator_steps_while_the_exchange_is_under_way(events):
    trainer = make_trainer(events)
    seen, start, finish = [], trainer._channel.start, trainer._channel.finish

    def note(call):
        steps = [parameter.detach().numpy().copy() for parameter in trainer.gan.discriminator.parameters()]
        seen.append([array.copy() for array in state(trainer.gan.generator)] + steps)
        return call

    trainer._channel.start = lambda *args: note(start)(*args)
    trainer._channel.finish = lambda: note(finish)()
    trainer.run(1)
    at_start, at_finish = seen
    n_generator = len(state(trainer.gan.generator))
    assert all(map(np.array_equal, at_start[:n_generator], at_finish[:n_generator]))
    assert not any(map(np.array_equal, at_start[n_generator:], at_finish[n_generator:]))
    assert not all(map(np.array_equal, at_finish, state(trainer.gan.generator)))


def test_elapsed_time_continues_from_piece_to_piece(events):
    trainer = make_trainer(events)
    elapsed = [trainer.run(5).elapsed_s for _ in range(4)]
    assert 0 < elapsed[0] < elapsed[1] < elapsed[2] < elapsed[3]


@pytest.mark.parametrize("settings", [SMALL, dataclasses.replace(SMALL, bootstrap=False, loss="logistic")])
def test_batched_members_equal_single_ones(events, settings):
    """An ensemble of 3 members on one rank is that of 3 ranks with one member each."""
    together = make_trainer(events, dataclasses.replace(settings, n_members=3), seed=2)
    alone = dataclasses.replace(settings, n_members=1)
    singles = [make_trainer(events, alone, rank=rank, size=3, seed=2) for rank in range(3)]
    records = list(zip(together.iterate(), *(single.iterate() for single in singles), strict=True))
    assert len(records) == 20
    for batched, *each in records:
        np.testing.assert_allclose(batched.theta, np.concatenate([one.theta for one in each]), rtol=0, atol=1e-4)
    np.testing.assert_allclose(together.draws, np.concatenate([one.draws for one in singles]), rtol=0, atol=1e-4)
    # The comparison is meaningful only if members differ by more than its tolerance.
    assert np.ptp(together.draws, axis=0).min() > 1e-3


@pytest.mark.parametrize("exchange", [Ring(), AllReduce()])
def test_ranks_of_a_replica_share_the_generator_and_nothing_else(events, exchange):
    ranks = [make_trainer(events, rank=rank, size=3, exchange=exchange) for rank in range(3)]
    for other in ranks[1:]:
        for mine, its in zip(state(ranks[0].gan.generator), state(other.gan.generator), strict=True):
            np.testing.assert_array_equal(mine, its)
    weights = [trainer.gan.discriminator.network.weights[0].detach().numpy() for trainer in ranks]
    for trainer in ranks:
        trainer._noise.prepare(0)
        trainer.data.batches.advance()
    latent, noise = zip(*(trainer._noise.take() for trainer in ranks), strict=True)
    batches = [trainer.data.batches.draw() for trainer in ranks]
    for drawn in (weights, noise, latent, batches):
        streams = [stream for rank in drawn for stream in rank]
        for k, stream in enumerate(streams):
            assert not any(np.array_equal(stream, other) for other in streams[:k])


def test_ranks_of_a_replica_learn_from_the_same_resample(events):
    samples = []
    for rank in range(2):
        trainer = make_trainer(events, rank=rank, size=2, exchange=Ring())
        samples.append([np.sort(statistic[:, 0]) for statistic in trainer.data.constraints.statistics])
    np.testing.assert_array_equal(samples[0][0], samples[1][0])
    assert len(samples[0][0]) != len(samples[0][1]) or (samples[0][0] != samples[0][1]).any()


@pytest.mark.parametrize(
    ("n_steps", "averaging", "n_draws"),
    [(40, 0.5, 4), (40, 0.5, 7), (30, 1.0, 3), (7, 0.3, 50), (1, 0.3, 3), (2, 1.0, 5), (3, 0.01, 1), (5, 0.3, 2)],
)
def test_draws_are_averages_over_stretches_of_the_last_part(events, n_steps, averaging, n_draws):
    trainer = make_trainer(events, dataclasses.replace(SMALL, averaging=averaging, n_draws=n_draws), n_steps)
    theta = np.stack([record.theta for record in trainer.iterate()], axis=1)
    last = theta[:, n_steps - max(1, round(averaging * n_steps)) :]
    for draw, (start, stop) in enumerate(chunk_bounds(last.shape[1], n_draws)):
        # Fewer steps than draws: neighbours share a step.
        expected = last[:, start : max(stop, start + 1)].mean(1)
        np.testing.assert_allclose(trainer.draws[:, draw], expected, rtol=1e-6)
    events = trainer.predict()
    assert events.shape == (2, n_draws, 4, 1) and np.isfinite(events).all()


def test_predicted_events_follow_the_draws(events):
    trainer = make_trainer(events, dataclasses.replace(SMALL, n_predictive=2000))
    trainer.draws[..., 0] = [[-1.5, -0.9, -0.3], [0.3, 0.9, 1.5]]
    trainer.draws[..., 1] = [[0.6, 0.9, 1.2], [1.5, 1.8, 2.1]]
    events = trainer.predict()
    np.testing.assert_allclose(events.mean((2, 3)), trainer.draws[..., 0], atol=0.15)
    np.testing.assert_allclose(events.std((2, 3)), trainer.draws[..., 1], rtol=0.1)


@pytest.mark.parametrize("n_events", [2, 5, 63])
@pytest.mark.parametrize("problem", [Gaussian(), Proxy()])
def test_a_few_events_are_enough_to_run(problem, n_events):
    rng = np.random.default_rng(0)
    events = rng.uniform(0.2, 0.8, (n_events, len(problem.observables)))
    settings = dataclasses.replace(SMALL, bootstrap=False)
    record = Trainer(problem, settings, events, n_steps=3).run()
    assert np.isfinite(record.theta).all() and np.isfinite(record.loss_discriminator).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"exploration": 0.0},
        {"exploration": 1.0, "final_rate": 0.0},
        {"axes_every": 0},
        {"generator_widths": (), "discriminator_widths": ()},
        {"n_sets": 1, "n_members": 1, "latent_dim": 1},
        {"n_sets": 64},
        {"damping": 1e-9, "axes_every": 1},
    ],
)
def test_settings_at_their_limits_train(events, changes):
    record = make_trainer(events, dataclasses.replace(SMALL, **changes)).run()
    assert np.isfinite(record.theta).all()
    assert (record.theta >= Gaussian.lower).all() and (record.theta <= Gaussian.upper).all()


def test_bad_events_are_refused():
    with pytest.raises(ValueError, match="Gaussian needs numbers of shape"):
        make_trainer(np.zeros((10, 2)))


def distances(draws, events):
    """Each member's distance to the maximum-likelihood estimate, in floor units: (member, parameter)."""
    best, deviation = exact_fit(events)
    return (draws.mean(1) - best) / deviation


@pytest.mark.parametrize("loss", ["likelihood", "logistic", "least squares"])
def test_closure_every_loss_finds_the_exact_answer(loss):
    events = Gaussian().observed(2000, np.random.default_rng(7))
    # A loss with smaller gradients needs more steps.
    n_steps = {"likelihood": 400, "logistic": 400, "least squares": 600}[loss]
    trainer = Trainer(Gaussian(), dataclasses.replace(QUICK, loss=loss), events, n_steps=n_steps)
    trainer.run()
    assert np.abs(distances(trainer.draws, events)).max() < 1


def test_members_converge_to_the_estimates_of_their_resamples():
    events = Gaussian().observed(2000, np.random.default_rng(7))
    trainer = Trainer(Gaussian(), dataclasses.replace(QUICK, bootstrap=True), events, n_steps=400)
    trainer.run()
    for draws, sample in zip(trainer.draws, trainer.data.constraints.statistics, strict=True):
        assert np.abs(distances(draws[None], sample.double().numpy())).max() < 1
    assert np.abs(distances(trainer.draws, events)).max() > 0.5


@value
class Pulled(Gaussian):
    """The mean has also been measured independently, as precisely as by 2000 events: 0.4 +- 0.025."""

    def constraints(self, theta, statistic):
        return (theta[:1] - 0.4) / 0.025


def test_constraints_pull_as_much_as_in_the_likelihood():
    events = Gaussian().observed(2000, np.random.default_rng(7))
    trainer = Trainer(Pulled(), QUICK, events, n_steps=400)
    trainer.run()
    fit = fit_likelihood(Pulled(), events)
    assert np.abs((trainer.draws.mean(1) - fit.theta) / fit.deviation).max() < 1
    assert np.abs(distances(trainer.draws, events)[:, 0]).min() > 1.5


@value
class Halls(Gaussian):
    """Two detectors that see different means of one distribution: the answer depends on the weight of each."""

    parameters = ("mu",)
    lower, upper = (-2.0,), (2.0,)
    observables = ("x", "hall")
    noise_dim = 2
    n_categories = 2

    def simulate(self, theta, noise):
        x = super().simulate(torch.cat([theta, torch.ones_like(theta)]), noise[:, :1])
        return torch.cat([x, (2 * noise[:, 1:]).floor()], dim=-1)

    def features(self, events):
        x, hall = events[..., :1], events[..., 1:]
        return torch.cat([hall, x, x * hall], dim=-1)

    def category(self, events):
        return events[..., 1].long()


def test_the_spread_of_an_ensemble_has_that_of_its_priors():
    """A prior on mu is far more precise than the events, so mu varies between chains as repeated calibrations would."""
    problem = Calibrated()
    events = problem.observed(3000, np.random.default_rng(0))
    fit = fit_likelihood(problem, events)
    settings = dataclasses.replace(QUICK, n_members=16, n_events=256, bootstrap=True)
    trainer = Trainer(problem, settings, events, n_steps=400)
    trainer.run()
    chains = trainer.draws.mean(axis=1)[:, 0]
    assert abs(chains.mean() - fit.theta[0]) < 0.4 * fit.deviation[0]
    # Four standard deviations of a standard deviation from 16 chains
    assert chains.std(ddof=1) == pytest.approx(fit.deviation[0], rel=0.7)


def test_categories_count_by_their_observed_shares():
    rng = np.random.default_rng(0)
    hall = np.arange(2000) % 5 // 4
    events = np.stack([rng.normal(1.0 - 2.0 * hall), hall], axis=-1)
    trainer = Trainer(Halls(), QUICK, events, n_steps=400)
    trainer.run()
    # Four fifths near 1 and one fifth near -1; equal weights would give 0.
    assert trainer.draws.mean(1) == pytest.approx(events[:, 0].mean(), abs=0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Results of three ranks after training in several modes: key -> (rank, ...)."""
    folder = tmp_path_factory.mktemp("trained")
    done = mpiexec(3, TESTS / "mpi" / "train.py", folder, timeout=240)
    assert done.returncode == 0, done.stdout
    ranks = [np.load(folder / f"{rank}.npz") for rank in range(3)]
    return {key: np.stack([rank[key] for rank in ranks]) for key in ranks[0].files}


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["Ring", "AllReduce"])
@pytest.mark.parametrize("length", ["short", "long"])
def test_replicas_are_bitwise_equal_after_training(trained, name, length):
    for key in ("theta", "generator", "draws"):
        found = trained[f"{name} {length} {key}"]
        if key == "generator":
            np.testing.assert_array_equal(found[1:], found[:1].repeat(2, axis=0))
        else:
            # Ranks generate different parameter sets around the same centre, whose spread shrinks during the run.
            np.testing.assert_allclose(found[1:], found[:1].repeat(2, axis=0), atol=0.05)
    discriminators = trained[f"{name} {length} discriminator"]
    assert (np.abs(discriminators[1:] - discriminators[:1]).max(axis=1) > 1e-3).all()


@pytest.mark.mpi
def test_ring_and_allreduce_train_alike_to_rounding(trained):
    one, other = trained["Ring short generator"], trained["AllReduce short generator"]
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    assert np.abs(one - trained["Independent short generator"]).max() > 1e-2


@pytest.mark.mpi
def test_independent_ranks_stay_different(trained):
    generators = trained["Independent long generator"]
    assert all(np.abs(generators[k] - generators[k - 1]).max() > 1e-2 for k in range(3))


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["Independent", "AllReduce", "Ring", "one-sided", "exponential"])
def test_closure_every_exchange_finds_the_exact_answer(trained, name):
    events = Gaussian().observed(2000, np.random.default_rng(0))
    for draws in trained[f"{name} long draws"]:
        assert np.abs(distances(draws, events)).max() < 1


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["AllReduce", "Ring"])
def test_a_users_loop_with_an_exchange_equals_the_loop_over_all_events(trained, name):
    events = Gaussian().observed(2000, np.random.default_rng(0))
    # Shares differ by at most one event, so the mean of their gradients is that of all events to 1e-3.
    slope, offset = np.polyfit(events[:, 0], events[:, 0] ** 2, 1)
    for rank in trained[f"{name} own loop"]:
        assert rank == pytest.approx([slope, offset], abs=5e-3)
    apart = trained["Independent own loop"]
    assert np.ptp(apart, axis=0).max() > 2e-2


def test_a_users_loop_on_a_single_rank_keeps_its_gradients():
    network = torch.nn.Linear(2, 1)
    flat = FlatGradient(network.parameters())
    with Independent().open(World.alone("cpu"), flat.buffer) as channel:
        network(torch.ones(3, 2)).sum().backward()
        expected = [parameter.grad.clone() for parameter in network.parameters()]
        channel.mix_(flat.pack(), 0)
        flat.unpack()
    assert all(torch.equal(p.grad, e) for p, e in zip(network.parameters(), expected, strict=True))


@pytest.mark.slow
def test_proxy_reaches_the_statistical_floor():
    """RMS distance of the ensemble's mean to the maximum-likelihood estimate, in floor units."""
    for seed in range(2):
        events = Proxy().observed(20_000, np.random.default_rng(seed))
        fit = fit_likelihood(Proxy(), events)
        trainer = Trainer(Proxy(), Settings(n_members=2), events, n_steps=2000, seed=seed)
        trainer.run()
        distance = (trainer.draws.mean((0, 1)) - fit.theta) / fit.deviation
        assert np.sqrt(np.mean(distance**2)) < 1.5

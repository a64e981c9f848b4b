"""Observed events: they are checked, resampled without noise in the mean, ordered, and drawn evenly."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch
from gaussian import Gaussian
from hypothesis import given
from hypothesis import strategies as st

from sagips_kit import Linear, Proxy, Settings, Trainer, fit_likelihood, floor_step
from sagips_kit.events.batches import Batches, Supply, batch_order, neighbour_order
from sagips_kit.events.resampling import (
    Resampling,
    balanced_resample,
    check_events,
    require_resolution,
    shifts_of_external,
)


def make_batches(events, categories=None, n_categories=1, batch_size=8, seed=0):
    events = torch.as_tensor(events)
    categories = torch.zeros(len(events), dtype=torch.long) if categories is None else torch.as_tensor(categories)
    order = batch_order(events.numpy(), categories.numpy(), batch_size)
    return Batches(events[order], categories[order], [torch.arange(len(events))], n_categories, batch_size, keys=[seed])


def draw(batches, n_batches):
    """The first batches of the only member, (batch, event, observable)."""
    return torch.stack([batches.take(one)[0] for one in batches.positions(torch.arange(n_batches))])


def draw_next(supply):
    supply.advance()
    return supply.draw()


def count_draws(batches, n_events, n_batches):
    """How often each event is drawn, (event,); the last column of an event is its number."""
    drawn = draw(batches, n_batches)[..., -1].flatten().long()
    return np.bincount(drawn.numpy(), minlength=n_events)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (np.zeros((5, 3)), r"shape \(5, 3\).*Proxy needs numbers.*the columns x1, x2"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.full((5, 2), "0.5"), "type <U3"),
        (np.full((5, 2), None), "type object"),
        ([[0.5, 0.5], [0.5, np.nan], [np.inf, 0.5]], "2 of 3 observed events hold NaN or infinity, the first in row 1"),
        (np.full((5, 2), 1 + 2j), "type complex128"),
        (np.full((5, 2), np.datetime64("2020-01-01")), "type datetime64"),
        (np.ma.array(np.ones((3, 2)), mask=[[0, 0], [0, 1], [1, 1]]), "2 of 3 observed events are masked, .* in row 1"),
        ([[1.0, 2.0], [1e39, 1.0]], "x1: row 1 of the observed events, 1e.39, is too large for single precision"),
        ([[1, 2], [3, 2**53 + 1]], "x2: row 1 of the observed events holds 9007199254740993, an integer that double"),
        (np.full((1, 2), 0.5), "Proxy needs at least 2 observed events, and got 1"),
        (np.zeros((0, 2)), "Proxy needs at least 2 observed events, and got 0"),
    ],
)
def test_bad_events_are_refused_in_one_line(events, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_events(Proxy(), events)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, np.ndarray.tolist])
def test_good_events_come_back_as_an_array(kind):
    events = np.random.default_rng(0).random((4, 2))
    np.testing.assert_array_equal(check_events(Proxy(), kind(events)), events)


@given(n_events=st.integers(1, 40), n_chains=st.integers(1, 70), seed=st.integers(0, 9))
def test_resamples_add_up_to_the_data(n_events, n_chains, seed):
    copies = [balanced_resample(n_events, chain, n_chains, seed) for chain in range(n_chains)]
    np.testing.assert_array_equal(np.sum(copies, axis=0), n_chains)


def test_a_single_chain_gets_the_data():
    np.testing.assert_array_equal(balanced_resample(9, 0, 1, 3), 1)


@pytest.mark.parametrize("n_chains", [2, 16, 17, 33])
def test_every_chain_of_several_is_resampled(n_chains):
    for chain in range(n_chains):
        copies = balanced_resample(2000, chain, n_chains, 0)
        assert (copies == 0).mean() > 0.2 and abs(copies.mean() - 1) < 0.1


def test_sixteen_chains_share_their_copies():
    copies = np.array([balanced_resample(100, chain, 32, 0) for chain in range(32)])
    assert (copies[:16].sum(0) == 16).all() and (copies[16:].sum(0) == 16).all()
    assert (copies[:16] != copies[16:]).any(axis=1).all()


def test_resample_depends_on_seed_and_chain_alone():
    first = balanced_resample(500, 2, 4, 7)
    balanced_resample(500, 0, 2, 8)
    np.testing.assert_array_equal(first, balanced_resample(500, 2, 4, 7))
    assert (first != balanced_resample(500, 2, 4, 8)).any()
    assert (first != balanced_resample(500, 3, 4, 7)).any()


@pytest.mark.parametrize("n_chains", [2, 4, 8, 16])
def test_resampling_is_independent_of_events_with_the_same_seed(n_chains):
    events = np.random.default_rng(5).random((20_000, 2))
    for chain in range(n_chains):
        copies = balanced_resample(len(events), chain, n_chains, 5)
        for column in events.T:
            histogram, _ = np.histogram(column, 16, (0, 1), weights=copies)
            assert histogram / 1250 == pytest.approx(1, abs=0.2)


@given(n_events=st.integers(1, 200), n_cells=st.integers(1, 50), n_observables=st.integers(1, 3))
def test_order_is_a_permutation(n_events, n_cells, n_observables):
    events = np.random.default_rng(n_events).integers(0, 5, (n_events, n_observables)).astype(np.float32)
    assert sorted(neighbour_order(events, n_cells)) == list(range(n_events))


def test_cells_of_the_order_are_compact():
    events = np.random.default_rng(0).random((4096, 2))
    cells = events[neighbour_order(events, 64)].reshape(64, 64, 2)
    extent = np.ptp(cells, axis=1)
    assert extent.max() < 0.25 and extent.mean() < 0.14


def test_one_observable_is_sorted_and_a_constant_one_does_not_matter():
    x = np.random.default_rng(0).random(50)
    for events in (x[:, None], np.stack([np.ones(50), x], axis=-1)):
        np.testing.assert_array_equal(neighbour_order(events, 8), np.argsort(x))


def test_equal_events_keep_their_order():
    np.testing.assert_array_equal(neighbour_order(np.ones((6, 2)), 3), range(6))


def test_batch_order_keeps_categories_apart():
    rng = np.random.default_rng(0)
    categories = rng.integers(0, 3, 300)
    order = batch_order(rng.random((300, 1)), categories, 10)
    assert sorted(order) == list(range(300))
    np.testing.assert_array_equal(categories[order], np.sort(categories))


def test_categories_get_equal_shares():
    rng = np.random.default_rng(0)
    categories = rng.choice(3, 1000, p=[0.7, 0.25, 0.05])
    events = np.stack([rng.random(1000), categories], axis=-1)
    batches = make_batches(events, categories, 3, batch_size=32)
    for batch in draw(batches, 50):
        shares = np.bincount(batch[:, 1].long(), minlength=3)
        assert shares.tolist() == [10, 11, 11]


@pytest.mark.parametrize(("n_events", "batch_size"), [(100, 16), (101, 10), (37, 64), (24, 24)])
def test_every_event_is_equally_likely(n_events, batch_size):
    events = np.stack([np.random.default_rng(1).random(n_events), np.arange(n_events)], axis=-1)
    n_batches = 200 * n_events // batch_size
    counts = count_draws(make_batches(events, batch_size=batch_size), n_events, n_batches)
    assert counts.sum() == n_batches * batch_size
    # Stratified draws fluctuate less than random draws, so only larger fluctuations are errors.
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_an_epoch_does_not_omit_events_at_the_ends():
    events = np.arange(100.0)[:, None]
    counts = count_draws(make_batches(events, batch_size=10), 100, 10 * 300)
    for end in (counts[:3], counts[-3:]):
        assert end.mean() == pytest.approx(300, abs=45)


def test_an_epoch_draws_every_event_once_if_batches_fill_it():
    events = np.arange(96.0)[:, None]
    batches = make_batches(events, batch_size=8)
    drawn = count_draws(batches, 96, 12)
    assert (drawn == 1).all()


@pytest.mark.parametrize(("n_events", "most"), [(100, 1), (101, 2), (155, 2)])
def test_no_position_is_drawn_twice_in_an_epoch(n_events, most):
    """An event at the border of two cells may be, once in each."""
    batches = make_batches(np.arange(float(n_events))[:, None], batch_size=10)
    epochs = draw(batches, 3 * batches.n_batches[0]).view(3, -1)
    assert all(np.bincount(epoch.long()).max() <= most for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_a_batch_represents_all_events():
    events = np.random.default_rng(0).normal(size=(5000, 1))
    batches = make_batches(events, batch_size=100)
    means = [batch.mean().item() for batch in draw(batches, 200)]
    # The mean over one event from each of 100 cells fluctuates far less than that of 100 random ones.
    assert np.std(means) < 0.2 / np.sqrt(100)
    assert np.mean(means) == pytest.approx(events.mean(), abs=0.01)


@pytest.mark.parametrize("n_events", [2, 3, 30])
def test_a_batch_may_be_larger_than_the_sample(n_events):
    events = np.arange(float(n_events))[:, None]
    counts = count_draws(make_batches(events, batch_size=64), n_events, 1)
    assert counts.sum() == 64
    assert np.ptp(counts) <= 3


def test_an_empty_category_is_an_error():
    with pytest.raises(
        ValueError, match="No observed event is in category 1, and there should be events of all 2. Take"
    ):
        make_batches(np.zeros((5, 1)), np.zeros(5, int), 2)


def test_a_batch_without_room_for_all_categories_is_an_error():
    with pytest.raises(
        ValueError, match=r"n_events = 2: should be at least 3, .* each category. Type Settings\(n_events="
    ):
        make_batches(np.zeros((6, 1)), np.arange(6) % 3, 3, batch_size=2)


def test_batches_depend_on_their_key_alone():
    events = Gaussian().observed(100, np.random.default_rng(0))
    one, same, other = (make_batches(events, seed=seed) for seed in (1, 1, 2))
    first = draw(one, 3)
    assert torch.equal(first, draw(same, 3)) and not torch.equal(first, draw(other, 3))


def test_priors_are_resampled_like_events():
    """Their mean over the chains is the given value, and their scatter is that of repeated calibrations."""
    shifts = np.array([shifts_of_external(50, chain, 8, 0) for chain in range(8)])
    np.testing.assert_allclose(shifts.mean(axis=0), 0, atol=1e-12)
    assert shifts.std(ddof=1) == pytest.approx(1, abs=0.1)
    assert (shifts_of_external(50, 0, 1, 0) == 0).all()
    assert not np.allclose(shifts, [shifts_of_external(50, chain, 8, 1) for chain in range(8)])


def make_supply(rank=0, n_ranks=1, n_chains=2, bootstrap=False):
    """Two members; window k holds the numbers 100 k to 100 k + 63."""
    resampling = Resampling(range(2), n_chains, 0, bootstrap)
    return Supply(Gaussian(), 16, resampling, range(2), lambda k: 100.0 * k + np.arange(64.0)[:, None], (rank, n_ranks))


def test_ranks_of_a_replica_share_the_windows():
    for rank in range(3):
        supply = make_supply(rank, n_ranks=3)
        # 64 events are 4 batches of 16.
        drawn = torch.stack([draw_next(supply) for _ in range(8)])
        assert drawn.shape == (8, 2, 16, 1)
        assert ((drawn[:4] // 100) == rank).all() and ((drawn[4:] // 100) == rank + 3).all()


def test_the_resamples_of_each_window_add_up_to_it():
    resampling = Resampling(range(4), 4, 0, True)
    counts = [[np.bincount(one, minlength=50) for one in resampling.indices(50, window)] for window in range(2)]
    assert (np.sum(counts, axis=1) == 4).all()
    whole = np.bincount(resampling.indices(50)[0], minlength=50)
    assert all((one != other).any() for one, other in itertools.combinations([whole, counts[0][0], counts[1][0]], 2))


@pytest.mark.parametrize("n_drawn", [0, 3, 4, 9])
def test_a_supply_continues_from_the_state_of_another(n_drawn):
    first, second = make_supply(bootstrap=True), make_supply(bootstrap=True)
    for _ in range(n_drawn):
        draw_next(first)
    second.load_state_dict(first.state_dict())
    for _ in range(10):
        assert torch.equal(draw_next(first), draw_next(second))


@dataclass(frozen=True)
class Signs:
    """As much of a problem as a supply needs: negative events are one category, the others another."""

    n_categories = 2

    def category(self, events):
        return (events[:, 0] >= 0).long()


def make_supply_of(windows, n_chains=2, bootstrap=False, share=(0, 1)):
    resampling = Resampling(range(2), n_chains, 0, bootstrap)
    return Supply(Signs(), 8, resampling, range(2), lambda k: windows[k % len(windows)], share)


NONE, BELOW, BOTH = np.zeros((0, 1)), -np.arange(1.0, 17.0)[:, None], np.array([[-50.0], [70.0], [80.0]])


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([BELOW, NONE, BOTH], {-1.0, 70.0, 80.0}),
        ([NONE, BOTH], {-50.0, 70.0, 80.0}),
        ([BOTH, NONE], {-50.0, 70.0, 80.0}),
    ],
)
def test_a_window_without_a_category_is_completed_by_those_ahead(windows, expected):
    supply = make_supply_of(windows)
    drawn = draw_next(supply)
    assert expected <= set(drawn.flatten().tolist()) | {-1.0}
    assert (drawn[:, :, 0] >= 0).sum(dim=1).tolist() == [4, 4]
    # Only the category that is missing is taken from a window ahead.
    assert (-50.0 in drawn) == (windows[0] is not BELOW)
    resumed = make_supply_of(windows)
    resumed.load_state_dict(supply.state_dict())
    for _ in range(12):
        assert torch.equal(draw_next(supply), draw_next(resumed))


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([BELOW], r"100 windows of the file have no event in category 1, .* RunSpec.n_observed="),
        ([NONE], "100 windows of the file of events have no row in the selection. Widen `within`"),
    ],
)
def test_windows_that_never_have_a_category_are_refused(windows, message):
    with pytest.raises(ValueError, match=message):
        draw_next(make_supply_of(windows))


def test_a_resample_without_a_rare_category_gets_all_of_its_events():
    events = torch.tensor([[-1.0]] * 200 + [[5.0]])
    categories, n_lacking = Signs().category(events), 0
    resampling = Resampling(range(8), 8, 0, True)
    indices = resampling.indices(len(events))
    supply = Supply(Signs(), 8, resampling, range(8))
    supply.fill(events, categories, indices)
    n_lacking = sum(200 not in chosen for chosen in indices)
    assert n_lacking > 0
    assert ((draw_next(supply) == 5).sum(dim=1) == 4).all()


@pytest.mark.parametrize(
    ("column", "is_fine"),
    [
        (np.arange(1000.0), True),
        (1e5 + np.arange(1000.0) / 1000, False),
        (1.7e9 + np.arange(1000.0) / 10, False),
        ((1.7e9 + np.arange(1000.0)).astype(np.float32), False),
        (1e5 + np.arange(1000.0) * 1e3, True),
        (1e-50 * np.arange(1000.0), False),
        (np.r_[1e-50, np.arange(999.0)], True),
        (np.full(1000, 0.1), True),
        (np.random.default_rng(0).standard_cauchy(1000), True),
    ],
)
def test_events_that_single_precision_blurs_are_refused(column, is_fine):
    if is_fine:
        require_resolution(Gaussian(), column[:, None])
        return
    with pytest.raises(ValueError, match=r"x: the observed events lie around .* Observed\(..., columns=\('x - "):
        require_resolution(Gaussian(), column[:, None])


def test_a_position_in_windows_needs_windows():
    supply = Supply(Gaussian(), 16, Resampling(range(2), 2, 0, False), range(2))
    with pytest.raises(ValueError, match=r"a run that reads windows of a file, .*events=Observed\(..., stream=True\)"):
        supply.load_state_dict(make_supply().state_dict() | {"n_windows": 1})


def test_reversed_views_of_events_are_taken(rng):
    """torch refuses arrays with negative strides, which a reversed view has."""
    problem = Linear(n_coefficients=1)
    events = problem.observed(200, rng)
    for view in (events[::-1], np.asfortranarray(events)[::-1]):
        assert np.array_equal(check_events(problem, view), view)
        assert np.isfinite(floor_step(problem, [0.1], view, n_simulated=1000)).all()
        with Trainer(problem, Settings(n_members=1, n_events=64), view, n_steps=2) as trainer:
            assert trainer.run().step == 2


@pytest.mark.parametrize("door", [fit_likelihood, lambda problem, events: floor_step(problem, [0.1], events)])
def test_the_class_of_a_problem_is_refused_in_words(rng, door):
    with pytest.raises(TypeError, match=r"Linear is a class; an object of it is needed. Type Linear\(\)"):
        door(Linear, Linear().observed(200, rng))

"""The schedules of the ring, simulated for all ranks at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sagips_kit._partition import chunk_bounds
from sagips_kit.ranks.topology import (
    all_gather_steps,
    exponential_peers,
    groups,
    hypercube_partners,
    joined,
    numbered,
    reduce_scatter_steps,
    ring_neighbours,
)

sizes = st.integers(1, 20)


@given(size=sizes)
def test_ring_visits_every_rank_once(size):
    way = [0]
    for _ in range(size):
        way.append(ring_neighbours(way[-1], size)[1])
    assert sorted(way[:-1]) == list(range(size)) and way[-1] == 0


@given(size=sizes, data=st.data())
def test_neighbours_agree_on_each_other(size, data):
    rank = data.draw(st.integers(0, size - 1))
    before, after = ring_neighbours(rank, size)
    assert ring_neighbours(before, size)[1] == rank == ring_neighbours(after, size)[0]


@given(n_items=st.integers(0, 1000), n_chunks=st.integers(1, 50))
def test_chunks_tile_the_range_evenly(n_items, n_chunks):
    bounds = chunk_bounds(n_items, n_chunks)
    assert len(bounds) == n_chunks
    assert [item for start, stop in bounds for item in range(start, stop)] == list(range(n_items))
    lengths = [stop - start for start, stop in bounds]
    assert max(lengths) - min(lengths) <= 1


def pass_around(buffers, bounds, steps, receive):
    """Each rank sends a chunk to its successor and processes the chunk that it receives, all at the same time."""
    size = len(buffers)
    for k in range(size - 1):
        sent = [buffers[rank][slice(*bounds[steps(rank, size)[k][0]])].copy() for rank in range(size)]
        for rank in range(size):
            before, _ = ring_neighbours(rank, size)
            # The chunk that arrives must be the chunk that this rank expects.
            assert steps(before, size)[k][0] == steps(rank, size)[k][1]
            receive(buffers[rank][slice(*bounds[steps(rank, size)[k][1]])], sent[before])


@given(size=sizes, n_items=st.integers(0, 60), seed=st.integers(0, 99))
def test_both_schedules_leave_the_exact_sum_on_every_rank(size, n_items, seed):
    buffers = np.random.default_rng(seed).integers(-(10**6), 10**6, (size, n_items))
    expected = buffers.sum(0)
    bounds = chunk_bounds(n_items, size)
    pass_around(buffers, bounds, reduce_scatter_steps, lambda mine, other: np.add(mine, other, out=mine))
    owned = [slice(*bounds[(rank + 1) % size]) for rank in range(size)]
    for rank in range(size):
        np.testing.assert_array_equal(buffers[rank][owned[rank]], expected[owned[rank]])
    pass_around(buffers, bounds, all_gather_steps, np.copyto)
    np.testing.assert_array_equal(buffers, np.broadcast_to(expected, buffers.shape))


@given(size=sizes)
def test_a_rank_sends_every_chunk_but_one_in_each_half(size):
    for steps in (reduce_scatter_steps, all_gather_steps):
        sent = [out for out, _ in steps(size // 2, size)]
        assert len(sent) == len(set(sent)) == size - 1


@given(size=sizes)
def test_neighbours_on_the_hypercube_are_mutual(size):
    corners = {hypercube_partners(rank, size)[0] for rank in range(size)}
    assert len(corners) & (len(corners) - 1) == 0 and 2 * len(corners) > size
    for rank in corners:
        corner, partners = hypercube_partners(rank, size)
        assert corner == rank and 2 ** len(partners) == len(corners)
        assert all(rank in hypercube_partners(partner, size)[1] for partner in partners)


@given(size=sizes, turn=st.integers(0, 30))
def test_exponential_peers_send_and_receive_once(size, turn):
    peers = [exponential_peers(rank, size, turn) for rank in range(size)]
    assert sorted(dest for _, dest in peers) == list(range(size))
    assert all(peers[source][1] == rank for rank, (source, _) in enumerate(peers))


@given(power=st.integers(0, 5), seed=st.integers(0, 9))
def test_exponential_graph_ends_with_the_mean(power, seed):
    size = 2**power
    numbers = np.random.default_rng(seed).integers(0, 1000, size).astype(float)
    mean = numbers.mean()
    for turn in range(power):
        sources = [exponential_peers(rank, size, turn)[0] for rank in range(size)]
        numbers = (numbers + numbers[sources]) / 2
    np.testing.assert_array_equal(numbers, mean)


@given(size=sizes, group_size=st.integers(1, 25))
def test_groups_are_consecutive_and_full_except_the_last(size, group_size):
    found = groups(size, group_size)
    assert [rank for group in found for rank in group] == list(range(size))
    assert all(len(group) == group_size for group in found[:-1]) and 1 <= len(found[-1]) <= group_size


@given(data=st.data(), size=sizes)
def test_joined_partitions_merge_overlapping_classes(data, size):
    partition = st.lists(st.integers(0, 5), min_size=size, max_size=size).map(numbered)
    partitions = data.draw(st.lists(partition, min_size=1, max_size=3))
    result = joined(partitions)
    assert set(result) == set(range(len(set(result))))
    # The transitive closure of all pairs, by brute force.
    linked = np.zeros((size, size), bool)
    for labels in partitions:
        linked |= np.equal.outer(labels, labels)
    for _ in range(size):
        linked = linked | (linked @ linked)
    np.testing.assert_array_equal(np.equal.outer(result, result), linked)


def test_a_partition_that_is_not_known_matters_unless_all_is_one_class():
    assert joined([None, (0, 0, 0)]) == (0, 0, 0)
    assert joined([None, (0, 1, 1)]) is None
    assert joined([None]) is None

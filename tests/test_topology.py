"""The schedules of the ring, played for all ranks at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sagips_kit.topology import all_gather_steps, chunk_bounds, reduce_scatter_steps, ring_neighbours

sizes = st.integers(1, 20)


@given(size=sizes)
def test_ring_visits_every_rank_once(size):
    way = [0]
    for _ in range(size):
        way.append(ring_neighbours(way[-1], size)[1])
    assert sorted(way[:-1]) == list(range(size)) and way[-1] == 0


@given(size=sizes, data=st.data())
def test_neighbours_know_each_other(size, data):
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
    """Every rank sends a chunk to the next one and treats what it gets, all in the same moment."""
    size = len(buffers)
    for k in range(size - 1):
        sent = [buffers[rank][slice(*bounds[steps(rank, size)[k][0]])].copy() for rank in range(size)]
        for rank in range(size):
            before, _ = ring_neighbours(rank, size)
            # What arrives must be the chunk that this rank expects.
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

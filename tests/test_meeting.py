"""The mean in shared memory: the bits of a ring of messages, and two things to wait for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagips_kit._partition import chunk_bounds
from sagips_kit.ranks.shared_mean import Meeting, meeting_bytes
from sagips_kit.ranks.topology import all_gather_steps, reduce_scatter_steps


class Memory:
    """What `World.share` gives, without MPI."""

    def __init__(self, size, n_bytes):
        self.of_ranks = [np.zeros(n_bytes, np.uint8) for _ in range(size)]

    def fence(self):
        pass


def open_meeting(size, n_items, dtype=np.float32):
    memory = Memory(size, meeting_bytes(n_items, dtype))
    return [Meeting(memory, rank, size, n_items, dtype) for rank in range(size)]


def sum_around_a_ring(buffers):
    """All ranks' buffers after a reduce-scatter and an all-gather by messages."""
    size = len(buffers)
    chunks = [[buffer[start:stop].copy() for start, stop in chunk_bounds(buffer.size, size)] for buffer in buffers]
    for k in range(size - 1):
        sent = [chunks[rank][reduce_scatter_steps(rank, size)[k][0]].copy() for rank in range(size)]
        for rank in range(size):
            chunks[rank][reduce_scatter_steps(rank, size)[k][1]] += sent[rank - 1]
    for k in range(size - 1):
        sent = [chunks[rank][all_gather_steps(rank, size)[k][0]].copy() for rank in range(size)]
        for rank in range(size):
            chunks[rank][all_gather_steps(rank, size)[k][1]][:] = sent[rank - 1]
    return [np.concatenate(of_rank) for of_rank in chunks]


@given(size=st.integers(2, 9), n_items=st.integers(1, 40), seed=st.integers(0, 99))
def test_sums_have_the_bits_of_a_ring_of_messages(size, n_items, seed):
    rng = np.random.default_rng(seed)
    meeting = open_meeting(size, n_items)
    for _ in range(2):
        buffers = rng.normal(size=(size, n_items)).astype(np.float32)
        for rank, one in enumerate(meeting):
            one.bring(buffers[rank])
        for one in meeting:
            one.add_up()
        for one, expected in zip(meeting, sum_around_a_ring(buffers), strict=True):
            out = np.empty(n_items, np.float32)
            one.collect(out)
            np.testing.assert_array_equal(out, expected)


def test_ranks_wait_for_all_to_bring_and_for_all_to_add_up():
    meeting = open_meeting(3, 5)
    for rank, one in enumerate(meeting):
        assert not any(other.all_brought() for other in meeting[:rank])
        one.bring(np.ones(5))
    assert all(one.all_brought() for one in meeting)
    assert meeting[0].late() == [0, 1, 2]
    for one in (meeting[0], meeting[2]):
        one.add_up()
        assert not one.all_added()
    assert meeting[0].late() == [1]
    meeting[1].add_up()
    assert all(one.all_added() for one in meeting)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_is_as_large_as_said(dtype):
    meeting = open_meeting(2, 7, dtype)
    for one in meeting:
        one.bring(np.arange(7.0))
    for one in meeting:
        one.add_up()
    out = np.empty(7, dtype)
    meeting[0].collect(out)
    np.testing.assert_array_equal(out, 2 * np.arange(7.0))

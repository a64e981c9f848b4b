"""The mean in shared memory: it has the same bits as a ring of messages, and waits twice."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_slots import Memory

from sagips_kit._partition import chunk_bounds
from sagips_kit.ranks import memory as ranks_memory
from sagips_kit.ranks.memory import require_room
from sagips_kit.ranks.shared_mean import SharedMean, shared_mean_bytes
from sagips_kit.ranks.topology import all_gather_steps, reduce_scatter_steps


def open_ranks(size, n_items, dtype=np.float32):
    memory = Memory(size, shared_mean_bytes(n_items, dtype))
    return [SharedMean(memory, rank, size, n_items, dtype) for rank in range(size)]


def mean_around_a_ring(buffers):
    """The buffers of all ranks after a reduce-scatter and an all-gather by messages, and a division."""
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
    return [np.concatenate(of_rank) / size for of_rank in chunks]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(size=st.integers(2, 9), n_items=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_mean_has_the_same_bits_as_a_ring_of_messages(dtype, size, n_items, seed):
    rng = np.random.default_rng(seed)
    ranks = open_ranks(size, n_items, dtype)
    for _ in range(2):
        buffers = rng.normal(size=(size, n_items)).astype(dtype)
        for rank, one in enumerate(ranks):
            one.put(buffers[rank])
        for one in ranks:
            one.reduce()
        for one, expected in zip(ranks, mean_around_a_ring(buffers), strict=True):
            out = np.empty(n_items, dtype)
            one.get(out)
            np.testing.assert_array_equal(out, expected)


def test_ranks_wait_for_all_buffers_and_for_all_chunks():
    ranks = open_ranks(3, 5)
    for rank, one in enumerate(ranks):
        assert not any(other.are_all_put() for other in ranks[:rank])
        one.put(np.ones(5))
    assert all(one.are_all_put() for one in ranks)
    assert ranks[0].late() == [0, 1, 2]
    for one in (ranks[0], ranks[2]):
        one.reduce()
        assert not one.are_all_reduced()
    assert ranks[0].late() == [1]
    ranks[1].reduce()
    assert all(one.are_all_reduced() for one in ranks)


def test_shared_memory_that_does_not_fit_is_refused_before_it_is_used(monkeypatch):
    """The system grants it, and ends the program by a bus error where it is written to."""
    status = os.statvfs("/dev/shm")
    left = status.f_bavail * status.f_frsize
    require_room(left // 2)
    with pytest.raises(MemoryError, match=r"need \d+ MB of shared memory, and /dev/shm has \d+ MB left.*--shm-size=2g"):
        require_room(2 * left + 1)
    monkeypatch.setattr(ranks_memory, "_SHARED", "/nowhere")
    require_room(2 * left + 1)

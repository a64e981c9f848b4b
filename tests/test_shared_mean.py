"""The mean in shared memory: it has the same bits as a ring of messages, and waits twice."""

import mmap
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi_launcher import TESTS, command, environment
from test_slots import Memory

from sagips_kit._partition import chunk_bounds
from sagips_kit.cli import main
from sagips_kit.ranks import segments
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


SMALL = "mount -t tmpfs -o size={size} tmpfs /dev/shm"


def in_small_memory(size, *command):
    """Run a command on a machine whose shared memory has that size."""
    unshare = ["unshare", *([] if os.getuid() == 0 else ["--map-root-user"]), "--mount", "sh", "-c"]
    if subprocess.run([*unshare, "mount -t tmpfs tmpfs /dev/shm"], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let its users mount anything")
    line = f"{SMALL.format(size=size)} && exec {shlex.join(map(str, command))}"
    return subprocess.run([*unshare, line], capture_output=True, text=True, timeout=100, env=environment(), check=False)


@pytest.mark.mpi
def test_ranks_send_messages_where_shared_memory_is_too_small(tmp_path):
    """The system grants it, and ends the program by a bus error where it is written to."""
    script = TESTS / "mpi" / "small_memory.py"
    done = in_small_memory("3m", *command(2, "-m", "mpi4py", script, tmp_path / "small"))
    assert done.returncode == 0, done.stderr
    warning = r"node need \d+ MB of shared memory, and /dev/shm has \d+ MB left.*--shm-size=2g.*ranks send messages"
    assert re.search(warning, done.stderr)
    large = subprocess.run(command(2, "-m", "mpi4py", script, tmp_path / "large"), env=environment(), timeout=100)
    assert large.returncode == 0
    for rank in range(2):
        small, large = (np.load(tmp_path / f"{name}{rank}.npz") for name in ("small", "large"))
        assert set(small) == {"ring", "one-sided"} and all(np.array_equal(small[name], large[name]) for name in small)


@pytest.mark.mpi
def test_mpi_is_not_started_without_shared_memory():
    done = in_small_memory("512k", sys.executable, "-c", "from sagips_kit import World; World.from_mpi()")
    assert done.returncode == 1 and "MemoryError: The ranks of this node need 1 MB of shared" in done.stderr
    code = "from sagips_kit import connect; connect('local', 4)"
    done = in_small_memory("3m", sys.executable, "-c", code)
    assert done.returncode == 1 and "MemoryError: The ranks of this node need 4 MB of shared" in done.stderr


def test_shared_memory_of_killed_programs_is_found_and_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segments, "SHARED", tmp_path)
    for name in ("mpich_shm_1", "mpich_shm_open", "mpich_shm_mapped", "of_another_program"):
        (tmp_path / name).write_bytes(b"1" * 100_000)
    assert not segments.unused()  # they are too young
    monkeypatch.setattr(segments, "_LEAST_AGE_S", -1.0)
    with (tmp_path / "mpich_shm_mapped").open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    with (tmp_path / "mpich_shm_open").open("rb"):
        assert [one.path.name for one in segments.unused()] == ["mpich_shm_1"]
        assert main(["engines"]) == 0 and "1 file of killed programs" in capsys.readouterr().out
        assert main(["engines", "--clear"]) == 0 and "0 MB: removed" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"mpich_shm_open", "mpich_shm_mapped", "of_another_program"}
    memory.close()

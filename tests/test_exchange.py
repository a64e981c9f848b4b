"""Exchanges under a real mpiexec: the contract on several ranks, and ranks that fail or stall.

The contract itself is in `mpi/test_exchange_contract.py`, and how chunks go around in `test_topology.py`.
"""

import json
import pickle
import queue
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi_launcher import TESTS, mpiexec

from sagips_kit import Ring
from sagips_kit.exchange import Exchange
from sagips_kit.world import PeerError, World


@pytest.mark.mpi
@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_contract_under_mpiexec(n_ranks):
    contract = TESTS / "mpi" / "test_exchange_contract.py"
    done = mpiexec(n_ranks, "-m", "mpi4py", "-m", "pytest", contract, "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    # Every rank ran all of it, none by itself.
    assert done.stdout.count(" passed in ") == n_ranks


def play(tmp_path, n_ranks, name, how, n_weights):
    """Let rank 1 misbehave: what each rank saw, list of dict."""
    done = mpiexec(n_ranks, TESTS / "mpi" / "misbehave.py", tmp_path, name, how, n_weights, timeout=60)
    assert done.returncode == 0, done.stdout
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(n_ranks)]


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("n_ranks", "name", "n_weights"),
    [(2, "Ring", 50_000), (3, "Ring", 1_000_000), (3, "AllReduce", 10)],
)
def test_a_rank_that_raises_ends_the_others_within_seconds(tmp_path, n_ranks, name, n_weights):
    seen = play(tmp_path, n_ranks, name, "raise", n_weights)
    assert seen[1]["error"] == "ValueError"
    for other in seen[:1] + seen[2:]:
        assert (other["error"], other["rank"]) == ("PeerError", 1)
        assert "rank 1 on " in other["text"] and other["text"].endswith("failed: ValueError: no such magnet")
        assert other["seconds"] < 3


@pytest.mark.mpi
def test_a_rank_that_stalls_is_waited_for_no_longer_than_the_timeout(tmp_path):
    # With messages so large that they do not leave before somebody receives them.
    seen = play(tmp_path, 3, "Ring", "stall", 1_000_000)
    for rank in seen:
        assert rank["error"] == "PeerError"
        assert re.search(r"waited 2 s for rank \d, before this one on the ring, in step 3 and nothing", rank["text"])
    # Rank 0 or 2 gave up first; the one that stalled learns on its return that they have left.
    assert None in (seen[0]["rank"], seen[2]["rank"]) and seen[1]["rank"] in (0, 2)
    assert 1.4 < min(seen[0]["seconds"], seen[2]["seconds"]) < 3.5


class Mail:
    """An MPI communicator in small: threads play ranks, and messages take random time."""

    def __init__(self):
        self.boxes = defaultdict(queue.Queue)

    def of(self, rank):
        return _MailOfRank(self.boxes, rank)


class _MailOfRank:
    def __init__(self, boxes, rank):
        self.boxes, self.rank = boxes, rank

    def Isend(self, buffer, dest, tag):
        return partial(self.boxes[self.rank, dest, tag].put, buffer.copy())

    def Irecv(self, buffer, source, tag):
        return lambda: np.copyto(buffer, self.boxes[source, self.rank, tag].get(timeout=10))


class ThreadWorld:
    """What a channel needs of a world."""

    def __init__(self, rank, size, mail, random):
        self.rank, self.size, self.comm, self._random = rank, size, mail.of(rank), random

    def wait(self, requests, why):
        # Messages leave first, since these sends and receives block; otherwise in any order and at any time.
        for request in reversed(requests):
            time.sleep(self._random.choice([0, 1e-4, 1e-3]))
            request()
        return 0.0


@settings(max_examples=15)
@given(size=st.integers(2, 7), n_weights=st.integers(1, 30), seed=st.integers(0, 99))
def test_ring_in_random_interleavings(size, n_weights, seed):
    mail, random = Mail(), np.random.default_rng(seed)
    buffers = torch.as_tensor(random.integers(-1000, 1000, (3, size, 2, n_weights)), dtype=torch.float64)
    expected = buffers.sum(1) / size
    mixed = []

    def rank_loop(rank, random):
        with Ring().open(ThreadWorld(rank, size, mail, random), buffers[0, 0]) as channel:
            mixed.extend(channel.mix_(buffers[step, rank], step) for step in range(3))

    threads = [threading.Thread(target=rank_loop, args=args) for args in enumerate(random.spawn(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(mixed) == 3 * size
    for rank in range(size):
        assert torch.equal(buffers[:, rank], expected)


def test_exchange_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Exchange()


def test_world_alone_is_one_rank_that_waits_for_nobody():
    world = World.alone("cpu")
    assert (world.rank, world.size, world.comm) == (0, 1, None)
    world.barrier()
    world.announce_failure(ValueError("nobody listens"))
    with world.rank_0_first("nobody"):
        pass


def test_a_lone_process_never_starts_mpi():
    lines = (
        "import sys, torch",
        "from sagips_kit import AllReduce, Independent, Ring, World",
        "world = World.here()",
        "for exchange in (AllReduce(), Independent(), Ring()):",
        "    exchange.open(world, torch.ones(1, 3)).mix_(torch.ones(1, 3), 0)",
        "world.barrier()",
        "print(world.size, [name for name in sys.modules if name.startswith('mpi4py')])",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 []\n", done.stderr


def test_peer_error_keeps_its_rank_through_pickle():
    error = pickle.loads(pickle.dumps(PeerError("Stopped because rank 3 failed", 3)))
    assert (str(error), error.rank) == ("Stopped because rank 3 failed", 3)

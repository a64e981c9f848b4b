"""Exchanges under a real mpiexec: the contract on several ranks, and ranks that fail or stall.

The contract itself is in `mpi/test_exchange_contract.py`, and the schedules of chunks are in `test_topology.py`.
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

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modes import MODES, numbers, rounding
from mpi_launcher import APART, TESTS, mpiexec
from test_slots import Memory

from sagips_kit.exchange import AllReduce, Chain, Every, Exchange, Exponential, Leaders, OneSided, Ring, Within
from sagips_kit.ranks import device_group
from sagips_kit.ranks.topology import groups
from sagips_kit.ranks.world import PeerError, World


@pytest.mark.mpi
@pytest.mark.parametrize(("n_ranks", "env"), [(1, {}), (2, {}), (4, {}), (8, {}), (4, APART)])
def test_contract_under_mpiexec(nest, n_ranks, env):
    contract = TESTS / "mpi" / "test_exchange_contract.py"
    # Packages with plugins have been imported before pytest could rewrite their assertions, which are not used here.
    options = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
    done = mpiexec(n_ranks, *nest.stub, "-m", "mpi4py", "-m", "pytest", contract, *options, env=env)
    assert done.returncode == 0, done.stdout


def play(tmp_path, n_ranks, name, how, n_weights, env=None):
    """Let rank 1 misbehave; returns what each rank saw, list of dict."""
    script = TESTS / "mpi" / "misbehave.py"
    done = mpiexec(n_ranks, script, tmp_path, name, how, n_weights, timeout=60, env=env)
    assert done.returncode == 0, done.stdout
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(n_ranks)]


_WAITING = "OneSided(payload='gradient', max_staleness=0, beyond='wait')"
_NEVER_WAITING = "OneSided(payload='gradient')"


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("n_ranks", "name", "n_weights", "env"),
    [
        (3, "Ring()", 50_000, {}),
        (2, "Ring()", 50_000, APART),
        (3, "Ring()", 1_000_000, APART),
        (3, "AllReduce()", 10, {}),
        (3, "AllReduce(library='torch')", 1_000_000, {}),
        (4, "Chain(Within(Ring(), size=2), Leaders(Ring(), size=2))", 10, {}),
        (3, _WAITING, 10, {}),
        (3, _WAITING, 10, APART),
    ],
)
def test_a_rank_that_raises_ends_the_others_within_seconds(tmp_path, n_ranks, name, n_weights, env):
    seen = play(tmp_path, n_ranks, name, "raise", n_weights, env)
    assert seen[1]["error"] == "ValueError"
    for other in seen[:1] + seen[2:]:
        assert (other["error"], other["rank"]) == ("PeerError", 1)
        assert "rank 1 on " in other["text"] and other["text"].endswith("failed: ValueError: no such magnet")
        assert other["seconds"] < 3


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("env", "whom"),
    [({}, r"rank 1 on \S+ \(on the same ring,"), (APART, r"rank \d on \S+ \(its predecessor on the ring,")],
)
def test_ranks_wait_for_a_stalled_rank_no_longer_than_the_timeout(tmp_path, env, whom):
    # The messages are so large that they are not sent before a rank receives them.
    seen = play(tmp_path, 3, "Ring()", "stall", 1_000_000, env)
    assert [rank["error"] for rank in seen] == ["PeerError"] * 3
    # Rank 0 or 2 gives up first; the other one, and later the stalled rank, receive its notice.
    first = [rank for rank in (seen[0], seen[2]) if rank["rank"] is None]
    assert first and seen[1]["rank"] in (0, 2)
    for rank in first:
        assert re.match(rf"Rank \d on \S+ waited 2 s for {whom} step 3\) in vain: some rank stalled", rank["text"])
        assert 1.4 < rank["seconds"] < 3.5


@pytest.mark.mpi
@pytest.mark.parametrize("env", [{}, APART])
def test_a_waiting_one_sided_rank_names_the_rank_it_waits_for(tmp_path, env):
    seen = play(tmp_path, 3, _WAITING, "stall", 10, env)
    first = [rank for rank in (seen[0], seen[2]) if rank["rank"] is None]
    assert first
    for rank in first:
        assert re.search(r"waited 2 s for rank 1 on \S+ \(which published step 2 last, step 3\)", rank["text"])


@pytest.mark.mpi
@pytest.mark.parametrize("env", [{}, APART])
def test_one_sided_ranks_continue_without_one_that_pauses(tmp_path, env):
    seen = play(tmp_path, 3, _NEVER_WAITING, "pause", 10, env)
    assert [rank["error"] for rank in seen] == [None] * 3
    assert [rank["steps"] for rank in seen] == [6] * 3
    assert max(seen[0]["seconds"], seen[2]["seconds"]) < 1


@pytest.mark.mpi
def test_one_sided_ranks_that_continued_without_one_report_it_at_the_end(tmp_path):
    seen = play(tmp_path, 3, _NEVER_WAITING, "stall", 10)
    assert seen[0]["steps"] == seen[2]["steps"] == 6
    first = [rank for rank in (seen[0], seen[2]) if rank["rank"] is None]
    assert first
    for rank in first:
        assert re.match(r"rank 1 on \S+ did not finish: nothing was received for 2 s", rank["text"])


def test_a_long_wait_is_reported_before_it_ends_the_run(caplog):
    world = World.alone("cpu")
    world.comm, world.report_s, world.timeout_s, world.look_for_failures = object(), 0.05, 0.2, lambda: None
    world.hosts = ("here",)
    with pytest.raises(PeerError, match=r"waited 0 s for rank 3 \(step 7\) in vain: some rank stalled or left the run"):
        world.wait(lambda: False, lambda: "rank 3 (step 7)")
    assert [record.getMessage() for record in caplog.records] == [
        "Rank 0 on here waited 0 s for rank 3 (step 7) so far. The run ends with an error after 0 s."
    ]


def test_a_group_announces_failures_to_the_ranks_of_the_whole_run():
    """Ranks look for notices on the communicator of the whole run, not on that of the group."""
    whole, group, announced = World.alone("cpu"), World.alone("cpu"), []
    group.whole, whole.announce_failure = whole, announced.append
    error = ValueError("no such magnet")
    group.announce_failure(error)
    assert announced == [error]


class _MailOfRank:
    """A minimal MPI communicator: threads act as ranks, and messages take a random time."""

    def __init__(self, boxes, rank, ranks=None):
        self.boxes, self.rank, self.ranks = boxes, rank, ranks

    def _box(self, source, dest, tag):
        names = (source, dest) if self.ranks is None else (self.ranks[source], self.ranks[dest])
        return self.boxes[(*names, tag, self.ranks)]

    def Isend(self, buffer, dest, tag):
        # A copy: the buffer may change before the message is received.
        self._box(self.rank, dest, tag).put(buffer.copy())
        return lambda: None

    def Irecv(self, buffer, source, tag):
        return lambda: np.copyto(buffer, self._box(source, self.rank, tag).get(timeout=10))

    def Ibcast(self, buffer):
        if self.rank:
            return self.Irecv(buffer, 0, "broadcast")
        copy = buffer.copy()
        return lambda: [self._box(0, dest, "broadcast").put(copy) for dest in range(1, len(self.ranks))]

    def Iallreduce(self, _, buffer, op):
        peers = [rank for rank in range(len(self.ranks)) if rank != self.rank]
        copy = buffer.copy()

        def add_up():
            for peer in peers:
                self._box(self.rank, peer, "sum").put(copy)
            total = [copy, *(self._box(peer, self.rank, "sum").get(timeout=10) for peer in peers)]
            np.copyto(buffer, sum(total))

        return add_up


class ThreadWorld:
    """The part of a World that channels use."""

    device_buffers = False

    def __init__(self, rank, ranks, boxes, random):
        self.rank, self.size, self.ranks, self.boxes, self._random = rank, len(ranks), ranks, boxes, random
        self.comm = _MailOfRank(boxes, rank, ranks)

    def communicator(self):
        return self.comm

    def name(self, rank):
        return f"rank {rank}"

    def groups(self, size=None):
        return groups(self.size, size or self.size)

    def is_one_node(self):
        return False

    def part(self, parts):
        mine = next((part for part in parts if self.rank in part), None)
        if mine is not None:
            ranks = tuple(self.ranks[rank] for rank in mine)
            return type(self)(mine.index(self.rank), ranks, self.boxes, self._random)

    def close(self):
        pass

    def wait(self, until, whom):
        # Send first, because these sends and receives block; otherwise use any order and any time.
        for request in reversed(until):
            time.sleep(self._random.choice([0, 1e-4, 1e-3]))
            request()
        return 0.0


class SharingWorld(ThreadWorld):
    """Ranks of one node, which share memory."""

    def is_one_node(self):
        return True

    def share(self, n_bytes):
        box = self.boxes[self.ranks, n_bytes]
        with box.mutex:  # one memory for all ranks
            if not box.queue:
                box.queue.append(Memory(self.size, n_bytes))
        return box.queue[0]

    def look_for_failures(self):
        pass

    def wait(self, until, whom, timeout_s=None):
        if not callable(until):
            return super().wait(until, whom)
        while not until():
            time.sleep(self._random.choice([0, 1e-4, 1e-3]))
        return 0.0


def play_in_threads(size, seed, rank_loop, kind=ThreadWorld):
    """Run `rank_loop(world)` for all ranks at the same time; returns their results, a list."""
    random, boxes, results = np.random.default_rng(seed), defaultdict(queue.Queue), [None] * size

    def one(rank, random):
        results[rank] = rank_loop(kind(rank, tuple(range(size)), boxes, random))

    threads = [threading.Thread(target=one, args=args) for args in enumerate(random.spawn(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return results


# Those of PyTorch need processes, not threads
TWO_SIDED = sorted(name for name in MODES if "one-sided" not in name and "devices" not in name)


@pytest.mark.parametrize("name", TWO_SIDED)
@settings(max_examples=6)
@given(size=st.integers(1, 8), n_weights=st.integers(1, 30), seed=st.integers(0, 99))
def test_modes_in_random_interleavings(name, size, n_weights, seed):
    pytest.importorskip("mpi4py")
    exchange, *plays = MODES[name]
    shape, n_steps = (2, n_weights), 4

    def rank_loop(world):
        mixed = []
        with exchange.open(world, torch.empty(shape, dtype=torch.float64)) as channel:
            for step in range(n_steps):
                buffers = [numbers(world.rank, shape, torch.float64, step) for _ in range(2)]
                channel.mix_(buffers[0], step)
                channel.mix_weights_(buffers[1], step)
                mixed.append(buffers)
        return mixed

    results = play_in_threads(size, seed, rank_loop)
    for step in range(n_steps):
        given = [numbers(rank, shape, torch.float64, step) for rank in range(size)]
        for k, play in enumerate(plays):
            for rank, expected in enumerate(play(given, step)):
                torch.testing.assert_close(results[rank][step][k], expected, rtol=rounding(name) or 1e-15, atol=0)


@pytest.mark.parametrize("outer", [Ring(payload="weights"), OneSided()], ids=str)
@settings(max_examples=15)
@given(seed=st.integers(0, 99))
def test_groups_of_ranks_out_of_step_lose_no_update(outer, seed):
    size, period, n_steps = 4, 3, 12
    exchange = Chain(Within(OneSided(), size=2), Every(period, Leaders(outer, size=2)))
    updates = np.random.default_rng(seed).normal(size=(size, n_steps, 2, 5))
    together = threading.Barrier(size)

    def rank_loop(world):
        weights = torch.zeros(2, 5, dtype=torch.float64)
        channel = exchange.open(world, weights)
        for step in range(n_steps):
            time.sleep(1e-3 * world.rank)  # a late rank has received more than a leader that is on time
            weights += torch.as_tensor(updates[world.rank, step])
            channel.mix_weights_(weights, step)
        for step in range(n_steps, n_steps + 2 * period):  # no more updates: all ranks should end at the same weights
            together.wait(timeout=30)
            channel.mix_weights_(weights, step)
        together.wait(timeout=30)
        return weights

    expected = torch.as_tensor(updates.sum(1).mean(0))
    for weights in play_in_threads(size, seed, rank_loop, SharingWorld):
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("inner", "mixes_deltas"),
    [
        (Ring(), False),
        (OneSided(payload="gradient"), False),
        (OneSided(), True),
        (Every(2, OneSided()), True),
        (Chain(AllReduce(), Every(2, Ring(), otherwise=Leaders(OneSided(), size=1))), True),
    ],
    ids=str,
)
def test_leaders_pass_on_their_change_only_after_one_sided_updates(inner, mixes_deltas):
    exchange = Chain(Within(inner, size=2), Every(3, Leaders(Ring(payload="weights"), size=2)))
    assert exchange.mixes_deltas == mixes_deltas
    world = ThreadWorld(0, (0, 1, 2, 3), defaultdict(queue.Queue), None)
    leaders = exchange.open(world, torch.empty(1, 1)).parts["1"].parts["part"]
    assert leaders._keeps_deltas == mixes_deltas


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_a_resumed_one_sided_exchange_loses_no_update(seed):
    size, n_steps, boxes_of_resumed = 3, 4, defaultdict(queue.Queue)
    updates = np.random.default_rng(seed).normal(size=(size, 2, n_steps, 1, 6))
    together = threading.Barrier(size)

    def rank_loop(world):
        weights, state = torch.zeros(1, 6, dtype=torch.float64), {}
        resumed = SharingWorld(world.rank, world.ranks, boxes_of_resumed, world._random)
        for part, own_world in enumerate((world, resumed)):
            channel = OneSided().open(own_world, weights)
            channel.load_state_dict(state)
            for step in range(n_steps):
                time.sleep(world._random.choice([0, 1e-3]))
                weights += torch.as_tensor(updates[world.rank, part, step])
                channel.mix_weights_(weights, step)
            state = channel.state_dict()
            assert all(isinstance(item, torch.Tensor) for item in state.values())
        together.wait(timeout=30)
        channel.mix_weights_(weights, n_steps)
        return weights

    expected = torch.as_tensor(updates.sum((1, 2)).mean(0))
    for weights in play_in_threads(size, seed, rank_loop, SharingWorld):
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", [Ring, AllReduce, Exponential])
def test_an_outer_optimiser_that_would_do_nothing_is_refused(mode):
    with pytest.raises(ValueError, match=r"momentum = 0.9 and outer_rate = 0.5 belong to .* payload=\"updates\""):
        mode(momentum=0.9)


def test_replicas_of_many_ranks_are_counted_at_once():
    n_asked = []

    class Pairs(Exchange):
        def open(self, world, like):
            raise NotImplementedError

        def replicas(self, size):
            n_asked.append(size)
            return tuple(rank // 2 for rank in range(size))

    assert Pairs().n_replicas(400) == 200
    assert Pairs().replica(399, 400) == 199
    assert n_asked == [400, 400]


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


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        (
            [("a", "cuda", "GPU-1", ""), ("b", "cuda", "GPU-1", ""), ("a", "cuda", "GPU-1", "")],
            "ranks 0 and 2 share an accelerator of a, and NCCL needs one for each rank",
        ),
        ([("a", "cuda", "GPU-1", ""), ("a", "cpu", "", "")], "devices of different kinds .cpu, cuda.*SAGIPS_DEVICE"),
        ([("a", "xpu", "", "")] * 2, ""),  # which does not know its number
        ([("a", "cpu", "", "")] * 2, ""),
    ],
)
def test_ranks_that_pytorch_cannot_add_up_are_told_why(ranks, text):
    assert re.search(text, device_group._obstacle(ranks)) and bool(text) == bool(device_group._obstacle(ranks))


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="this PyTorch is for GPUs")
def test_a_device_without_a_library_of_pytorch_is_refused():
    world = World.alone("cpu")
    world.size = 2
    for device, reason in (("meta", "no library .* 'meta' .* only for cuda, xpu, cpu"), ("mps", "no library .* 'mps'")):
        assert re.match(f"rank 0: PyTorch has {reason}", device_group.obstacle(world, torch.device(device)))
    assert re.match("this PyTorch .* was built without NCCL, its", device_group._lacking(torch.device("cuda")))
    with pytest.raises(ValueError, match=r"AllReduce\(library=\"torch\"\): rank 0: .* Use the MPI library"):
        AllReduce(library="torch").open(world, torch.ones(1, 2, device="meta"))


_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.mpi
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=_gpu)])
def test_device_buffers_are_tried_before_they_are_used(device):
    done = mpiexec(2, TESTS / "mpi" / "device_buffers.py", device)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        has_them = re.fullmatch(r"rank \d has them", line)
        refusal = (
            rf"Device buffers cannot be used. Rank 0: (its device is '{device}'|its MPI library cannot|sending GPU)"
        )
        assert (has_them and device == "cuda") or re.match(refusal, line)


@pytest.mark.mpi
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=_gpu)])
def test_sums_on_devices_and_by_mpi_follow_each_other(device):
    done = mpiexec(2, TESTS / "mpi" / "on_devices.py", device)
    assert done.returncode == 0, done.stdout
    if device == "cuda" and torch.cuda.device_count() == 1:
        assert done.stdout.count("ranks 0 and 1 share an accelerator") == 2, done.stdout
    else:
        assert sorted(done.stdout.splitlines()) == [f"rank {rank} has [0.5] on {device}" for rank in range(2)]


def test_the_mpi_library_reports_whether_it_reads_gpus():
    mpi4py = pytest.importorskip("mpi4py")
    code = "from sagips_kit.ranks.accelerators import mpi_reads_gpus; print(mpi_reads_gpus())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout in ("True\n", "False\n"), (mpi4py.__version__, done.stderr)

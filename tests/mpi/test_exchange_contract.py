"""The contract of every exchange, for any number of ranks; the test of a new exchange inherits `ExchangeContract`.

Plain pytest checks the contract on a single rank; `tests/test_exchange.py` runs this file under mpiexec too.
"""

import json
import os
import pickle

import numpy as np
import psutil
import pytest
import torch
from modes import APART, MODES, numbers, rounding

from sagips_kit import Proxy, RunSpec, exchange
from sagips_kit.ranks.device_group import DeviceGroup
from sagips_kit.ranks.world import World


@pytest.fixture(scope="module")
def world():
    world = World.here()
    world.timeout_s = 10.0
    return world


def test_the_world_is_as_large_as_mpiexec_made_it(world):
    """A rank that does not find the others and forms a world of size 1 would pass all other tests."""
    assert world.size == int(os.environ.get("PMI_SIZE", "1"))


# The same on every rank and for every number of ranks
alone = pytest.mark.skipif(int(os.environ.get("PMI_SIZE", "1")) > 1, reason="has been tested on one rank")


class ExchangeContract:
    """Inherit from this class and set `mode` to a key of MODES; set `is_exact = False` if the mean is not exact."""

    mode = None
    is_exact = True

    @pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
    def dtype(self, request):
        return request.param

    @property
    def exchange(self):
        return MODES[self.mode][0]

    def check(self, world, shape, dtype, channel, step):
        """Mix gradient and weights as a trainer does, and compare with the expected values."""
        gradient = numbers(world.rank, shape, dtype, step)
        mixed = channel.mix_(gradient, step)
        self.compare(world, gradient, MODES[self.mode][1], step)
        wider = (shape[0], shape[1] + 3)
        weights = numbers(world.rank, wider, dtype, step)
        if channel.wants_weights(step):
            channel.mix_weights_(weights, step)
        self.compare(world, weights, MODES[self.mode][2], step)
        return mixed

    def compare(self, world, mixed, play, step):
        given = [numbers(rank, mixed.shape, mixed.dtype, step) for rank in range(world.size)]
        expected = play(given, step)[world.rank]
        if self.is_exact:
            # Integers have exact sums; only a division, such as by three, rounds.
            rtol = max(rounding(self.mode), 3e-7 if world.size % 3 == 0 else 0)
            torch.testing.assert_close(mixed, expected, rtol=rtol, atol=0)

    @alone
    def test_replicas_are_numbered(self):
        for size in range(1, 9):
            if self.exchange.replicas(size) is None:
                continue
            replicas = {self.exchange.replica(rank, size) for rank in range(size)}
            assert replicas == set(range(self.exchange.n_replicas(size)))

    @alone
    def test_a_single_rank_keeps_its_gradient(self, dtype):
        buffer = torch.randn(2, 5, dtype=dtype)
        given = buffer.clone()
        with self.exchange.open(World.alone("cpu"), buffer) as channel:
            for step in range(4):
                mixed = channel.mix_(buffer, step).then(channel.mix_weights_(buffer, step))
        assert torch.equal(buffer, given)
        assert (mixed.received, mixed.staleness) == (0, 0)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (4, 257), (2, 20_000)])
    def test_result_is_what_is_promised(self, world, shape, dtype):
        with self.exchange.open(world, torch.empty(shape, dtype=dtype)) as channel:
            for step in range(3):
                self.check(world, shape, dtype, channel, step)

    def test_buffer_keeps_shape_dtype_and_place(self, world, dtype):
        buffer = numbers(world.rank, (3, 11), dtype)
        address = buffer.data_ptr()
        with self.exchange.open(world, buffer) as channel:
            mixed = channel.mix_(buffer, 0)
        assert (buffer.shape, buffer.dtype, buffer.data_ptr()) == ((3, 11), dtype, address)
        assert mixed.waited_s >= 0 and mixed.staleness >= 0

    def test_steps_do_not_mix(self, world):
        with self.exchange.open(world, torch.empty(2, 13)) as channel:
            for step in range(20):
                self.check(world, (2, 13), torch.float32, channel, step)

    def test_channels_do_not_mix(self, world):
        shapes = [(2, 13), (1, 40)]
        channels = [self.exchange.open(world, torch.empty(shape)) for shape in shapes]
        for step in range(3):
            for channel, shape in zip(channels, shapes, strict=True):
                self.check(world, shape, torch.float32, channel, step)
        for channel in channels:
            channel.close()

    def test_start_and_finish_do_the_same_as_mix(self, world):
        shape = (2, 500)
        with self.exchange.open(world, torch.empty(shape)) as channel:
            for step in range(6):
                gradient = numbers(world.rank, shape, torch.float32, step)
                channel.start(gradient, step)
                for _ in range(world.rank):
                    channel.poll()
                with pytest.raises(RuntimeError, match=r"Call finish\(\) before"):
                    channel.start(gradient, step)
                channel.finish()
                self.compare(world, gradient, MODES[self.mode][1], step)
            with pytest.raises(RuntimeError, match=r"Call start\(buffer, step\) first"):
                channel.finish()

    def test_ranks_that_get_one_mean_get_the_same_bits(self, world):
        if not self.is_exact:
            pytest.skip("promises no exact mean")
        given = [torch.randn(3, 101, generator=torch.Generator().manual_seed(rank)) for rank in range(world.size)]
        buffer, expected = given[world.rank].clone(), MODES[self.mode][1](given, 0)
        with self.exchange.open(world, buffer) as channel:
            channel.mix_(buffer, 0)
        everyone = world.comm.allgather(buffer.numpy()) if world.comm else [buffer.numpy()]
        for rank in range(world.size):
            if torch.equal(expected[rank], expected[world.rank]):
                np.testing.assert_array_equal(everyone[rank], everyone[world.rank])

    @pytest.mark.parametrize(
        "wrong",
        [torch.ones(5, 4), torch.ones(20), torch.ones(4, 5, dtype=torch.float64), torch.ones(5, 4).T],
        ids=["shape", "flat", "dtype", "not contiguous"],
    )
    def test_another_buffer_is_refused_by_every_rank(self, world, wrong):
        with self.exchange.open(world, torch.empty(4, 5)) as channel:
            with pytest.raises(ValueError, match=r"contiguous one of shape \(4, 5\) and torch.float32") as caught:
                channel.mix_(wrong, 0)
            assert str(tuple(wrong.shape)) in str(caught.value) and str(wrong.dtype) in str(caught.value)
            # Nothing was sent, so the channel can still be used.
            channel.mix_(torch.ones(4, 5), 0)

    def test_closing_twice_is_harmless(self, world):
        channel = self.exchange.open(world, torch.empty(1, 3))
        channel.mix_(torch.ones(1, 3), 0)
        channel.close()
        channel.close()

    @alone
    def test_value_travels(self):
        assert eval(repr(self.exchange), vars(exchange)) == self.exchange
        spec = RunSpec(problem=Proxy(), store="a.zarr", exchange=self.exchange)
        assert RunSpec.from_dict(json.loads(spec.to_json())).exchange == self.exchange
        assert pickle.loads(pickle.dumps(self.exchange)) == self.exchange
        assert hash(pickle.loads(pickle.dumps(self.exchange))) == hash(self.exchange)


class TestIndependent(ExchangeContract):
    mode = "independent"


class TestAllReduce(ExchangeContract):
    mode = "all-reduce"


class TestRing(ExchangeContract):
    mode = "ring"


class TestWeights(ExchangeContract):
    mode = "weights"


class TestGroupedEnsemble(ExchangeContract):
    mode = "grouped ensemble"


class TestGrouped(ExchangeContract):
    mode = "grouped"


class TestHierarchical(ExchangeContract):
    mode = "hierarchical"


class TestPapersOuterRule(ExchangeContract):
    mode = "the paper's outer rule"


class TestHypercube(ExchangeContract):
    mode = "hypercube"


class TestOnDevices(ExchangeContract):
    mode = "on devices"

    def test_ports_are_for_this_machine_and_closed_at_the_end(self, world):
        before = listening()
        with self.exchange.open(world, torch.empty(1, 3)) as channel:
            channel.mix_(torch.ones(1, 3), 0)
            opened = listening() - before
            assert APART or {address for address, _ in opened} <= {"127.0.0.1"}
            assert world.size == 1 or world.rank > 0 or opened
        assert not listening() - before
        assert not torch.distributed.is_initialized()


def listening():
    """Addresses and ports at which this process can be reached."""
    connections = psutil.Process().net_connections("tcp")
    return {tuple(one.laddr) for one in connections if one.status == psutil.CONN_LISTEN}


class TestOnDevicesGrouped(ExchangeContract):
    """As if buffers were on an accelerator, out of reach of MPI: what it sends are copies."""

    mode = "on devices, grouped"

    @pytest.fixture(autouse=True)
    def out_of_reach(self, monkeypatch):
        monkeypatch.setattr(exchange.Channel, "in_reach_of_mpi", lambda self, flat, name: flat.clone())

    def test_what_pytorch_sums_is_no_copy(self, world, monkeypatch):
        summed, start = [], DeviceGroup.start
        buffer = numbers(world.rank, (2, 30), torch.float32)
        with self.exchange.open(world, buffer) as channel:
            monkeypatch.setattr(
                DeviceGroup, "start", lambda self, flat: summed.append(flat.data_ptr()) or start(self, flat)
            )
            channel.mix_(buffer, 0)
        assert set(summed) == ({buffer.data_ptr()} if world.size > 1 else set())


class TestExponential(ExchangeContract):
    mode = "exponential"


class TestByNode(ExchangeContract):
    mode = "by node"


class TestRingRounded(ExchangeContract):
    mode = "ring, rounded"


class TestHypercubeRounded(ExchangeContract):
    mode = "hypercube, rounded"


class TestOneSided(ExchangeContract):
    mode = "one-sided"
    is_exact = False


class TestOneSidedWaiting(ExchangeContract):
    mode = "one-sided, waiting"
    is_exact = False


class TestOneSidedGradients(ExchangeContract):
    mode = "one-sided gradients"
    is_exact = False


class TestOneSidedGrouped(ExchangeContract):
    mode = "one-sided, grouped"
    is_exact = False

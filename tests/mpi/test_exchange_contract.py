"""What every exchange promises, for any number of ranks; a new exchange inherits `ExchangeContract`.

With plain pytest a rank alone keeps the promises; `tests/test_exchange.py` starts this file under mpiexec too.
"""

import pickle

import numpy as np
import pytest
import torch

from sagips_kit import AllReduce, Independent, Proxy, Ring, RunSpec
from sagips_kit.world import World


@pytest.fixture(scope="module")
def world():
    world = World.here()
    world.timeout_s = 30.0
    return world


def numbers(rank, shape, dtype, step=0):
    """Whole numbers that tell rank, member, element and step, so that their sums are exact."""
    n_weights = shape[0] * shape[1]
    return (10_000 * (rank + 1) ** 2 + 7 * torch.arange(n_weights) + 1000 * step).to(dtype).view(shape)


class ExchangeContract:
    """Inherit, and set `exchange`."""

    exchange = None
    is_exact = True  # the result is the mean over all ranks of the replica, of this step

    @pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
    def dtype(self, request):
        return request.param

    def members(self, world):
        """The ranks of this one's replica."""
        replica = self.exchange.replica(world.rank, world.size)
        return [rank for rank in range(world.size) if self.exchange.replica(rank, world.size) == replica]

    def expected(self, world, shape, dtype, step=0):
        ranks = self.members(world)
        total = sum(numbers(rank, shape, torch.float64, step) for rank in ranks)
        return total.to(dtype) / torch.tensor(len(ranks), dtype=dtype)

    def test_replicas_are_numbered(self):
        for size in range(1, 9):
            replicas = {self.exchange.replica(rank, size) for rank in range(size)}
            assert replicas == set(range(self.exchange.n_replicas(size)))

    def test_a_single_rank_keeps_its_gradient(self, dtype):
        buffer = torch.randn(2, 5, dtype=dtype)
        given = buffer.clone()
        with self.exchange.open(World.alone("cpu"), buffer) as channel:
            mixed = channel.mix_(buffer, 0)
        assert torch.equal(buffer, given)
        assert (mixed.received, mixed.staleness) == (0, 0)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (1, 7), (4, 257), (2, 20_000)])
    def test_result_is_the_exact_mean(self, world, shape, dtype):
        if not self.is_exact:
            pytest.skip("promises no exact mean")
        buffer = numbers(world.rank, shape, dtype)
        with self.exchange.open(world, torch.empty(shape, dtype=dtype)) as channel:
            mixed = channel.mix_(buffer, 0)
        assert torch.equal(buffer, self.expected(world, shape, dtype))
        assert mixed.received == len(self.members(world)) - 1

    def test_buffer_keeps_shape_dtype_and_place(self, world, dtype):
        buffer = numbers(world.rank, (3, 11), dtype)
        address = buffer.data_ptr()
        with self.exchange.open(world, buffer) as channel:
            mixed = channel.mix_(buffer, 0)
        assert (buffer.shape, buffer.dtype, buffer.data_ptr()) == ((3, 11), dtype, address)
        assert mixed.waited_s >= 0 and mixed.staleness >= 0

    def test_steps_do_not_mix(self, world):
        shape = (2, 13)
        with self.exchange.open(world, torch.empty(shape)) as channel:
            for step in range(20):
                buffer = numbers(world.rank, shape, torch.float32, step)
                channel.mix_(buffer, step)
                if self.is_exact:
                    assert torch.equal(buffer, self.expected(world, shape, torch.float32, step))

    def test_channels_do_not_mix(self, world):
        shapes = [(2, 13), (1, 40)]
        channels = [self.exchange.open(world, torch.empty(shape)) for shape in shapes]
        for step in range(3):
            for channel, shape in zip(channels, shapes, strict=True):
                buffer = numbers(world.rank, shape, torch.float32, step)
                channel.mix_(buffer, step)
                if self.is_exact:
                    assert torch.equal(buffer, self.expected(world, shape, torch.float32, step))
        for channel in channels:
            channel.close()

    def test_ranks_of_a_replica_hold_the_same_bits(self, world):
        buffer = torch.randn(3, 101, generator=torch.Generator().manual_seed(world.rank))
        with self.exchange.open(world, buffer) as channel:
            channel.mix_(buffer, 0)
        everyone = world.comm.allgather(buffer.numpy()) if world.comm else [buffer.numpy()]
        for rank in self.members(world):
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
            # Nothing was sent, so the channel goes on.
            channel.mix_(torch.ones(4, 5), 0)

    def test_closing_twice_is_harmless(self, world):
        channel = self.exchange.open(world, torch.empty(1, 3))
        channel.mix_(torch.ones(1, 3), 0)
        channel.close()
        channel.close()

    def test_value_travels(self):
        spec = RunSpec(problem=Proxy(), store="a.zarr", exchange=self.exchange)
        assert RunSpec.from_dict(spec.to_dict()).exchange == self.exchange
        assert pickle.loads(pickle.dumps(self.exchange)) == self.exchange
        assert hash(pickle.loads(pickle.dumps(self.exchange))) == hash(self.exchange)


class TestIndependent(ExchangeContract):
    exchange = Independent()


class TestAllReduce(ExchangeContract):
    exchange = AllReduce()


class TestRing(ExchangeContract):
    exchange = Ring()

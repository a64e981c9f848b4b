"""The ring of the paper's ARAR mode: the exact mean of all ranks' buffers, of the same step.

Between nodes, a reduce-scatter followed by an all-gather takes 2 (n - 1) messages per rank and step, with about twice
the bytes of the buffer in total, whatever n.  Each chunk of the mean is computed once and passed around, so all ranks
end with the same bits.  Ranks of one node form the same sums in memory that they share.
"""

import torch

from .._partition import chunk_bounds
from .._value import value
from ..ranks.shared_mean import SharedMean, shared_mean_bytes
from ..ranks.topology import all_gather_steps, reduce_scatter_steps, ring_neighbours
from ..ranks.world import World
from .mean import Mean, MeanChannel
from .mixing import Mixed, Mixing, Wait

_TAG = 1  # not any tag, which would match the notice of a failed rank


@value
class Ring(Mean):
    """Exact mean of the gradients of all ranks, which pass them around a ring (ARAR).

    The usual choice: all ranks (MPI processes) take part in every step and share the work on the same generators.  If
    all ranks are on one node, they exchange through shared memory.  Otherwise each of n ranks sends 2 (n - 1) messages
    in every step, all to the next rank on the ring.  Together, the messages that a rank sends have about twice the
    bytes of its gradients, whatever n.

    Parameters
    ----------
    payload : {"gradient", "weights", "updates"}
        What is averaged: gradients before the optimiser's step, weights after it, or the updates of the weights since
        the last exchange.  The mean update is not applied as it is, but by an outer optimiser, Nesterov's, which has a
        momentum (DiLoCo).
    momentum : float
        Momentum of the outer optimiser, from 0 to below 1; for updates only.
    outer_rate : float
        Learning rate of the outer optimiser; for updates only.  If the mean update stays the same, each exchange moves
        the weights by outer_rate / (1 - momentum) times this mean; by default the factor is 1.  Factors much larger
        than 1, such as the 0.7 / (1 - 0.9) of DiLoCo, take a GAN far away from its answer.
    precision : {"full", "bfloat16"}
        Floating-point precision of messages.  "bfloat16" halves their bytes compared with float32, and rounds each
        number that is sent, with a relative error of up to 0.4 %; sums are formed in full precision.  Nothing is
        rounded if all ranks are on one node, because then there are no messages.

    See Also
    --------
    OneSided : An exchange in which no rank waits for another; for ranks of unequal speed.
    Within : An exchange, such as a ring, inside each group of ranks.
    Leaders : An exchange between groups of ranks.
    AllReduce : The same mean by the MPI library's all-reduce.

    References
    ----------
    arXiv 2407.00051, the asynchronous ring-all-reduce (ARAR).
    Patarasuk and Yuan, J. Parallel Distrib. Comput. 69 (2009) 117.
    DiLoCo: arXiv 2311.08105, algorithm 1.

    Examples
    --------
    >>> from sagips_kit import Chain, Every, Leaders, Ring, Within
    >>> Ring().n_replicas(8)
    1

    Average gradients inside each node of 4 ranks in every step, and weights between nodes in every 100th step:

    >>> mode = Chain(Within(Ring(), size=4), Every(100, Leaders(Ring(payload="weights"), size=4)))
    >>> mode.n_replicas(16)
    1

    For long periods, average updates between nodes, with an outer momentum:

    >>> outer = Ring(payload="updates", momentum=0.5, outer_rate=0.5)
    >>> mode = Chain(Within(Ring(), size=4), Every(1000, Leaders(outer, size=4)))
    """

    def open(self, world: World, like: torch.Tensor) -> MeanChannel:
        # Whoever asked for messages between GPUs gets them: a detour by host memory would be slower.
        if world.size > 1 and not world.device_buffers and world.is_one_node():
            return _SharedMemoryChannel(self, world, like)
        return _MessagesChannel(self, world, like)


class _MessagesChannel(MeanChannel):
    def mean(self, flat: torch.Tensor, step: int) -> Mixing:
        comm, rank, size = self.world.communicator(), self.world.rank, self.world.size
        before, after = ring_neighbours(rank, size)
        whom = f"{self.world.name(before)} (its predecessor on the ring, step {step})"
        bounds = chunk_bounds(len(flat), size)
        chunks, incoming = ([whole[start:stop] for start, stop in bounds] for whole in (flat, self.scratch(flat)))
        # All receives are posted first, so that no message waits until its receiver gets the core.  One tag is enough:
        # messages of one sender arrive in the order in which they were sent.
        steps = reduce_scatter_steps(rank, size)
        receives = [comm.Irecv(self.message(incoming[added]), source=before, tag=_TAG) for _, added in steps]
        sends = []
        for (sent, added), receive in zip(steps, receives, strict=True):
            sends.append(comm.Isend(self.message(self.packed(chunks[sent])), dest=after, tag=_TAG))
            yield Wait([receive], whom)
            chunks[added] += incoming[added]
        yield Wait(sends, whom)
        steps = all_gather_steps(rank, size)
        receives = [comm.Irecv(self.message(incoming[received]), source=before, tag=_TAG) for _, received in steps]
        own = steps[0][0]
        chunks[own].copy_(outgoing := self.packed(chunks[own]))
        sends = []
        for (_, received), receive in zip(steps, receives, strict=True):
            sends.append(comm.Isend(self.message(outgoing), dest=after, tag=_TAG))
            yield Wait([receive], whom)
            chunks[received].copy_(outgoing := incoming[received])
        yield Wait(sends, whom)
        flat /= size
        return Mixed(received=size - 1)


class _SharedMemoryChannel(_MessagesChannel):
    """Messages are sent all the same where there is too little shared memory; both give the same bits."""

    _shared: SharedMean | None = None
    _is_too_small = False

    def mean(self, flat: torch.Tensor, step: int) -> Mixing:
        world, buffer = self.world, flat.numpy()
        if self._shared is None and not self._is_too_small:
            # Not in `open`: there may be more weights than numbers in a gradient.
            if memory := world.share(shared_mean_bytes(buffer.size, buffer.dtype)):
                self._shared = SharedMean(memory, world.rank, world.size, buffer.size, buffer.dtype)
            self._is_too_small = memory is None
        if (shared := self._shared) is None:
            return (yield from super().mean(flat, step))

        def whom() -> str:
            return f"{', '.join(map(world.name, shared.late()))} (on the same ring, step {step})"

        shared.put(buffer)
        yield Wait(shared.are_all_put, whom)
        shared.reduce()
        yield Wait(shared.are_all_reduced, whom)
        shared.get(buffer)
        return Mixed(received=world.size - 1)

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()
        self._shared = None

    def abandon(self) -> None:
        self._shared = None

"""When ranks start and end their steps: what a mode of exchange costs on any number of ranks, without running it.

Ranks meet only where they exchange, so the times at which they leave a step follow from those at which they entered
it by sums and maxima.  A loop over steps with arrays over ranks is the whole simulation: as exact as a queue of events
(SimPy's, for instance), shorter, and fast enough for 65 536 ranks.  A mode is the very value that trains; each of its
parts has one rule here.  What a message or a sum costs is given: measured on a machine, or assumed.
"""

from collections import deque
from dataclasses import dataclass
from functools import singledispatchmethod

import numpy as np

from sagips_kit import exchange as kit
from sagips_kit._value import value

_N_KEPT = 300  # steps back to which the age of a contribution is counted


@dataclass(frozen=True)
class Compute:
    """How long a step takes a rank, without exchange.

    Parameters
    ----------
    step_s : float
        Its mean, in seconds; the pauses come on top.
    jitter : float
        Standard deviation from step to step, in units of the mean: log-normal, independent on all ranks.
    pauses, pause_steps : float
        So large a part of the steps, at random, lasts so many mean steps longer: a busy file system, another job.
    overlap : float
        Part of a step that follows the start of the exchange and needs nothing from it: the discriminator's.
    n_polls : int
        How often, evenly spaced, the exchange is taken further during that part, the last time at its end.  Training
        on a CPU does it once.  On a GPU the host has only launched that part, and looks all the time.
    """

    step_s: float
    jitter: float = 0.1
    pauses: float = 0.0
    pause_steps: float = 5.0
    overlap: float = 0.4
    n_polls: int = 8

    @property
    def mean_s(self):
        """Mean length of a step with its pauses, in seconds."""
        return self.step_s * (1 + self.pauses * self.pause_steps)

    def draw(self, rng, n):
        """Lengths of `n` steps: ndarray (n,), in seconds."""
        variance = np.log1p(self.jitter**2)
        # Seven digits are enough for what is random, and half the work.
        lengths = np.exp(np.sqrt(variance) * rng.standard_normal(n, np.float32) - variance / 2)
        if self.pauses:
            lengths += self.pause_steps * (rng.random(n) < self.pauses)
        return self.step_s * lengths


@dataclass(frozen=True)
class Costs:
    """Seconds that exchanges take once everybody is there.

    Parameters
    ----------
    node : int
        Ranks that share memory.
    meeting_s, slots_s : tuple of float
        A mean in shared memory of n ranks, two-sided and one-sided: the first number, plus the second for each rank.
    message_s : float
        A message without its bytes, host time included.
    buffer_s : float
        A whole buffer through the network.
    looks : int
        At the exchange, that a message needs to get through: two if its sender asks the receiver first, as MPI does
        where messages are large.
    """

    node: int = 4
    meeting_s: tuple[float, float] = (0.0, 0.0)
    slots_s: tuple[float, float] = (0.0, 0.0)
    message_s: float = 0.0
    buffer_s: float = 0.0
    looks: int = 2

    def meeting(self, n):
        return self.meeting_s[0] + self.meeting_s[1] * n

    def slots(self, n):
        # Across nodes each rank fetches the others' slots in the background, but adds them up itself.
        return self.slots_s[0] + self.slots_s[1] * n

    # Messages that depend on each other: how many, and what each of them takes.

    def ring(self, n):
        return 2 * (n - 1), self.message_s + self.buffer_s / n

    def hypercube(self, n):
        return np.ceil(np.log2(n)), self.message_s + self.buffer_s

    def allreduce(self, n):
        return 2 * np.ceil(np.log2(n)), self.message_s + self.buffer_s / np.ceil(np.log2(n))

    def forwarding(self, n):
        return n - 1, self.message_s + self.buffer_s

    def broadcast(self, n):
        return np.prod(self.hypercube(n))


@value
class Forwarding(kit.Ring):
    """The ring as published: whole buffers go around, n - 1 times, after the step.  To simulate, not to run."""


@dataclass(frozen=True)
class Arrival:
    """When ranks come to an exchange, ndarray (..., rank), in seconds: `begun` hands over, `done` wants the result."""

    begun: np.ndarray
    done: np.ndarray
    payload: str
    step: int

    def only(self, where):
        return Arrival(where(self.begun), where(self.done), self.payload, self.step)


@dataclass(frozen=True)
class Outcome:
    """What a simulation found.

    Attributes
    ----------
    rate : float
        Steps per second, mean over ranks, in units of that of a rank alone.
    waited : float
        Time between wanting a result and having it, mean over steps and ranks, in mean steps.
    staleness, staleness_max : float
        Age of the oldest contribution, mean and largest over steps and ranks, in steps.
    """

    rate: float
    waited: float
    staleness: float
    staleness_max: int


class Simulation:
    """One run.

    Parameters
    ----------
    exchange : Exchange
        With the size of its groups written down.
    n_ranks : int
    compute : Compute
    costs : Costs
    seed : int
    """

    def __init__(self, exchange, n_ranks, compute, costs, seed=0):
        self.exchange, self.n_ranks, self.compute, self.costs = exchange, n_ranks, compute, costs
        self._rng = np.random.default_rng(seed)
        self._published = {}
        self._staleness = 0

    def run(self, n_steps):
        """Take so many steps: Outcome."""
        now, waited_s, age, oldest = np.zeros(self.n_ranks), 0.0, 0.0, 0
        for step in range(n_steps):
            self._staleness = np.zeros(1, int)
            length = self.compute.draw(self._rng, self.n_ranks)
            begun, done = now + (1 - self.compute.overlap) * length, now + length
            mixed = self._leave(self.exchange, Arrival(begun, done, "gradient", step))
            now = self._leave(self.exchange, Arrival(mixed, mixed, "weights", step))
            waited_s += (now - done).mean()
            age, oldest = age + self._staleness.mean(), max(oldest, self._staleness.max())
        mean_s = self.compute.mean_s
        rate = (n_steps * mean_s / now).mean()
        return Outcome(float(rate), float(waited_s / n_steps / mean_s), float(age / n_steps), int(oldest))

    @singledispatchmethod
    def _leave(self, exchange, arrival):
        """When ranks have the result: ndarray (..., rank), in seconds."""
        raise TypeError(f"There is no rule for {exchange!r}. Write one more `_leave` in simulate.py.")

    @_leave.register
    def _(self, exchange: kit.Independent, arrival):
        return arrival.done

    @_leave.register
    def _(self, exchange: kit.Chain, arrival):
        for part in exchange.parts:
            if part.carries(arrival.payload, arrival.step):
                left = self._leave(part, arrival)
                arrival = Arrival(left, left, arrival.payload, arrival.step)
        return arrival.done

    @_leave.register
    def _(self, exchange: kit.Every, arrival):
        part = exchange.part if exchange.is_due(arrival.step) else exchange.otherwise
        return self._leave(part, arrival)

    @_leave.register
    def _(self, exchange: kit.Within, arrival):
        left = self._leave(exchange.part, arrival.only(lambda times: self._grouped(times, exchange.size)))
        return left.reshape(arrival.done.shape)

    @_leave.register
    def _(self, exchange: kit.Leaders, arrival):
        if not exchange.carries(arrival.payload, arrival.step):
            return arrival.done
        left = self._grouped(arrival.done, exchange.size).copy()
        outer = self._leave(exchange.part, arrival.only(lambda times: self._grouped(times, exchange.size)[:, 0]))
        left[:, 0] = outer
        if exchange.hand_down and exchange.size > 1:
            left = np.maximum(left, outer[:, None]) + self.costs.broadcast(exchange.size)
        return left.reshape(arrival.done.shape)

    @_leave.register
    def _(self, exchange: kit.AllReduce, arrival):
        return self._together(exchange, arrival, self.costs.allreduce)

    @_leave.register
    def _(self, exchange: kit.Hypercube, arrival):
        return self._together(exchange, arrival, self.costs.hypercube)

    @_leave.register
    def _(self, exchange: Forwarding, arrival):
        late = Arrival(arrival.done, arrival.done, arrival.payload, arrival.step)
        return self._together(exchange, late, self.costs.forwarding)

    @_leave.register
    def _(self, exchange: kit.OneSided, arrival):
        n = arrival.done.shape[-1]
        if n == 1 or not exchange.carries(arrival.payload, arrival.step):
            return arrival.done
        self._note_staleness(exchange, arrival)
        return arrival.done + self.costs.slots(n)

    @_leave.register
    def _(self, exchange: kit.Ring, arrival):
        n = arrival.done.shape[-1]
        if n == 1 or not exchange.carries(arrival.payload, arrival.step):
            return arrival.done
        if not self._share_memory(arrival.done):
            return self._together(exchange, arrival, self.costs.ring)
        # Who has seen that all have brought their buffers adds up its share; all need all shares.  Each of the three
        # parts, the last of which is to take the mean along, moves about as many bytes.
        part_s = self.costs.meeting(n) / 3
        brought = (arrival.begun + part_s).max(-1, keepdims=True)
        added = (self._noticed(brought, arrival) + part_s).max(-1, keepdims=True)
        return np.maximum(arrival.done, added) + part_s

    def _together(self, exchange, arrival, messages):
        """Messages that depend on each other: looks take them further, one by one, and at last they are waited for."""
        n = arrival.done.shape[-1]
        if n == 1 or not exchange.carries(arrival.payload, arrival.step):
            return arrival.done
        n_messages, message_s = messages(n)
        first, last = arrival.begun.max(-1, keepdims=True), arrival.done.max(-1, keepdims=True)
        gap_s = (arrival.done - arrival.begun).mean(-1, keepdims=True) / self.compute.n_polls
        each_s = np.maximum(self.costs.looks * gap_s, message_s)
        window_s = np.maximum(last - first, 0.0)
        n_hidden = np.divide(window_s, each_s, out=np.zeros_like(each_s), where=each_s > 0)
        n_hidden = np.floor(n_hidden + 1e-6)  # differences of large times are rounded
        all_left = np.where(
            n_hidden < n_messages, last + (n_messages - n_hidden) * message_s, first + n_messages * each_s
        )
        return np.maximum(arrival.done, all_left)

    def _noticed(self, time, arrival):
        """When each rank sees what happens at `time`: at its next look, or at once where it waits."""
        gap = (arrival.done - arrival.begun) / self.compute.n_polls  # seconds
        n_gaps = np.ceil(np.divide(time - arrival.begun, gap, out=np.zeros_like(gap), where=gap > 0))
        return np.where(time < arrival.done, arrival.begun + n_gaps * gap, time)

    def _note_staleness(self, exchange, arrival):
        """How many of the last steps of the slowest of its peers each rank has not seen."""
        published = self._published.setdefault(exchange, deque(maxlen=_N_KEPT))
        published.append(arrival.done)
        # Across nodes, what is there now was fetched after the last exchange.
        looks = published[-1] if self._share_memory(arrival.done) else published[-min(2, len(published))]
        age = np.zeros(looks.shape, int)
        for times in reversed(published):
            is_missing = times.max(-1, keepdims=True) > looks
            if not is_missing.any():
                break
            age += is_missing
        self._staleness = np.maximum(self._staleness, age.reshape(-1))

    def _share_memory(self, times):
        # Groups that are leaders of nodes are on different nodes.
        return times.shape[-1] <= self.costs.node and (times.ndim > 1 or self.n_ranks <= self.costs.node)

    def _grouped(self, times, size):
        """Times of ranks in groups: (group, rank)."""
        if size is None or times.size % size:
            raise ValueError(f"{times.size} ranks in groups of {size}: write a size that divides the ranks.")
        return times.reshape(-1, size)


def simulate(exchange, n_ranks, compute, costs, n_steps=1000, seed=0):
    """Simulate a run: Outcome; see Simulation."""
    return Simulation(exchange, n_ranks, compute, costs, seed).run(n_steps)

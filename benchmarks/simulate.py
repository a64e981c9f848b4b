"""Simulate when ranks start and end their steps: the cost of a mode of exchange on any number of ranks.

Ranks affect each other only where they exchange, so the times at which they leave a step follow from the times at
which they entered it by sums and maxima.  The whole simulation is a loop over steps with arrays over ranks: as exact as
a queue of events (as in SimPy), shorter, and fast enough for 65 536 ranks.  A mode is the same value that is used for
training; each of its parts has one rule here.  The costs of messages and sums are given: measured on a machine, or
assumed.
"""

from collections import deque
from dataclasses import dataclass
from functools import singledispatchmethod

import numpy as np

from sagips_kit import exchange as kit
from sagips_kit._value import value

_N_KEPT = 300  # largest age of a contribution that can be counted, in steps


@dataclass(frozen=True)
class Compute:
    """Distribution of the time that a step takes on a rank without exchange.

    Parameters
    ----------
    step_s : float
        Mean length of a step without pauses, in seconds.
    jitter : float
        Standard deviation from step to step, in units of the mean: log-normal, independent on all ranks.
    pauses, pause_steps : float
        A fraction `pauses` of the steps, at random, lasts `pause_steps` mean steps longer, because of a busy file
        system or another job, for example.
    overlap : float
        Fraction of a step that follows the start of the exchange and needs nothing from it: the discriminator's part.
    n_polls : int
        How often the exchange is advanced during that part, evenly spaced and the last time at its end.  Training on a
        CPU does it once.  On a GPU, the host only launches that part and polls continuously.
    """

    step_s: float
    jitter: float = 0.1
    pauses: float = 0.0
    pause_steps: float = 5.0
    overlap: float = 0.4
    n_polls: int = 8

    @property
    def mean_s(self):
        """Mean length of a step including pauses, in seconds."""
        return self.step_s * (1 + self.pauses * self.pause_steps)

    def draw(self, rng, n):
        """Draw the lengths of `n` steps: ndarray (n,), in seconds."""
        variance = np.log1p(self.jitter**2)
        # float32 is precise enough for random numbers, and takes half the time.
        lengths = np.exp(np.sqrt(variance) * rng.standard_normal(n, np.float32) - variance / 2)
        if self.pauses:
            lengths += self.pause_steps * (rng.random(n) < self.pauses)
        return self.step_s * lengths


@dataclass(frozen=True)
class Costs:
    """Time that exchanges take, in seconds, once all ranks have arrived.

    Parameters
    ----------
    node : int
        Number of ranks that share memory.
    meeting_s, slots_s : tuple of float
        Time of a mean in the shared memory of n ranks, two-sided and one-sided: the first number, plus the second
        number for each rank.
    message_s : float
        Time of a message without its bytes, including the time of the host.
    buffer_s : float
        Time of sending a whole buffer through the network.
    looks : int
        Number of polls that a message needs to arrive: two if the sender asks the receiver first, as MPI does for large
        messages.
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
        # Across nodes, each rank fetches the slots of the others in the background, but adds them up itself.
        return self.slots_s[0] + self.slots_s[1] * n

    # Consecutive messages, each of which depends on the one before: their number, and the time of each.

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
    """The published ring: after the step, whole buffers travel n - 1 times around it.  For simulation only."""


@dataclass(frozen=True)
class Arrival:
    """When ranks hand over their buffers (`begun`) and want the result (`done`): ndarray (..., rank), in seconds."""

    begun: np.ndarray
    done: np.ndarray
    payload: str
    step: int

    def only(self, where):
        return Arrival(where(self.begun), where(self.done), self.payload, self.step)


@dataclass(frozen=True)
class Outcome:
    """Result of a simulation.

    Attributes
    ----------
    rate : float
        Steps per second, mean over ranks, relative to a single rank.
    waited : float
        Time between wanting a result and receiving it, mean over steps and ranks, in mean steps.
    staleness, staleness_max : float
        Age of the oldest contribution, in steps: mean and maximum over steps and ranks.
    """

    rate: float
    waited: float
    staleness: float
    staleness_max: int


class Simulation:
    """Simulation of one run.

    Parameters
    ----------
    exchange : Exchange
        The mode; the sizes of its groups must be given explicitly.
    n_ranks : int
        Number of ranks.
    compute : Compute
        Times of the steps without exchange.
    costs : Costs
        Times of the exchanges.
    seed : int
        Seed of the step times.
    """

    def __init__(self, exchange, n_ranks, compute, costs, seed=0):
        self.exchange, self.n_ranks, self.compute, self.costs = exchange, n_ranks, compute, costs
        self._rng = np.random.default_rng(seed)
        self._published = {}
        self._staleness = 0

    def run(self, n_steps):
        """Simulate `n_steps` steps: Outcome."""
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
        raise TypeError(f"There is no rule for {exchange!r}. Add a `_leave` for it in simulate.py.")

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
        # A rank that has seen all buffers arrive adds up its share, and every rank needs all shares.  Each of the three
        # parts (bringing the buffer, adding, copying the mean) moves about the same number of bytes.
        part_s = self.costs.meeting(n) / 3
        brought = (arrival.begun + part_s).max(-1, keepdims=True)
        added = (self._noticed(brought, arrival) + part_s).max(-1, keepdims=True)
        return np.maximum(arrival.done, added) + part_s

    def _together(self, exchange, arrival, messages):
        """Dependent messages: polls advance them one by one, and the ranks wait for those that remain."""
        n = arrival.done.shape[-1]
        if n == 1 or not exchange.carries(arrival.payload, arrival.step):
            return arrival.done
        n_messages, message_s = messages(n)
        first, last = arrival.begun.max(-1, keepdims=True), arrival.done.max(-1, keepdims=True)
        gap_s = (arrival.done - arrival.begun).mean(-1, keepdims=True) / self.compute.n_polls
        each_s = np.maximum(self.costs.looks * gap_s, message_s)
        window_s = np.maximum(last - first, 0.0)
        n_hidden = np.divide(window_s, each_s, out=np.zeros_like(each_s), where=each_s > 0)
        n_hidden = np.floor(n_hidden + 1e-6)  # guards against rounding in differences of large times
        all_left = np.where(
            n_hidden < n_messages, last + (n_messages - n_hidden) * message_s, first + n_messages * each_s
        )
        return np.maximum(arrival.done, all_left)

    def _noticed(self, time, arrival):
        """When each rank notices what happens at `time`: at its next poll, or immediately if it is waiting."""
        gap = (arrival.done - arrival.begun) / self.compute.n_polls  # seconds
        n_gaps = np.ceil(np.divide(time - arrival.begun, gap, out=np.zeros_like(gap), where=gap > 0))
        return np.where(time < arrival.done, arrival.begun + n_gaps * gap, time)

    def _note_staleness(self, exchange, arrival):
        """Record how many of the last steps of its slowest peer each rank has not seen."""
        published = self._published.setdefault(exchange, deque(maxlen=_N_KEPT))
        published.append(arrival.done)
        # Across nodes, the available values were fetched after the last exchange.
        looks = published[-1] if self._share_memory(arrival.done) else published[-min(2, len(published))]
        age = np.zeros(looks.shape, int)
        for times in reversed(published):
            is_missing = times.max(-1, keepdims=True) > looks
            if not is_missing.any():
                break
            age += is_missing
        self._staleness = np.maximum(self._staleness, age.reshape(-1))

    def _share_memory(self, times):
        # A group of leaders spans several nodes.
        return times.shape[-1] <= self.costs.node and (times.ndim > 1 or self.n_ranks <= self.costs.node)

    def _grouped(self, times, size):
        """Times of ranks in groups: (group, rank)."""
        if size is None or times.size % size:
            raise ValueError(f"{times.size} ranks in groups of {size}: choose a size that divides the number of ranks.")
        return times.reshape(-1, size)


def simulate(exchange, n_ranks, compute, costs, n_steps=1000, seed=0):
    """Simulate a run of `n_steps` steps; the other arguments are those of `Simulation`.  Returns an Outcome."""
    return Simulation(exchange, n_ranks, compute, costs, seed).run(n_steps)

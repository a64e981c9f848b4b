"""What an exchange waits for, and what it has done: the terms in which a channel describes it."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from mpi4py import MPI

Payload: TypeAlias = Literal["gradient", "weights"]


@dataclass(frozen=True)
class Mixed:
    """What one exchange did.

    Parameters
    ----------
    received : int
        Number of other ranks whose contribution is in the mean.
    staleness : int
        Age of the oldest contribution, in steps.
    waited_s : float
        Time spent waiting for other ranks, in seconds.

    See Also
    --------
    Channel.mix_ : Returns one.

    Examples
    --------
    >>> import torch
    >>> from sagips_kit import Ring, World
    >>> gradient = torch.ones(1, 3)
    >>> with Ring().open(World.alone("cpu"), gradient) as channel:
    ...     channel.mix_(gradient, 0)
    Mixed(received=0, staleness=0, waited_s=0.0)
    """

    received: int = 0
    staleness: int = 0
    waited_s: float = 0.0

    def then(self, other: "Mixed") -> "Mixed":
        """Combine this exchange with one that mixed its result: a mean of means.

        Parameters
        ----------
        other : Mixed
            What the later exchange did.

        Returns
        -------
        Mixed
            Both as a single exchange.
        """
        received = (1 + self.received) * (1 + other.received) - 1
        return Mixed(received, max(self.staleness, other.staleness), self.waited_s + other.waited_s)


class Wait(NamedTuple):
    """What an exchange waits for before it can continue, yielded by `Channel.mixing`.

    Parameters
    ----------
    until : list of mpi4py.MPI.Request, or callable
        Requests that all have to complete, or a function without arguments that returns whether the wait is over.
    whom : str, or callable
        The rank waited for, for messages; a function without arguments finds it out when it is needed.

    See Also
    --------
    Channel.mixing : Yields these.

    Examples
    --------
    A channel that does nothing before all ranks have started their step:

    >>> from sagips_kit.exchange import Channel, Mixed, Wait
    >>> class Barrier(Channel):
    ...     def mixing(self, flat, step, payload):
    ...         request = self.world.communicator().Ibarrier()
    ...         yield Wait([request], f"all ranks to start step {step}")
    ...         return Mixed()
    """

    until: "Sequence[MPI.Request] | Callable[[], bool]"
    whom: str | Callable[[], str]


Mixing: TypeAlias = Generator[Wait, None, Mixed]

"""The contract of all exchanges: a frozen value that the user writes down, and that opens a channel on every rank."""

from abc import abstractmethod

import torch

from .._value import ValueClass
from ..ranks.world import World
from .channel import Channel
from .mixing import Payload


class Exchange(metaclass=ValueClass):
    """Base of the modes of exchange: which ranks mix their gradients or weights with which others, and when.

    An exchange is a frozen value: it is written in a notebook, sent to the ranks and kept in the store.  `open` turns
    it into a channel, which sends messages.

    See Also
    --------
    Channel : What an exchange opens on every rank.
    Ring : A mean over all ranks, the usual choice.
    Chain : Several exchanges in every step.

    Examples
    --------
    >>> from sagips_kit import Ring, Within
    >>> exchange = Within(Ring(), size=4)
    >>> exchange.n_replicas(12)
    3
    >>> exchange.replica(5, 12)
    1
    >>> exchange.carries("gradient", step=0), exchange.carries("weights", step=0)
    (True, False)

    A mode of your own says what it opens and which ranks share their generators:

    >>> from sagips_kit.exchange import Channel, Exchange, Mixed
    >>> class Halve(Exchange):
    ...     def open(self, world, like):
    ...         return HalvingChannel(self, world, like)
    ...     def replicas(self, size):
    ...         return tuple(range(size))
    >>> class HalvingChannel(Channel):
    ...     def mixing(self, flat, step, payload):
    ...         flat /= 2
    ...         yield from ()  # it waits for nobody
    ...         return Mixed()
    """

    @abstractmethod
    def open(self, world: World, like: torch.Tensor) -> Channel:
        """Open the channel of this rank.  Collective.

        Parameters
        ----------
        world : World
            The ranks that exchange.
        like : Tensor (member, weight)
            Gradients to be mixed have its shape, dtype and device.

        Returns
        -------
        Channel
            A context manager; close it when training ends.
        """

    @abstractmethod
    def replicas(self, size: int) -> tuple[int, ...] | None:
        """Which ranks hold the same generators, because they exchange gradients or weights.

        Parameters
        ----------
        size : int
            Number of ranks.

        Returns
        -------
        tuple of int, or None
            For each rank, the number of its replica, from 0; None if that depends on which ranks share a node.
        """

    def carries(self, payload: Payload, step: int) -> bool:
        """Whether something is exchanged in a step.

        Parameters
        ----------
        payload : {"gradient", "weights"}
            What could be exchanged: gradients before the optimiser's step, weights after it.
        step : int
            Number of the step, from 0.

        Returns
        -------
        bool
            The same on all ranks.
        """
        return payload == "gradient"

    @property
    def mixes_deltas(self) -> bool:
        """Whether a rank's weights may hold updates that other ranks have not received yet."""
        return False

    def waits(self, step: int) -> bool:
        """Whether ranks wait for each other in a step.

        After the last such step, a rank that has made all its steps may leave its replica, which continues without it.

        Parameters
        ----------
        step : int
            Number of the step, from 0.

        Returns
        -------
        bool
            The same on all ranks.
        """
        return self.carries("gradient", step) or self.carries("weights", step)

    def replica(self, rank: int, size: int) -> int:
        """The replica of a rank: ranks of one replica hold the same generators.

        Parameters
        ----------
        rank : int
            Number of the rank, from 0.
        size : int
            Number of ranks.

        Returns
        -------
        int
            Number of the replica, from 0.

        Raises
        ------
        ValueError
            If it depends on which ranks share a node.
        """
        return self._known_replicas(size)[rank]

    def n_replicas(self, size: int) -> int:
        """The number of different generators per member.

        Parameters
        ----------
        size : int
            Number of ranks.

        Returns
        -------
        int
            Number of replicas.

        Raises
        ------
        ValueError
            If it depends on which ranks share a node.
        """
        return len(set(self._known_replicas(size)))

    def _known_replicas(self, size: int) -> tuple[int, ...]:
        replicas = self.replicas(size)
        if replicas is None:
            raise ValueError(
                f"{self}: the number of replicas among {size} ranks depends on how many ranks share a node. "
                "State the size of a group, for instance Within(Ring(), size=4)."
            )
        return replicas

"""Modes of exchange, as expressions of small parts: what ranks mix of their generators, with whom, and when."""

from .allreduce import AllReduce
from .base import Exchange
from .chain import Chain
from .channel import Channel
from .every import Every
from .exponential import Exponential
from .hypercube import Hypercube
from .independent import Independent
from .leaders import Leaders
from .mixing import Mixed, Wait
from .one_sided import OneSided
from .ring import Ring
from .within import Within

__all__ = [
    "AllReduce",
    "Chain",
    "Channel",
    "Every",
    "Exchange",
    "Exponential",
    "Hypercube",
    "Independent",
    "Leaders",
    "Mixed",
    "OneSided",
    "Ring",
    "Wait",
    "Within",
]

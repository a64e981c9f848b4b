"""Modes of exchange: what ranks tell each other about their generators, and when; an expression over small parts."""

from .allreduce import AllReduce
from .base import Channel, Exchange, Mixed
from .chain import Chain
from .every import Every
from .exponential import Exponential
from .hypercube import Hypercube
from .independent import Independent
from .leaders import Leaders
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
    "Ring",
    "Within",
]

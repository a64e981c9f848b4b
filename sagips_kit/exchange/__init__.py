"""Modes of exchange: what ranks tell each other about their generators' gradients, and when."""

from .allreduce import AllReduce
from .base import Channel, Exchange, Mixed
from .independent import Independent
from .ring import Ring

__all__ = ["AllReduce", "Channel", "Exchange", "Independent", "Mixed", "Ring"]

"""Ready problems."""

from .dayabay import DayaBay
from .proxy import Proxy

__all__ = ["DayaBay", "Proxy"]

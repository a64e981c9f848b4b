"""Ready problems."""

from .dayabay import DayaBay
from .proxy import Proxy
from .proxy2d import Proxy2D

__all__ = ["DayaBay", "Proxy", "Proxy2D"]

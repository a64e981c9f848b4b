"""Ready problems, which are also examples of the contract in `base`."""

from .dayabay.problem import DayaBay
from .image import Image
from .linear import Linear
from .octants import Octants
from .proxy import Proxy
from .proxy2d import Proxy2D

__all__ = ["DayaBay", "Image", "Linear", "Octants", "Proxy", "Proxy2D"]

"""External knowledge of functions of the parameters: measured values with their standard deviations or covariance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .constants import Constant

Function = Callable[[Tensor], Tensor | Sequence[Tensor]]


class Measurement:
    """What is known from elsewhere about a function of the parameters, for the attribute `measurements` of a problem.

    Its errors are normal.  They may be correlated, also if the function only picks parameters.

    Parameters
    ----------
    function : callable
        Maps theta, Tensor (parameter,), to what was measured: one number, or several as a Tensor (value,) or a tuple.
        It has to be differentiable and written in torch.
    value : float or array_like (value,)
        The measured values.
    deviation : float, array_like (value,) or None
        Their standard deviations, if they are independent.
    covariance : array_like (value, value) or None
        Their covariance, in place of the standard deviations.

    Raises
    ------
    ValueError
        If the numbers are not finite or their shapes do not fit together, if a standard deviation is not above 0, or
        the covariance is not symmetric and positive definite.

    See Also
    --------
    sagips_kit.Problem : Its attributes `measurements` and `priors`.

    Notes
    -----
    The function has to be the same at both ends of a periodic parameter.  The difference d of such a parameter from a
    measured value is torch.atan2(d.sin(), d.cos()), for a period of 2 pi; the measured value of this difference is 0.
    Priors take differences on the circle by themselves.

    Examples
    --------
    The ratio of two parameters, and two parameters with correlated errors:

    >>> import torch
    >>> from sagips_kit import Measurement
    >>> ratio = Measurement(lambda theta: theta[0] / theta[1], 1.26, 0.02)
    >>> scales = Measurement(lambda theta: theta[:2], (3.0, 2.0), covariance=[[0.04, 0.03], [0.03, 0.09]])
    >>> theta = torch.tensor([3.2, 2.5])
    >>> ratio.residuals(theta).numpy().round(2)
    array([1.], dtype=float32)
    >>> scales.residuals(theta).numpy().round(2)  # independent, with standard deviation 1
    array([1.  , 1.35], dtype=float32)
    """

    def __init__(
        self,
        function: Function,
        value: ArrayLike,
        deviation: ArrayLike | None = None,
        *,
        covariance: ArrayLike | None = None,
    ) -> None:
        if not callable(function):
            raise ValueError(
                f"Measurement: function = {function!r}: should be a function of theta, such as "
                "lambda theta: theta[0] / theta[1]."
            )
        if (deviation is None) == (covariance is None):
            raise ValueError("Measurement: give either standard deviations or a covariance, and not both.")
        self.function = function
        self.value = np.atleast_1d(_numbers("value", value))
        if self.value.ndim != 1 or not self.value.size:
            raise ValueError(
                f"Measurement: value of shape {self.value.shape}: should be a number, or several in a row."
            )
        self.covariance = _covariance(len(self.value), deviation, covariance)
        self._constants = Constant(np.linalg.inv(np.linalg.cholesky(self.covariance))), Constant(self.value)

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"Measurement({name}, {self.value.tolist()}, covariance={self.covariance.tolist()})"

    def predicted(self, theta: Tensor) -> Tensor:
        """Return what the function gives for some parameters.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters, in their own units.

        Returns
        -------
        Tensor (value,)
            To be compared with the measured values.

        Raises
        ------
        ValueError
            If these are not as many numbers as were measured.
        """
        found = self.function(theta)
        if isinstance(found, tuple | list):
            found = torch.stack([torch.as_tensor(one).to(theta) for one in found])
        if not isinstance(found, Tensor):
            raise ValueError(f"the function returns a {type(found).__name__}: should be numbers of torch, a Tensor.")
        if found.ndim > 1 or found.numel() != len(self):
            raise ValueError(
                f"the function returns an array of shape {tuple(found.shape)}: should be {len(self)} in a row, one for "
                "each measured value."
            )
        return found.reshape(-1)

    def residuals(self, theta: Tensor) -> Tensor:
        """Return the deviations from the measured values, divided by the Cholesky factor of the covariance.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters, in their own units.

        Returns
        -------
        Tensor (value,)
            Independent numbers with standard deviation 1, if theta is the truth.
        """
        whitening, value = (constant.like(theta) for constant in self._constants)
        return whitening @ (self.predicted(theta) - value)


def _numbers(name: str, given: Any) -> np.ndarray:
    try:
        numbers = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if not np.isfinite(numbers).all():
        raise ValueError(f"Measurement: {name} = {given!r}: should be finite numbers.")
    return numbers


def _covariance(n: int, deviation: Any, covariance: Any) -> np.ndarray:
    """The covariance (value, value), checked."""
    if covariance is None:
        deviations = _numbers("deviation", deviation)
        if deviations.shape not in ((), (n,)) or not (deviations > 0).all():
            raise ValueError(
                f"Measurement: deviation = {deviation!r}: should be a standard deviation above 0, or {n} of them, one "
                "for each value."
            )
        return np.diag(np.broadcast_to(deviations**2, n))
    matrix = _numbers("covariance", covariance)
    if matrix.shape != (n, n):
        raise ValueError(
            f"Measurement: covariance of shape {matrix.shape}: should be {(n, n)}, a row and a column for each value. "
            "For standard deviations write deviation=..."
        )
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=0):
        raise ValueError("Measurement: the covariance is not symmetric. Symmetrise it: (c + c.T) / 2.")
    scale = np.sqrt(np.clip(matrix.diagonal(), 0, None))
    lowest = np.linalg.eigvalsh(matrix / np.outer(scale, scale))[0] if (scale > 0).all() else 0.0
    if lowest < 1e-10:
        raise ValueError(
            f"Measurement: the covariance is not positive definite (the lowest eigenvalue of the correlations is "
            f"{lowest:.2g}), so a combination of the values would be known exactly. Leave out values that follow from "
            "others, or fix a parameter by that combination."
        )
    return (matrix + matrix.T) / 2

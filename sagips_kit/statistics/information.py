"""How precisely events determine parameters, as a matrix: deviations, and the directions that nothing determines.

The matrix is in units of the parameters' ranges: a direction counts as determined if its deviation is smaller than the
range.  How the matrix is computed, from a likelihood or a simulation, does not belong here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DETERMINED = 1.0  # least information along a determined direction: a deviation as large as the range
_INVOLVED = 0.05  # least component along a direction for a parameter to be named


@dataclass(frozen=True, eq=False)
class Information:
    """Fisher information of a sample of events, including constraints, priors and measurements.

    Parameters
    ----------
    parameters : tuple of str
        Names of the parameters.
    width : ndarray (parameter,)
        Widths of their ranges, in the parameters' units.
    matrix : ndarray (parameter, parameter)
        The information matrix, in units of the ranges.

    See Also
    --------
    fisher_information : Compute it for a problem and its events.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit.statistics.information import Information
    >>> information = Information(("a", "b"), np.array([2.0, 10.0]), np.diag([400.0, 100.0]))
    >>> information.deviation
    array([0.1, 1. ])
    >>> information.describe_undetermined()
    ''
    """

    parameters: tuple[str, ...]
    width: NDArray[np.float64]
    matrix: NDArray[np.float64]

    @property
    def undetermined(self) -> NDArray[np.float64]:
        """ndarray (direction, parameter): Unit vectors in units of the ranges whose deviation exceeds the range."""
        values, vectors = np.linalg.eigh(self.matrix)
        return vectors.T[values < _DETERMINED]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """ndarray (parameter, parameter): The Cramer-Rao bound, in the parameters' units.

        The inverse of the information; NaN for parameters that take part in an undetermined direction.
        """
        values, vectors = np.linalg.eigh(self.matrix)
        is_known = values >= _DETERMINED
        known = vectors[:, is_known]
        inverse = (known / values[is_known]) @ known.T
        is_lost = (np.abs(vectors[:, ~is_known]) > _INVOLVED).any(axis=1)
        inverse[is_lost, :] = inverse[:, is_lost] = np.nan
        return inverse * np.outer(self.width, self.width)

    @property
    def deviation(self) -> NDArray[np.float64]:
        """ndarray (parameter,): Statistical floor of each parameter in its unit; NaN if nothing determines it."""
        return np.sqrt(np.diag(self.covariance))

    def step(self, score: ArrayLike) -> NDArray[np.float64]:
        """Return the Newton step along a slope, in floor units.

        Parameters
        ----------
        score : array_like (parameter,)
            Slope of the log-likelihood, or of what stands for it, in units of the ranges.

        Returns
        -------
        ndarray (parameter,)
            The step, in deviations; NaN for parameters that nothing determines.
        """
        covariance = np.nan_to_num(self.covariance / np.outer(self.width, self.width))
        return covariance @ np.asarray(score) * self.width / self.deviation

    def describe_undetermined(self) -> str:
        """Describe the undetermined directions in words.

        Returns
        -------
        str
            The parameters that move together, and what to do; "" if all directions are determined.
        """
        lines = []
        for direction in self.undetermined:
            order = [k for k in np.argsort(-np.abs(direction)) if abs(direction[k]) > _INVOLVED]
            # The sign of an eigenvector means nothing.
            direction = direction * np.sign(direction[order[0]])
            lines.append(", ".join(f"{self.parameters[k]} ({direction[k]:+.2f})" for k in order))
        if not lines:
            return ""
        return (
            "Events and constraints leave a direction undetermined, in which parameters move together (in fractions of "
            f"their ranges): {'; and '.join(lines)}. Results for these parameters only reflect their ranges. Add a "
            "constraint or a prior, or fix one of them."
        )

    def warn(self, who: str) -> None:
        """Warn of undetermined directions, if there are any.

        Parameters
        ----------
        who : str
            What the warning is about, the start of its text.

        Warns
        -----
        UserWarning
            If a direction is undetermined; the text names its parameters.
        """
        text = self.describe_undetermined()
        if text:
            warnings.warn(f"{who}: {text}", stacklevel=3)

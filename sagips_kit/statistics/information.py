"""How well events determine parameters, as a matrix: deviations, and the directions that nothing determines.

In units of the parameters' ranges, where the ranges themselves are the measure of what counts as determined.  Where the
matrix comes from, a likelihood or a pipeline, does not belong here.
"""

import warnings
from dataclasses import dataclass

import numpy as np

_DETERMINED = 1.0  # least information along a direction: a deviation as large as the range
_INVOLVED = 0.05  # least component of a parameter in a direction that is named


@dataclass(frozen=True, eq=False)
class Information:
    """Fisher information of a sample of events, with whatever constraints there are beside it.

    Attributes
    ----------
    parameters : tuple of str
    width : ndarray (parameter,)
        Widths of the parameters' ranges.
    matrix : ndarray (parameter, parameter)
        In units of the ranges.
    """

    parameters: tuple[str, ...]
    width: np.ndarray
    matrix: np.ndarray

    @property
    def undetermined(self):
        """Unit vectors, in units of the ranges, along which the deviation exceeds the range: (direction, parameter)."""
        values, vectors = np.linalg.eigh(self.matrix)
        return vectors.T[values < _DETERMINED]

    @property
    def covariance(self):
        """Its inverse, in the parameters' own units: the Cramer-Rao bound, (parameter, parameter).

        NaN for the parameters that take part in a direction that is not determined.
        """
        values, vectors = np.linalg.eigh(self.matrix)
        is_known = values >= _DETERMINED
        known = vectors[:, is_known]
        inverse = (known / values[is_known]) @ known.T
        is_lost = (np.abs(vectors[:, ~is_known]) > _INVOLVED).any(axis=1)
        inverse[is_lost, :] = inverse[:, is_lost] = np.nan
        return inverse * np.outer(self.width, self.width)

    @property
    def deviation(self):
        """The statistical floor of each parameter, (parameter,); NaN where nothing determines it."""
        return np.sqrt(np.diag(self.covariance))

    def step(self, score):
        """Newton's step along a slope (parameter,) in units of the ranges, in deviations: (parameter,).

        NaN for the parameters that nothing determines; the others have their step all the same.
        """
        covariance = np.nan_to_num(self.covariance / np.outer(self.width, self.width))
        return covariance @ score * self.width / self.deviation

    def describe_undetermined(self):
        """The directions that are not determined in words, or "" if all are."""
        lines = []
        for direction in self.undetermined:
            order = [k for k in np.argsort(-np.abs(direction)) if abs(direction[k]) > _INVOLVED]
            # The sign of an eigenvector means nothing.
            direction = direction * np.sign(direction[order[0]])
            lines.append(", ".join(f"{self.parameters[k]} ({direction[k]:+.2f})" for k in order))
        if not lines:
            return ""
        return (
            "Events and constraints leave a direction undetermined, in which parameters move together (in parts of "
            f"their ranges): {'; and '.join(lines)}. What is said about these parameters comes from their ranges. Add "
            "a constraint, or fix one of them."
        )

    def warn(self, who):
        """Show a UserWarning that names `who` and the directions that are not determined, if there are any."""
        text = self.describe_undetermined()
        if text:
            warnings.warn(f"{who}: {text}", stacklevel=3)

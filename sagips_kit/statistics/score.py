"""The score of a problem, learned from the derivative of its simulated events, without likelihood or labels.

For any function s of an event, d E[s] / d theta = E[s score], where score is the derivative of the log-density.  The
minimum over functions s (event) -> (direction) of

    1/2 E |s - E s|^2  -  sum_j d E[s_j] / d theta_j

is therefore the score itself, and both terms are means over simulated events and their path-wise derivatives.  A linear
combination of given functions has its minimum in closed form; a small network learns what is missing.  With weights of
events in place of derivatives this is the local score of arXiv 1805.12244.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .coordinates import Waves

Function = Callable[[Tensor], Tensor]

_WIDTHS = (64, 64)
_N_EPOCHS, _BATCH, _RATE = 24, 1024, 3e-3
_HELD_OUT = 0.25  # fraction of the simulated events that judge what the others have taught
_CLAMP = 30.0  # standard deviations at which derivatives are cut while a network learns


@dataclass(frozen=True, eq=False)
class Sample:
    """Simulated events as coordinates, with their derivatives along directions in the space of parameters.

    Parameters
    ----------
    z : Tensor (event, coordinate)
        Coordinates of the events.
    dz : Tensor (direction, event, coordinate)
        Their derivatives.
    """

    z: Tensor
    dz: Tensor

    def along(self, directions: Tensor) -> "Sample":
        """The same events with derivatives along other directions, (parameter, direction)."""
        return Sample(self.z, torch.einsum("pec,pd->dec", self.dz, directions))


def means_and_slopes(function: Function, sample: Sample) -> tuple[Tensor, Tensor]:
    """Values of functions (event, function), and the derivatives of their means (function, direction)."""
    slopes = [torch.func.jvp(function, (sample.z,), (tangent,))[1].mean(0) for tangent in sample.dz]
    return function(sample.z), torch.stack(slopes, -1)


def covariance_of(values: Tensor) -> Tensor:
    """Covariance (function, function) of values (event, function), a matrix also of a single function."""
    return torch.cov(values.T).reshape(values.shape[1], -1)


def solve_hermitian(matrix: Tensor, right: Tensor) -> Tensor:
    """Pseudo-inverse of a covariance, (function, function), times `right`; functions may depend on each other."""
    scale = matrix.diag().clamp(min=1e-300).rsqrt()
    scaled = matrix * scale[:, None] * scale
    return scale[:, None] * (torch.linalg.pinv(scaled, rtol=1e-9, hermitian=True) @ (scale[:, None] * right))


class _Network:
    """A perceptron with smooth activations and the derivatives of its outputs along tangents of its inputs."""

    def __init__(self, n_inputs: int, n_outputs: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.weights: list[Tensor] = []
        for before, after in itertools.pairwise((n_inputs, *_WIDTHS)):
            self.weights.append(torch.randn(before, after, generator=random) / math.sqrt(before))
            self.weights.append(0.5 * torch.randn(after, generator=random))
        # The last layer starts at zero: the network adds nothing until it has learned something.
        self.weights += [torch.zeros(_WIDTHS[-1], n_outputs), torch.zeros(n_outputs)]
        for weight in self.weights:
            weight.requires_grad_()

    def __call__(self, z: Tensor) -> Tensor:
        for k in range(0, len(self.weights) - 2, 2):
            z = torch.tanh(z @ self.weights[k] + self.weights[k + 1])
        return z @ self.weights[-2] + self.weights[-1]

    def with_change(self, z: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and their derivatives along `dz`."""
        for k in range(0, len(self.weights) - 2, 2):
            z = torch.tanh(z @ self.weights[k] + self.weights[k + 1])
            dz = (1 - z.square()) * (dz @ self.weights[k])
        return z @ self.weights[-2] + self.weights[-1], dz @ self.weights[-2]


class Score:
    """A function s(event) with one component for each direction, as near to the score as the samples could teach.

    Parameters
    ----------
    sample : Sample
        Simulated events with derivatives along the directions.
    waves : sequence of Waves
        Sets of functions of the closed-form part; the one that gains most on held-out events is taken.
    seed : int
        Of the network.

    Attributes
    ----------
    gains : dict of str to float
        Information per event, as a fraction of the number of directions, of each part on held-out events.
    """

    def __init__(self, sample: Sample, waves: Sequence[Waves], seed: int = 0) -> None:
        # Contiguous parts: every so many-th point of a Sobol sequence lies in one part of the cube.
        n = round((1 - _HELD_OUT) * len(sample.z))
        train, test = Sample(sample.z[:n], sample.dz[:, :n]), Sample(sample.z[n:], sample.dz[:, n:])
        candidates = [_linear(one, train) for one in waves]
        values = [_information(function, test) for function in candidates]
        best = int(np.argmax(values))
        self._linear = candidates[best]
        self.gains = {"functions": values[best]}
        self._mean, self._whitening = _whitening(train.z)
        self._network = self._learn(train, test, seed)
        # The best combination of both parts, in closed form: what adds nothing gets no weight.
        self._combination: Tensor | None = None
        both = _combined(self._parts, test)
        if (value := _information(lambda z: self._parts(z) @ both, train)) > values[best]:
            self._combination = both
            self.gains["with a network"] = value

    def __call__(self, z: Tensor) -> Tensor:
        """(event, coordinate) -> (event, direction)."""
        return self._linear(z) if self._combination is None else self._parts(z) @ self._combination

    def _inputs(self, z: Tensor) -> Tensor:
        return ((z - self._mean) @ self._whitening).float()

    def _parts(self, z: Tensor) -> Tensor:
        return torch.cat([self._linear(z), self._network(self._inputs(z)).double()], -1)

    def _learn(self, train: Sample, test: Sample, seed: int) -> _Network:
        """The network that minimises the objective together with the linear part; the best epoch on held-out events."""
        n_directions = len(train.dz)
        network = _Network(train.z.shape[1], n_directions, seed)
        optimiser = torch.optim.Adam(network.weights, lr=_RATE)
        random = torch.Generator().manual_seed(seed)
        data = [self._prepared(part) for part in (train, test)]
        n_steps, step = _N_EPOCHS * (len(train.z) // _BATCH), 0
        with torch.no_grad():
            best = self._objective(network, *data[1], None)
        kept = [weight.detach().clone() for weight in network.weights]
        for _ in range(_N_EPOCHS):
            order = torch.randperm(len(train.z), generator=random)
            for chosen in order.split(_BATCH)[: len(train.z) // _BATCH]:
                optimiser.param_groups[0]["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / n_steps))
                optimiser.zero_grad()
                z, dz, linear = data[0]
                self._objective(network, z[chosen], dz[:, chosen], linear[chosen], random).backward()
                optimiser.step()
                step += 1
            with torch.no_grad():
                value = self._objective(network, *data[1], None)
            if value < best:
                best, kept = value, [weight.detach().clone() for weight in network.weights]
        network.weights = kept
        return network

    def _prepared(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        dz = (sample.dz @ self._whitening).clamp(-_CLAMP, _CLAMP).float()
        return self._inputs(sample.z), dz, self._linear(sample.z).float()

    def _objective(
        self, network: _Network, z: Tensor, dz: Tensor, linear: Tensor, random: torch.Generator | None
    ) -> Tensor:
        """The objective, apart from the linear part's own share."""
        if random is None:  # exact: one direction after the other
            outputs = network(z)
            parts = [network.with_change(z, tangent)[1][:, j].mean() for j, tangent in enumerate(dz)]
            divergence = torch.stack(parts).sum()
        else:  # one tangent for each event, with random signs: the same on average
            signs = torch.randint(0, 2, (len(z), len(dz)), generator=random).float() * 2 - 1
            outputs, change = network.with_change(z, torch.einsum("ed,dec->ec", signs, dz))
            divergence = (signs * change).sum(1).mean()
        both = outputs + linear
        return 0.5 * (both - both.mean(0)).square().sum(1).mean() - divergence


def _linear(waves: Waves, sample: Sample) -> Function:
    """The combination of `waves` that minimises the objective, centred."""
    mean, matrix = waves(sample.z).mean(0), _combined(waves, sample)
    return lambda z: (waves(z) - mean) @ matrix


def _combined(function: Function, sample: Sample) -> Tensor:
    """Weights (function, direction) of the combination that minimises the objective."""
    values, slopes = means_and_slopes(function, sample)
    return solve_hermitian(covariance_of(values), slopes)


def _information(function: Function, sample: Sample) -> float:
    """Twice the negative objective, per direction: a lower bound of the information, reached by the score."""
    values, slopes = means_and_slopes(function, sample)
    return float(2 * slopes.trace() - covariance_of(values).trace()) / len(slopes)


def _whitening(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (coordinate,), and the matrix that makes coordinates uncorrelated with variance 1."""
    values, vectors = torch.linalg.eigh(covariance_of(z))
    return z.mean(0), vectors * values.clamp(min=1e-8 * float(values.max())).rsqrt()

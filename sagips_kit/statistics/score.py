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
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .basis import Basis
from .sample import Function, Sample, solve_hermitian, solve_with_ridges

_WIDTHS = (64, 64)
_N_EPOCHS, _BATCH, _RATE = 24, 1024, 1e-2
_N_PILOT_EPOCHS, _N_PILOT = 6, 16384  # of the short training that shows whether a network adds anything
_GAIN = 5e-4  # smallest gain of information in all directions together for which a network is trained fully
_HELD_OUT = 0.25  # fraction of the simulated events that judge what the others have taught
_N_PARTS, _CERTAIN = 8, 2.0  # parts of these events, and standard errors by which more functions must be better
_RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # relative; of weights in closed form
_RARE, _BEYOND = 1e-3, 2.5  # quantiles of a score, and how many times farther from its median it may be
_CLAMP = 30.0  # standard deviations at which derivatives are cut while a network learns


class _Linear:
    """Combinations of given functions: `matrix` is (function, direction), and `centre` (direction,) is subtracted."""

    def __init__(self, functions: "Basis | _Joined", matrix: Tensor, centre: Tensor) -> None:
        self._functions, self._matrix, self._centre = functions, matrix, centre

    def state(self) -> dict[str, Tensor]:
        return {"matrix": self._matrix, "centre": self._centre}

    def __call__(self, z: Tensor) -> Tensor:
        return self._functions.combined(z, self._matrix) - self._centre

    def slopes(self, sample: Sample) -> Tensor:
        return self._matrix.T @ self._functions.slopes(sample)


class _Joined:
    """Functions side by side."""

    def __init__(self, *functions: Function) -> None:
        self._functions = functions

    def __call__(self, z: Tensor) -> Tensor:
        return torch.cat([function(z) for function in self._functions], -1)

    def combined(self, z: Tensor, matrix: Tensor) -> Tensor:
        return self(z) @ matrix

    def slopes(self, sample: Sample) -> Tensor:
        return torch.cat([function.slopes(sample) for function in self._functions])


class _Limited:
    """Functions whose values are limited to what is usual at the events they were learned from.

    Where no event has taught them, they may have any value, and one observed event would decide.
    """

    def __init__(self, function: _Linear, low: Tensor, high: Tensor) -> None:
        self._function, self._low, self._high = function, low, high

    @classmethod
    def at(cls, function: _Linear, z: Tensor) -> "_Limited":
        """Limited to what is usual at these events."""
        values = function(z)
        ordered = values.sort(0).values  # torch.quantile refuses many directions
        low, middle, high = (ordered[round(level * (len(values) - 1))] for level in (_RARE, 0.5, 1 - _RARE))
        return cls(function, middle - _BEYOND * (middle - low), middle + _BEYOND * (high - middle))

    @classmethod
    def restored(cls, functions: "Basis | _Joined", state: dict[str, Tensor]) -> "_Limited":
        return cls(_Linear(functions, state["matrix"], state["centre"]), state["low"], state["high"])

    def state(self) -> dict[str, Tensor]:
        return self._function.state() | {"low": self._low, "high": self._high}

    def __call__(self, z: Tensor) -> Tensor:
        return self._function(z).clamp(self._low, self._high)

    def slopes(self, sample: Sample) -> Tensor:
        return self._function.slopes(sample)  # events at the limits are too few to matter


class _Network:
    """A perceptron with smooth activations on whitened coordinates.

    Where differences are learned from, which need only values, it also sees the function that it adds to: this knows
    where a narrow peak is.
    """

    def __init__(self, mean: Tensor, whitening: Tensor, given: Function | None, unit: Tensor | None) -> None:
        self._mean, self.whitening, self._given, self._unit = mean, whitening, given, unit
        self.weights: list[Tensor] = []

    @classmethod
    def new(cls, sample: Sample, seed: int, given: Function) -> "_Network":
        """With random weights."""
        values, vectors = torch.linalg.eigh(torch.cov(sample.z.T).reshape(sample.z.shape[1], -1))
        whitening, unit = vectors * values.clamp(min=1e-8 * float(values.max())).rsqrt(), None
        if sample.tangents is None:
            unit = sample.covariance(given(sample.z)).diag().sqrt().clamp(min=1e-9)
        network = cls(sample.mean(sample.z), whitening, None if unit is None else given, unit)
        random = torch.Generator().manual_seed(seed)
        for before, after in itertools.pairwise((network.inputs(sample.z[:1]).shape[1], *_WIDTHS)):
            network.weights.append(torch.randn(before, after, generator=random) / math.sqrt(before))
            network.weights.append(0.5 * torch.randn(after, generator=random))
        # The last layer starts at zero: the network adds nothing until it has learned something.
        n = sample.n_directions
        network.weights += [torch.zeros(_WIDTHS[-1], n), torch.zeros(n)]
        return network

    @classmethod
    def restored(cls, given: Function, state: dict[str, Any]) -> "_Network":
        unit = state.get("unit")
        network = cls(state["mean"], state["whitening"], None if unit is None else given, unit)
        network.weights = [state["weights"][str(k)] for k in range(len(state["weights"]))]
        return network

    def state(self) -> dict[str, Any]:
        weights = {str(k): weight.detach() for k, weight in enumerate(self.weights)}
        state = {"mean": self._mean, "whitening": self.whitening, "weights": weights}
        return state if self._unit is None else state | {"unit": self._unit}

    def __call__(self, z: Tensor) -> Tensor:
        return self.outputs(self.inputs(z)).to(z.dtype)

    def slopes(self, sample: Sample) -> Tensor:
        with torch.no_grad():
            layers, z = [], self.inputs(sample.z)
            for k in range(0, len(self.weights) - 2, 2):
                z = torch.tanh(z @ self.weights[k] + self.weights[k + 1])
                layers.append((self.weights[k], 1 - z.square()))
            means = []
            assert sample.tangents is not None
            for dz in sample.tangents:
                change = (dz @ self.whitening).float()
                for weight, slope in layers:
                    change = slope * (change @ weight)
                means.append(sample.mean(change.double()) @ self.weights[-2].double())
        return torch.stack(means, -1)

    def inputs(self, z: Tensor) -> Tensor:
        """Inputs (event, input) in single precision."""
        whitened = (z - self._mean) @ self.whitening
        if self._given is not None and self._unit is not None:
            whitened = torch.cat([whitened, self._given(z) / self._unit], -1)
        return whitened.float()

    def outputs(self, z: Tensor) -> Tensor:
        """Outputs (event, direction) for inputs."""
        for k in range(0, len(self.weights) - 2, 2):
            z = torch.tanh(z @ self.weights[k] + self.weights[k + 1])
        return z @ self.weights[-2] + self.weights[-1]

    def with_change(self, z: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and their derivatives along `dz`."""
        for k in range(0, len(self.weights) - 2, 2):
            z = torch.tanh(z @ self.weights[k] + self.weights[k + 1])
            dz = (1 - z.square()) * (dz @ self.weights[k])
        return z @ self.weights[-2] + self.weights[-1], dz @ self.weights[-2]


class _Data:
    """What a network learns from: a sample in single precision, and the values of the part that is given."""

    def __init__(self, sample: Sample, network: _Network, given: Function) -> None:
        self.z, self.given = network.inputs(sample.z), given(sample.z).float()
        self.weights = sample.weights.float()
        kinds = sample.category.unique()
        self.is_category = (sample.category[:, None] == kinds).float()
        self._n_directions, self._tangents = sample.n_directions, None
        if sample.tangents is not None:
            self._tangents = (sample.tangents @ network.whitening).clamp(-_CLAMP, _CLAMP).float()
        elif sample.differences is not None:
            before, after, width = sample.differences
            self._before, self._after = (torch.stack([network.inputs(z) for z in place]) for place in (before, after))
            self._width = width.float()

    def objective(self, network: _Network, chosen: Tensor | slice, random: torch.Generator | None) -> Tensor:
        """The objective for some of the events, apart from the given part's own share; without `random`, exactly."""
        z, weights = self.z[chosen], self.weights[chosen]
        both = network.outputs(z) + self.given[chosen]
        in_category = self.is_category[chosen] * weights[:, None]
        means = (in_category.T @ both) / in_category.sum(0)[:, None].clamp(min=1e-6)
        size = 0.5 * (weights[:, None] * (both - self.is_category[chosen] @ means).square()).sum(1).mean()
        if random is None:
            divergence = torch.stack([self._change(network, chosen, k) for k in range(self._n_directions)]).sum(0)
        else:
            divergence = self._random_change(network, chosen, random)
        return size - (weights * divergence).mean()

    def _change(self, network: _Network, chosen: Tensor | slice, k: int) -> Tensor:
        """Change (event,) of the k-th component along the k-th direction."""
        if self._tangents is not None:
            return network.with_change(self.z[chosen], self._tangents[k, chosen])[1][:, k]
        before, after = (network.outputs(z[k, chosen])[:, k] for z in (self._before, self._after))
        return (after - before) / self._width[k]

    def _random_change(self, network: _Network, chosen: Tensor | slice, random: torch.Generator) -> Tensor:
        """Numbers (event,) whose mean is the sum of these changes over the directions."""
        n, n_events = self._n_directions, len(self.z[chosen])
        if self._tangents is not None:
            # One tangent for each event, with random signs
            signs = torch.randint(0, 2, (n_events, n), generator=random).float() * 2 - 1
            tangents = torch.einsum("ed,dec->ec", signs, self._tangents[:, chosen])
            return (signs * network.with_change(self.z[chosen], tangents)[1]).sum(1)
        # One direction for each event
        k = torch.randint(0, n, (n_events,), generator=random)
        before, after = (network.outputs(z[k, chosen]).gather(1, k[:, None])[:, 0] for z in (self._before, self._after))
        return n * (after - before) / self._width[k]


class Score:
    """A function s(event) with one component for each direction, as near to the score as the samples could teach.

    Parameters
    ----------
    sample : Sample
        Simulated events with derivatives along the directions.
    bases : sequence of Basis
        Sets of functions of the closed-form part, the smallest first; the best on held-out events is taken.
    seed : int
        Of the network.
    is_rough : bool
        Whether a short training of the network is enough, as where parameters are still far from the solution.
    least : float
        Information that is known to be possible; if a short training does not show it, the network is trained fully.

    Attributes
    ----------
    is_complete : bool
        Whether a thorough training would give the same.
    gains : dict of str to float
        Information per event, as a fraction of the number of directions, of each part on held-out events.
    """

    def __init__(
        self, sample: Sample, bases: Sequence[Basis], seed: int = 0, is_rough: bool = False, least: float = 0.0
    ) -> None:
        # Contiguous parts: every so many-th point of a Sobol sequence lies in one part of the cube.
        n = round((1 - _HELD_OUT) * len(sample.z))
        train, test = sample.part(0, n), sample.part(n, len(sample.z))
        number, function, value = _best(bases, train, test)
        self._function, self.gains = _Limited.at(function, sample.z), {"functions": value}
        self._state: dict[str, Any] = {"basis": torch.tensor(number), "functions": self._function.state()}
        network = _Network.new(train, seed, self._function)
        pilot, judge = train.part(0, min(n, _N_PILOT)), test.part(0, min(len(test.z), _N_PILOT // 2))
        gain = _learn(network, pilot, judge, self._function, _N_PILOT_EPOCHS, seed)
        is_poor = value + gain / sample.n_directions < least
        self.is_complete = gain < _GAIN and not is_poor
        if not self.is_complete:
            if not is_rough or is_poor:
                _learn(network, train, test, self._function, _N_EPOCHS, seed)
                self.is_complete = True
            middle, end = len(test.z) // 2, len(test.z)
            combined, value = _combined(self._function, network, test.part(0, middle), unseen := test.part(middle, end))
            if value > _information(self._function, unseen):
                self._function = _Limited.at(combined, sample.z)
                self.gains["with a network"] = value
                self._state |= {"network": network.state(), "joined": self._function.state()}

    @property
    def information(self) -> float:
        """float: Information per event of all parts together, per direction, on held-out events."""
        return [*self.gains.values()][-1]

    @staticmethod
    def restored(bases: Sequence[Basis], state: dict[str, Any]) -> Function:
        """The function of a score that was learned with bases of the same coordinates."""
        function = _Limited.restored(bases[int(state["basis"])], state["functions"])
        if "network" not in state:
            return function
        return _Limited.restored(_Joined(function, _Network.restored(function, state["network"])), state["joined"])

    def state(self) -> dict[str, Any]:
        """What `restored` needs, as nested dict of Tensor."""
        return self._state

    def __call__(self, z: Tensor) -> Tensor:
        """(event, coordinate) -> (event, direction)."""
        return self._function(z)

    def slopes(self, sample: Sample) -> Tensor:
        """Derivatives (component, direction) of the means over a sample that has tangents."""
        return self._function.slopes(sample)


def _learn(network: _Network, train: Sample, test: Sample, given: Function, n_epochs: int, seed: int) -> float:
    """Train a network that adds to what is given, and return the information that it gains on held-out events.

    The weights become those of the best epoch on held-out events.
    """
    learned, judged = _Data(train, network, given), _Data(test, network, given)
    for weight in network.weights:
        weight.requires_grad_()
    optimiser = torch.optim.Adam(network.weights, lr=_RATE)
    random = torch.Generator().manual_seed(seed)
    n_batches = len(train.z) // _BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_epochs * n_batches)
    values, kept = [], [weight.detach().clone() for weight in network.weights]
    for epoch in range(n_epochs + 1):
        if epoch == 0 or epoch > n_epochs / 3:
            with torch.no_grad():
                values.append(float(judged.objective(network, slice(None), None)))
            if values[-1] <= min(values):
                kept = [weight.detach().clone() for weight in network.weights]
        if epoch == n_epochs:
            break
        for chosen in torch.randperm(len(train.z), generator=random).split(_BATCH)[:n_batches]:
            optimiser.zero_grad()
            learned.objective(network, chosen, random).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        for weight, good in zip(network.weights, kept, strict=True):
            weight.requires_grad_(False).copy_(good)
    gain = 2 * (values[0] - min(values))
    return gain if math.isfinite(gain) else 0.0


def _linear(functions: Basis | _Joined, train: Sample, test: Sample) -> tuple[_Linear, float]:
    """The combination of functions that minimises the objective, and its information on events that did not teach it.

    Weights are shrunk as much as serves the other events: where events are rare, functions would be combined by chance.
    """
    values = functions(train.z)
    covariance, slopes = train.covariance(values), train.slopes(functions)
    unseen, unseen_slopes = test.covariance(functions(test.z)), test.slopes(functions)
    best, most = torch.zeros_like(slopes), -math.inf
    for matrix in solve_with_ridges(covariance, slopes, _RIDGES):
        size = (matrix * (unseen @ matrix)).sum()
        information = float(2 * (matrix * unseen_slopes).sum() - size) / slopes.shape[1]
        if information > most:
            best, most = matrix, information
    return _Linear(functions, best, train.mean(values) @ best), most


def _best(bases: Sequence[Basis], train: Sample, test: Sample) -> tuple[int, _Linear, float]:
    """The number of the best set of functions, their combination, and its information on events that did not teach it.

    Where events say little, that of many functions is uncertain: more functions must be better beyond doubt.  Sets of
    less than two functions for each direction are left out, unless all are.
    """
    parts, best, most = test.parts(_N_PARTS), None, torch.zeros(_N_PARTS)
    for number, basis in enumerate(bases):
        is_small = basis(train.z[:1]).shape[1] < 2 * train.n_directions
        if is_small and number < len(bases) - 1:
            continue
        function, value = _linear(basis, train, test)
        information = torch.tensor([_information(function, part) for part in parts])
        gain = information - most
        if best is None or gain.mean() > _CERTAIN * gain.std() / math.sqrt(_N_PARTS):
            best, most = (number, function, value), information
    assert best is not None
    return best


def _combined(function: Function, network: _Network, some: Sample, unseen: Sample) -> tuple[_Linear, float]:
    """The sum of both or, if unseen events prefer it, their best combination on some events, and its information."""
    both = _Joined(function, network)
    matrix = torch.eye(some.n_directions, dtype=some.z.dtype).repeat(2, 1)
    added = _Linear(both, matrix, some.mean(both(some.z)) @ matrix)
    best, value = _linear(both, some, unseen)
    information = _information(added, unseen)
    return (added, information) if information > value else (best, value)


def _information(function: Function, sample: Sample) -> float:
    """Twice the negative objective, per direction: a lower bound of the information, reached by the score."""
    slopes = sample.slopes(function)
    return float(2 * slopes.trace() - sample.covariance(function(sample.z)).trace()) / len(slopes)


def information_matrix(function: Function, sample: Sample) -> Tensor:
    """Information (direction, direction) per event of the means of a function."""
    slopes = sample.slopes(function)
    return slopes.T @ solve_hermitian(sample.covariance(function(sample.z)), slopes)

"""Where generators begin: at the fit of their own resample, as far as the learned score knows it."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..events.resampling import check_events
from ..events.streams import Stream, numpy_stream
from ..problems.base import Problem, n_external
from ..store.witnesses import is_witness
from .basis import bases_of
from .features import of_events
from .sample import Function
from .score import Score
from .simulated import Observation, Simulation
from .solve import Solution, corrected

_CHUNK = 16_384  # events whose score is computed at a time
_N_STEPS, _N_PROJECTIONS = 16, 3  # of the way along the constraints, and onto them in each step
_N_DIRECTIONS, _NEAR_ENOUGH = 4, 0.3  # that are tried, until the distance is right within this fraction
_AS_BEFORE = 1.0  # deviations by which constraints may differ at its end
_INSIDE, _MARGIN = 1e-4, 0.02  # least distances (in units of the range) of generators and witnesses from its ends


@dataclass(frozen=True, eq=False)
class Start:
    """What a fit knows of other data sets: its score, and how the answer follows the mean score.

    Chains begin at the fit of their own resample.  A quarter of them are witnesses: they begin 2 deviations away, or
    more in a short run, in a random direction, and their discriminators do not see the score, so that nothing but the
    events leads them back.

    Parameters
    ----------
    problem : Problem
        The problem.
    observed : Observation
        The events that were fitted.
    score : function
        The learned score: coordinates (event, coordinate) -> (event, component).
    state : dict
        The rest, as nested dict of Tensor: the answer, how it depends on the mean score and on external knowledge, its
        covariance, and what `Score.restored` needs.

    See Also
    --------
    ScoreFit.start : The start that a fit gives.
    """

    problem: Problem
    observed: Observation
    score: Function
    state: dict[str, Any]
    _scores: dict[tuple[torch.device, torch.dtype], Function] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, problem: Problem, observed: Observation, score: Score, solution: Solution) -> "Start":
        """The start at a solution."""
        state = {
            "t": solution.t,
            "influence": solution.influence,
            "external": solution.external,
            "information": solution.information,
            "covariance": solution.covariance,
            "score": score.state(),
        }
        # What a checkpoint gives back, with the same order in memory and so with the same bits
        state = _changed(state, Tensor.contiguous)
        return cls(problem, observed, Score.restored(bases_of(observed.coordinates), state["score"]), state)

    @classmethod
    def restored(cls, problem: Problem, events: NDArray[Any], state: dict[str, Any]) -> "Start":
        """The start of a fit of these events (event, observable), from its state."""
        observed = Observation(problem, check_events(problem, events).astype(np.float64))
        return cls(problem, observed, Score.restored(bases_of(observed.coordinates), state["score"]), state)

    def state_dict(self) -> dict[str, Any]:
        """The state, which a checkpoint holds."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept the state of the same start only.

        Raises
        ------
        ValueError
            If it is that of another one.
        """
        if not torch.equal(state["t"], self.state["t"]):
            raise ValueError("the run began at another fit")

    @property
    def n_components(self) -> int:
        """int: Number of components of the score."""
        return self.state["influence"].shape[1]

    def features(self, events: Tensor) -> Tensor:
        """The score of events: (..., observable) -> (..., component), differentiable, in their type."""
        return of_events(self.problem, self.observed.coordinates, self._score_for(events), events)

    def _score_for(self, events: Tensor) -> Function:
        """The score with its numbers on the device of events and in their precision."""
        device, dtype = events.device, events.dtype
        if device.type == "cpu" and dtype == torch.float64:
            return self.score
        if (device, dtype) not in self._scores:
            state = _changed(
                self.state["score"], lambda one: one.to(device, dtype if one.is_floating_point() else one.dtype)
            )
            self._scores[device, dtype] = Score.restored(bases_of(self.observed.coordinates), state)
        return self._scores[device, dtype]

    def fits_of(self, events: Tensor, resamples: Sequence[Tensor], shifts: Tensor) -> Tensor:
        """The fits of resamples of the events.

        Parameters
        ----------
        events : Tensor (event, observable)
            All events.
        resamples : sequence of Tensor (event,) of int
            Indices of the events of each resample.
        shifts : Tensor (resample, external)
            Shifts of the values of priors and measurements, in standard deviations.

        Returns
        -------
        Tensor (resample, parameter)
            To first order in the difference from all events, in the parameters' units.
        """
        simulation, state = self._simulation, self.state
        theta = simulation.theta(state["t"])
        means = self._means(events, resamples)
        residuals, places = simulation.residuals(state["t"]), []
        for chosen, shift, difference in zip(resamples, shifts, means[1:] - means[0], strict=True):
            # Constraints compare with a statistic of the resample.
            statistic = self.problem.statistic(events[chosen].double())
            moved = residuals - self.problem.residuals(theta, statistic, shift.double())
            step = state["influence"] @ difference + state["external"] @ moved
            places.append(corrected(simulation, state["t"], step, state["information"]))
        return torch.stack([simulation.theta(t) for t in places])

    def _means(self, events: Tensor, resamples: Sequence[Tensor]) -> Tensor:
        """Mean score (1 + resample, component) of all events and of each resample, with the same shares of categories.

        Of few events at a time, since a score has many components.
        """
        n_categories, n = self.problem.n_categories, len(events)
        copies = [torch.bincount(chosen, minlength=n).to(torch.int16) for chosen in resamples]
        copies = torch.stack([torch.ones(n, dtype=torch.int16), *copies])
        sums = torch.zeros(n_categories, len(copies), self.n_components, dtype=torch.float64)
        counts = torch.zeros(n_categories, len(copies), dtype=torch.float64)
        for some, of_some in zip(events.split(_CHUNK), copies.split(_CHUNK, 1), strict=True):
            with torch.no_grad():
                values = self.features(some).double()
            category = self.problem.category(some) if n_categories > 1 else torch.zeros(len(some)).long()
            for k in category.unique().tolist():
                weights = of_some[:, category == k].double()
                sums[k] += weights @ values[category == k]
                counts[k] += weights.sum(1)
        # A resample may have lost all events of a rare category.
        means = torch.where(counts[..., None] > 0, sums / counts[..., None].clamp(min=1), sums.sum(0) / n)
        return torch.einsum("k,krc->rc", counts[:, 0] / n, means)

    def displaced(self, fits: Tensor, chains: Sequence[int], n_chains: int, seed: int, distance: float) -> Tensor:
        """Where chains begin whose resamples have these fits (chain, parameter), in the parameters' units.

        Witnesses begin elsewhere, at a distance in deviations.
        """
        simulation = self._simulation
        values, vectors = torch.linalg.eigh(self.state["covariance"])
        root = vectors * values.clamp(min=0).sqrt()
        deviation, places = self.state["covariance"].diag().sqrt(), []

        def rms(step: Tensor) -> float:
            return float((step / deviation).square().mean().sqrt())

        for theta, chain in zip(fits, chains, strict=True):
            t = simulation.t_of(theta)
            if is_witness(chain, n_chains):
                random = numpy_stream(seed, Stream.WITNESS, chain)
                steps = [root @ torch.as_tensor(random.normal(size=len(t))) for _ in range(_N_DIRECTIONS)]
                t = self._moved(simulation, t, [step * distance / rms(step) for step in steps], rms, distance)
            places.append(simulation.theta(torch.where(simulation.is_periodic, t, t.clamp(_INSIDE, 1 - _INSIDE))))
        return torch.stack(places)

    def _moved(
        self,
        simulation: Simulation,
        t: Tensor,
        steps: list[Tensor],
        rms: Callable[[Tensor], float],
        distance: float,
    ) -> Tensor:
        """The place after one of these steps inside the ranges that is nearest to this distance.

        The constraints say there what they did before; one that is known precisely is curved over a few deviations, and
        is followed in short steps.
        """
        n = len(simulation.residuals(t)) - n_external(self.problem)
        before, covariance = simulation.residuals(t)[:n], self.state["covariance"]
        best, nearest = t, math.inf
        # At an end of a range a generator hardly moves.
        margin = torch.where(simulation.is_periodic, -math.inf, torch.minimum(t, 1 - t).clamp(_INSIDE, _MARGIN))

        def projected(at: Tensor) -> Tensor:
            pulls = simulation.pulls(at, n)
            if not pulls.isfinite().all():
                return torch.full_like(at, math.nan)  # constraints need not be defined everywhere
            back = covariance @ pulls.T @ torch.linalg.pinv(pulls @ covariance @ pulls.T, hermitian=True)
            for _ in range(_N_PROJECTIONS):
                at = at - back @ (simulation.residuals(at)[:n] - before)
            return at

        for one in (sign * length * step for step in steps for length in (1.0, 1.7, 0.5, 0.25) for sign in (1, -1)):
            at = t
            for _ in range(_N_STEPS):
                at = at + one / _N_STEPS
                at = (projected(at) if n else at).clamp(margin, 1 - margin)
            is_as_before = (simulation.residuals(at)[:n] - before).abs().lt(_AS_BEFORE).all()
            off = abs(math.log(max(rms(at - t), 1e-9) / distance))
            if off < nearest and bool(is_as_before):
                best, nearest = at, off
            if nearest < _NEAR_ENOUGH:
                break
        return best

    def in_ranges(self) -> tuple[Tensor, Tensor]:
        """The Fisher information of all events (parameter, parameter) and deviations (parameter,), in units of ranges.

        Also of parameters whose logarithm was fitted.  The information is without that of constraints, priors and
        measurements; the deviations are with it.
        """
        simulation, state = self._simulation, self.state
        slopes = simulation.scale(state["t"]) / (simulation.upper - simulation.lower)
        pulls = simulation.pulls(state["t"])
        information = state["information"] - pulls.T @ pulls
        return information / slopes / slopes[:, None], state["covariance"].diag().sqrt() * slopes

    @functools.cached_property
    def _simulation(self) -> Simulation:
        return Simulation(self.problem, self.problem.statistic(self.observed.events), 0)


def _changed(state: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Nested dicts of tensors with each tensor changed."""
    return {name: _changed(item, change) if isinstance(item, dict) else change(item) for name, item in state.items()}

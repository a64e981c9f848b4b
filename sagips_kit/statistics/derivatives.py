"""Whether the derivative of simulated events is that of their distribution, and differences in place of it."""

import torch
from torch import Tensor

from .basis import Basis
from .sample import Function, Sample
from .simulated import Observation, Simulation

_N, _N_PARTS = 16384, 8  # simulated events of the comparison, and the parts between which derivatives scatter
_WRONG, _SIGNIFICANT = 0.3, 6.0  # relative difference of two derivatives that counts, if so many errors
_NOTABLE = 0.05  # of the largest derivative by the same parameter, in deviations of the function
_WIDTH = 0.6  # of differences, in deviations of one event


def at_neighbours(simulation: Simulation, observed: Observation, t: Tensor, deviation: Tensor) -> Sample:
    """Simulated events at t, and their differences along each parameter in units of its `deviation` (parameter,).

    That is the deviation of one event, so the places are far enough from each other to average over the steps that
    roundings and cuts make.
    """
    return observed.differences(simulation, t, simulation.noise(_N, 3), torch.diag(deviation), _WIDTH)


def wrong_derivatives(
    simulation: Simulation, observed: Observation, basis: Basis, t: Tensor, deviation: Tensor
) -> list[str]:
    """Parameters by which the means of `basis` have other derivatives than differences."""
    sample = observed.tangents(simulation, t, simulation.noise(_N, 3), torch.diag(deviation))
    slopes, errors = _by_parts(sample, basis)
    differences, errors_beside = _by_parts(at_neighbours(simulation, observed, t, deviation), basis)
    off, size = (slopes - differences).abs(), torch.maximum(slopes.abs(), differences.abs())
    error = _SIGNIFICANT * torch.maximum(errors, errors_beside)
    # What is below is rounding, or curvature between the places of the differences.
    spread = basis(sample.z).std(0)[:, None].clamp(min=1e-300)
    least = spread * torch.clamp(_NOTABLE * (size / spread).amax(0), min=1e-6)
    is_wrong = ((off > _WRONG * size) & (off > error) & (size > error) & (off > least)).any(0)
    return [name for name, wrong in zip(simulation.parameters, is_wrong, strict=True) if wrong]


def _by_parts(sample: Sample, function: Function) -> tuple[Tensor, Tensor]:
    """Derivatives (function, direction) of means, and their errors, from parts of a sample."""
    slopes = torch.stack([part.slopes(function) for part in sample.parts(_N_PARTS)])
    return slopes.mean(0), (slopes.var(0) / _N_PARTS).sqrt()


def edge_slopes(simulation: Simulation, t: Tensor, noise: Tensor, width: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Events (event, observable), and how they change with each parameter: derivatives, or differences."""
    if not simulation.uses_differences:
        return simulation.with_tangents(t, noise)
    events, changes = simulation.events(t, noise), []
    for axis in torch.diag(width):
        before, after, distance = simulation.around(t, axis, 1.0)
        change = (simulation.events(after, noise) - simulation.events(before, noise)) / distance
        changes.append(change / axis.max().clamp(min=1e-300))
    return events, changes

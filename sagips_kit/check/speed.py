"""How long a simulation takes, compared with the networks of the GAN."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..training.networks import Discriminator
from ..training.settings import Settings
from .case import Case
from .report import Remark, fix

_SLOW = 20.0  # ratio of the simulation's time to that of the networks from which it is worth an effort


def speed(case: Case) -> Iterator[Remark]:
    """Simulating takes no longer than a few steps of the networks."""
    settings, problem = Settings(), case.problem
    theta = problem.scale(torch.full((settings.n_sets, len(problem.parameters)), 0.5)).requires_grad_()
    rows = case.noise(settings.n_events, torch.float32).view(settings.n_sets, -1, problem.noise_dim)

    def simulation():
        features = case.features_at(torch.vmap(case.simulate)(theta, rows)).flatten(0, 1)
        torch.autograd.grad(features.sum(), theta, allow_unused=True)
        return features.detach().float()[None]

    features = simulation()
    discriminator = Discriminator(features.shape[-1], settings.discriminator_widths, [case.random()])

    def networks():
        torch.autograd.grad(discriminator(features).sum(), list(discriminator.parameters()))

    own, reference = _seconds(simulation, networks)
    if own > _SLOW * reference:
        yield fix(
            f"simulating and differentiating takes {1e6 * own / settings.n_events:.3g} microseconds per event, "
            f"{own / reference:.0f} times as long as the networks. Compute tables once instead of for each event, and "
            "avoid loops over events."
        )


def _seconds(*functions: Callable[[], Any]) -> NDArray[np.float64]:
    """CPU time of one thread for each function, so that other processes do not count: the least of some runs."""
    n_threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        while len(times) < 6 and sum(map(sum, times)) < 2:
            times.append([_cpu_time(function) for function in functions])
    finally:
        torch.set_num_threads(n_threads)
    return np.min(times[1:] or times, axis=0)  # the first run allocates memory


def _cpu_time(function: Callable[[], Any]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start

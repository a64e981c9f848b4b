"""The least memory that a rank needs to train, known before anything is allocated."""

from itertools import pairwise

from ..problems.base import Problem
from .settings import Settings

_MOST = 2**40  # bytes: no device has as much
_UNKNOWN = 2**60  # bytes: more is not written as a number
_COPIES = 4  # a weight, its gradient, and Adam's two moments of it
_NUMBER = 4  # bytes


def least_bytes(problem: Problem, settings: Settings) -> dict[str, int]:
    """The least memory of one rank for its networks, the events of a step, and its results, in bytes by purpose."""
    n_parameters, n_observables = len(problem.parameters), len(problem.observables)
    generator = [settings.latent_dim, *settings.generator_widths, n_parameters]
    if settings.generator == "convolution":  # whose weights do not join all with all
        generator = [1]
    discriminator = [n_observables, *settings.discriminator_widths, 1]
    n_weights = sum(a * b for widths in (generator, discriminator) for a, b in pairwise(widths))
    per_event = problem.noise_dim + n_observables + sum(settings.discriminator_widths)
    per_draw = 2 * n_parameters + settings.n_predictive * n_observables
    return {
        "networks": settings.n_members * n_weights * _COPIES * _NUMBER,
        "events": settings.n_members * settings.n_events * per_event * _NUMBER,
        "results": settings.n_members * settings.n_draws * per_draw * _NUMBER,
    }


def require_memory(problem: Problem, settings: Settings, available: int = _MOST, where: str = "any machine") -> None:
    """Raise ValueError if a rank needs more memory than is available, in bytes."""
    needs = least_bytes(problem, settings)
    if (total := sum(needs.values())) <= available:
        return
    fields = {
        "networks": "n_members, generator_widths or discriminator_widths",
        "events": "n_members, n_events or discriminator_widths",
        "results": "n_members, n_draws or n_predictive",
    }
    most = max(needs, key=lambda purpose: needs[purpose])
    raise ValueError(
        f"n_members = {settings.n_members}: these settings need at least {_in_words(total)} of memory on each rank, "
        f"{_in_words(needs[most])} of it for {most}, and {where} has {_in_words(available)} at most. Choose a smaller "
        f"{fields[most]}."
    )


def _in_words(n_bytes: int) -> str:
    if n_bytes > _UNKNOWN:
        return f"over {_in_words(_UNKNOWN)}"
    return f"{n_bytes / 2**30:,.1f} GiB".replace(",", " ")

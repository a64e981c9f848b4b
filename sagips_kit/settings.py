"""Values: frozen, validated dataclasses that travel (pickle, JSON) and explain themselves.

A *value* is what a user writes down in a notebook cell: how to train, how to exchange, which problem.  Everything that
owns memory, files or messages is a resource and lives elsewhere.
"""

import difflib
import functools
from dataclasses import fields
from typing import Annotated, Literal

import pydantic
from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def value(cls):
    """Class decorator: a frozen keyword-only dataclass whose fields are checked when it is made.

    Raises
    ------
    ValueError
        By the constructor, for an unknown field, a wrong type or a number out of range; the text names the class, what
        was given and what is allowed.
    """
    config = pydantic.ConfigDict(extra="forbid", strict=True)
    cls = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)
    checked_init = cls.__init__

    @functools.wraps(checked_init)
    def __init__(self, *args, **kwargs):
        try:
            checked_init(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ValueError(_explain(cls, error)) from None

    cls.__init__ = __init__
    return cls


def _explain(cls, error):
    allowed = [field.name for field in fields(cls)]
    lines = []
    for detail in error.errors():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        if detail["type"] in ("unexpected_keyword_argument", "unexpected_positional_argument"):
            guess = difflib.get_close_matches(name, allowed, n=1)
            hint = f" Did you mean {guess[0]}?" if guess else ""
            lines.append(f"unknown field {name!r}.{hint} Allowed: {', '.join(allowed)}.")
        else:
            message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            wanted = message if "error" in detail.get("ctx", {}) else f"should be {message}"
            lines.append(f"{name} = {detail['input']!r}: {wanted}.")
    return f"{cls.__name__}: " + " ".join(lines)


@value
class Settings:
    """How one rank trains its members; everything here is a choice, nothing a fact about the problem.

    Parameters
    ----------
    n_members : int
        Independent GANs trained side by side on each rank, as one batch.
    n_sets : int
        Parameter vectors drawn from the generator in each step.
    n_events : int
        Events in one step of one member: shared evenly by the parameter vectors; the batch of observed events has the
        same size.
    latent_dim : int
        Dimension of the generator's input.
    generator_widths, discriminator_widths : tuple of int
        Hidden layers of the two networks.
    generator_rate, discriminator_rate : float
        Initial learning rates of the two Adam optimisers; both follow a half cosine down to `final_rate` of it.
    loss : {"logistic", "least squares"}
        Adversarial loss: the non-saturating logistic one, or least squares on sigmoid outputs as in the paper.
    constraint_weight : float
        Weight of the problem's constraints relative to their weight in the likelihood (1).
    averaging : float
        Fraction of the run, at its end, over which the generator's weights are averaged.
    bootstrap : {"balanced", "none"}
        Every generator learns from its own resample of the observed events (balanced over the ensemble, so that the
        resamples' mean is the data), or all learn from the events themselves.
    record_every : int
        Steps between two rows of the history.
    block_s : float
        Seconds between two writes to the store, at least.
    """

    n_members: Count = 2
    n_sets: Count = 16
    n_events: Count = 4096
    latent_dim: Count = 4
    generator_widths: tuple[Count, ...] = (64, 64)
    discriminator_widths: tuple[Count, ...] = (64, 64, 64)
    generator_rate: Positive = 1e-3
    discriminator_rate: Positive = 2e-3
    final_rate: Fraction = 0.02
    loss: Literal["logistic", "least squares"] = "logistic"
    constraint_weight: NonNegative = 1.0
    averaging: Fraction = 0.3
    bootstrap: Literal["balanced", "none"] = "balanced"
    record_every: Count = 10

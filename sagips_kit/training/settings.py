"""How each rank trains its members, as one value."""

from typing import Annotated, Literal

from pydantic import Field

from .._value import Count, Fraction, NonNegative, Positive, ValueClass, value

Loss = Literal["likelihood", "logistic", "least squares"]


@value
class Settings(metaclass=ValueClass):
    """How each rank trains its members: networks, learning rates, schedules, and what is stored.

    A step is one update of all discriminators and generators.  A member is one pair of generator and discriminator; a
    chain is one independent generator among the results, which is one member, or the same member of several ranks if
    these exchange gradients or weights.  The defaults suit problems of a few to some tens of parameters.  With them,
    runs of a few thousand steps reach the statistical floor of the ready problems, which is the standard deviation of
    the maximum-likelihood estimate.  All fields are given by name.

    Parameters
    ----------
    n_members : int
        Independent members on each rank, trained side by side as one batch.
    n_sets : int
        Parameter vectors that each generator produces in a step.
    n_events : int
        Events that each member simulates in a step, shared equally among its `n_sets` parameter vectors, so it must be
        a multiple of `n_sets`.  Equally many observed events are drawn.
    latent_dim : int
        Dimension of the random input of the generators.
    generator : {"perceptron", "convolution"}
        Network of the generators.  "convolution" makes parameters that are the pixels of an image by transposed
        convolutions; the problem then needs the attribute `image`, its rows and columns.
    generator_widths : tuple of int
        Hidden layers of the generators: units of each layer of a perceptron, or channels before each doubling of the
        image's sides.
    discriminator_widths : tuple of int
        Units of each hidden layer of the discriminators.
    precision : {"full", "bfloat16"}
        Floating-point precision of the matrix products in the discriminators, which dominate the cost of wide networks.
        "full" is float32.
    capture : {"auto", "on", "off"}
        Whether the work of a step is recorded once and then repeated by the device, which saves the time that Python
        and single launches take: CUDA graphs, for GPUs of NVIDIA and AMD.  "auto" does it there unless something in the
        problem cannot be recorded, which is reported once.
    generator_rate : float
        Learning rate of the generators' Adam optimiser in the first step.  If it is too high, the generator moves
        faster than its discriminator can learn, and circles around the answer.  For many parameters, such as the pixels
        of an image, 1e-4 is a better choice than the default.
    discriminator_rate : float
        Learning rate of the discriminators' Adam optimiser in the first step.
    full_rate_steps : int
        Longest run, in steps, that begins with `generator_rate` and `discriminator_rate` as they are.  In a run that is
        x times longer, both are divided by sqrt(x), because at full rates discriminators get worse after a few thousand
        steps and members drift around the answer.
    settled_rate : float
        Factor, at most 1, by which the generators' learning rate is multiplied after the exploration at the start of
        the run (`exploration`).  At the full rate, generators approach the answer quickly, but overshoot it in
        directions that the events determine poorly; at a lower rate they come back sooner.  In very short runs, 1
        brings them closer to the answer.
    final_rate : float
        Learning rates in the last step as a fraction of those in the first, from 0 to 1.  In between they decrease
        as half a cosine.
    loss : {"likelihood", "logistic", "least squares"}
        Adversarial loss.  "likelihood": logistic for the discriminator, linear in the score for the generator; once the
        scores are small, events are also weighted by the density ratio that they estimate.  "logistic": the usual
        non-saturating loss.  "least squares": on sigmoid outputs, as in the SAGIPS paper.
    constraint_weight : float
        Weight of the problem's constraints, priors and measurements relative to their weight in the likelihood.  It
        grows from a thousandth of this value to all of it during the first fifth of the run.
    axes_every : int
        Steps between updates of the natural axes.  Along these axes generators move in units of the precision with
        which the events determine the parameters, which follows from the Fisher information.  0 switches the axes off;
        they are also off for more than 1000 parameters.
    damping : float
        Limit on the length of the natural axes.  The length of an axis is 1 / sqrt(information + damping), in quarters
        of a parameter's range, where `information` is the Fisher information of one event along it.  Without damping,
        axes about which events say almost nothing would be arbitrarily long.  The damping decreases from 1 to this
        value during the first fifth of the run.  With very many events, which together determine even directions of
        less information than this, a smaller value brings generators to the answer sooner.
    exploration : float
        Fraction of the run, at its start, in which generators explore: each produces parameter vectors with a spread
        that shrinks to zero, and learns at the full rate.
    averaging : float
        Fraction of the run, at its end, over which the parameters are averaged to make the draws; larger than 0.
    n_draws : int
        Number of draws of each chain.  A draw is the average of its parameters over one of `n_draws` consecutive
        stretches of the averaged part of the run.
    n_predictive : int
        Events simulated from each draw, for comparison with the observed events; they have the same shares of
        categories.
    n_snapshots : int
        Number of steps, evenly spaced over the run, after which the parameter vectors of each generator and
        `n_predictive` events simulated from them are stored.
    n_scores : int
        Number of generated events, and of observed events, whose scores (the outputs of each discriminator) are stored
        at the end.
    bootstrap : bool
        Whether each chain learns from its own bootstrap resample of the observed events, so that the spread of the
        chains shows the statistical uncertainty.  If False, all chains learn from the same events.
    record_every : int
        Steps between two rows of the stored history of the run, which holds parameters, losses and waiting times.
    rows_per_block : int
        Rows of the history that a rank writes at once, as one block.  Requests to stop are noticed between blocks,
        every `record_every * rows_per_block` steps.
    max_rollbacks : int
        A rank that meets NaN or infinity sends nothing and restores its discriminators as they were at the previous row
        of the history: a rollback.  After more than `max_rollbacks` rollbacks in succession, the run stops with an
        error.

    Raises
    ------
    ValueError
        For an unknown field, a wrong type or a number out of range.

    See Also
    --------
    RunSpec : A whole run, with settings as one of its fields.
    Trainer : A training loop in your own hands.

    Examples
    --------
    >>> from sagips_kit import Settings
    >>> Settings(n_members=8, generator_widths=(128, 128))
    Settings(n_members=8, generator_widths=(128, 128))

    Settings are immutable; `dataclasses.replace` makes changed ones.

    >>> import dataclasses
    >>> dataclasses.replace(Settings(), n_draws=100).n_draws
    100

    Errors say what is allowed.

    >>> Settings(n_events=1000, n_sets=3)
    Traceback (most recent call last):
    ValueError: Settings: n_events = 1000: should be a multiple of n_sets = 3, for instance 999.
    """

    n_members: Count = 4
    n_sets: Count = 4
    n_events: Count = 1024
    latent_dim: Count = 4
    generator: Literal["perceptron", "convolution"] = "perceptron"
    generator_widths: tuple[Count, ...] = (64, 64)
    discriminator_widths: tuple[Count, ...] = (32, 32)
    precision: Literal["full", "bfloat16"] = "full"
    capture: Literal["auto", "on", "off"] = "auto"
    generator_rate: Positive = 3e-4
    discriminator_rate: Positive = 4e-3
    full_rate_steps: Count = 2000
    settled_rate: Annotated[float, Field(gt=0, le=1)] = 0.4
    final_rate: Fraction = 0.02
    loss: Loss = "likelihood"
    constraint_weight: NonNegative = 1.0
    axes_every: Annotated[int, Field(ge=0)] = 20
    damping: Positive = 3e-3
    exploration: Fraction = 0.15
    averaging: Annotated[float, Field(gt=0, le=1)] = 0.3
    n_draws: Count = 50
    n_predictive: Count = 500
    n_snapshots: Count = 10
    n_scores: Count = 2000
    bootstrap: bool = True
    record_every: Count = 10
    rows_per_block: Count = 25
    max_rollbacks: Count = 10

    def __post_init__(self):
        if self.generator == "convolution" and not self.generator_widths:
            raise ValueError(
                'generator = "convolution", generator_widths = (): should name channels, such as (64, 64).'
            )
        if self.n_events % self.n_sets:
            raise ValueError(
                f"n_events = {self.n_events}: should be a multiple of n_sets = {self.n_sets}, "
                f"for instance {self.n_sets * max(1, round(self.n_events / self.n_sets))}."
            )

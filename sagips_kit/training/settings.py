"""How a rank trains its members, as one value."""

from typing import Annotated, Literal

from pydantic import Field

from .._value import Count, Fraction, NonNegative, Positive, value


@value
class Settings:
    """How a rank trains its members; everything here is a choice, nothing a fact about the problem.

    The defaults are meant for generators of a few to some tens of parameters and reach the statistical floor of the
    ready problems in some thousand steps.

    Parameters
    ----------
    n_members : int
        Independent GANs trained side by side on each rank, as one batch.
    n_sets : int
        Parameter vectors drawn from each generator in a step.
    n_events : int
        Events that a member generates in a step, a multiple of `n_sets`; as many observed events are drawn.
    latent_dim : int
        Dimension of the generator's input.
    generator : {"perceptron", "convolution"}
        "convolution" makes parameters that are the pixels of an image by transposed convolutions.
    generator_widths, discriminator_widths : tuple of int
        Hidden layers of the two networks; of convolutions the channels before each doubling of the image's sides.
    precision : {"full", "bfloat16"}
        Of the products in the discriminator's perceptron, where wide networks spend their time.
    generator_rate, discriminator_rate : float
        Learning rates of the two Adam optimisers at the first step; a half cosine takes them down to `final_rate`.
        Generators that move faster than their discriminators learn circle the answer: with many parameters, such as
        the pixels of an image, take a smaller one for the generators, 1e-4.
    full_rate_steps : int
        Longest run that takes these rates; a longer one takes them smaller by the root of the ratio of the lengths.  At
        the full rates discriminators get worse after some thousand steps, and members wander about the answer.
    settled_rate : float
        The generators' rate after the exploration, in units of the one they would have without this.  They should get
        near the answer fast, but where events tell little of a direction they overshoot it, and the discriminators
        bring them back the sooner the slower they move.  In very short runs, 1 takes them further.
    final_rate : float
        Last learning rate in units of the first.
    loss : {"likelihood", "logistic", "least squares"}
        Adversarial loss: a logistic discriminator with the generator's loss linear in its scores, where both count
        events by the density ratio that these tell once they are small; the usual non-saturating logistic loss; or
        least squares on sigmoid outputs as in the paper.
    constraint_weight : float
        Weight of the problem's constraints, relative to the one they have in the likelihood; it grows to this from a
        thousandth during the first fifth of the run.
    axes_every : int
        Steps between two looks at the Fisher information, which turns the generator's axes to natural ones; 0 leaves
        that out, and so do more than 1000 parameters.
    damping : float
        Information per event below which a direction is not stretched further; it is approached from 1 during the
        first fifth of the run.  Where so many events determine a direction that it has less, a smaller one takes
        generators there sooner.
    exploration : float
        Fraction of the run during which the generator's spread shrinks to a point, and its rate is the full one.
    averaging : float
        Fraction of the run, at its end, over which the generator's output is averaged.
    n_draws : int
        Averages of consecutive stretches of that part, kept as the draws of a chain.
    n_predictive : int
        Events generated from each draw, for comparison with the observed ones.
    n_snapshots : int
        Points in time, evenly spaced over the run, at which the generated parameter vectors and `n_predictive` events
        of each generator are kept.
    n_scores : int
        Generated events, and as many observed ones, of which each discriminator's scores are kept at the end.
    bootstrap : bool
        Give every generator its own resample of the observed events, so that their spread shows the uncertainty.
    record_every : int
        Steps between two rows of the history.
    rows_per_block : int
        Rows that a rank writes together; it looks at the stop flag as often.
    max_rollbacks : int
        A rank with numbers that are not finite tells nobody of them and, at its next row of the history, takes its
        discriminators back to those of the row before; after more rows in a row than this the run ends.
    """

    n_members: Count = 4
    n_sets: Count = 4
    n_events: Count = 1024
    latent_dim: Count = 4
    generator: Literal["perceptron", "convolution"] = "perceptron"
    generator_widths: tuple[Count, ...] = (64, 64)
    discriminator_widths: tuple[Count, ...] = (32, 32)
    precision: Literal["full", "bfloat16"] = "full"
    generator_rate: Positive = 3e-4
    discriminator_rate: Positive = 4e-3
    full_rate_steps: Count = 2000
    settled_rate: Annotated[float, Field(gt=0, le=1)] = 0.4
    final_rate: Fraction = 0.02
    loss: Literal["likelihood", "logistic", "least squares"] = "likelihood"
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

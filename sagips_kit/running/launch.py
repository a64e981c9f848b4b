"""One function behind every door: notebook, batch job and single process all run `run_rank` on each rank."""

import numpy as np

from ..check.suite import require
from ..events.observed import Observed
from ..events.resampling import check_events
from ..problems.base import Problem
from ..ranks.world import World
from ..statistics.likelihood import fit_likelihood
from ..store import create
from ..store.schema import RunLayout
from ..training import predictions
from . import resume as resuming
from .rank_run import train
from .spec import require_spec


def prepare(spec, n_ranks, resume=False):
    """Check a run and create its store, complete but empty; called once, before any rank starts.

    Parameters
    ----------
    spec : RunSpec
    n_ranks : int
    resume : bool
        Take the store as it is if it holds this run already, so that `run_rank` goes on with it.

    Raises
    ------
    TypeError
        If `spec` is no RunSpec, but for instance a file's name.
    ValueError, FileNotFoundError
        If the problem cannot be trained, the observed events cannot be used, or the run to resume is another one.
    FileExistsError
        If the store holds a run already.
    OSError
        If the store cannot be written; nothing half-written is left.
    """
    require_spec(spec)
    if resume and spec.overwrite:
        raise ValueError("resume goes on with a run and overwrite deletes it: give one of the two.")
    if resume and resuming.is_begun(spec.store):
        resuming.reopen(spec, n_ranks)
        return
    create.check_free(spec.store, spec.overwrite)
    problem, settings = spec.problem, spec.settings
    events, source = observed_events(spec)
    events = check_events(problem, events)
    require(problem, events)
    n_replicas = spec.exchange.n_replicas(n_ranks)
    layout = RunLayout(
        n_ranks=n_ranks,
        n_replicas=n_replicas,
        n_members=settings.n_members,
        n_steps=spec.n_steps,
        record_every=settings.record_every,
        rows_per_block=settings.rows_per_block,
        n_draws=settings.n_draws,
        n_predictive=settings.n_predictive,
        n_snapshots=settings.n_snapshots,
        n_sets=settings.n_sets,
        n_scores=predictions.n_scored(settings, len(events)),
    )
    create.create_run(
        spec.store,
        problem,
        layout,
        spec=spec.to_dict(),
        events=events,
        reference=_reference(spec, events),
        mode=repr(spec.exchange),
        source=source,
        uncertainty="bootstrap ensemble" if settings.bootstrap and layout.n_chains > 1 else "none: no resampling",
        marks=resuming.marks(spec),
        overwrite=spec.overwrite,
    )


def run_rank(spec, world=None, resume=False):
    """Train one rank of a run whose store has been prepared.  Collective.

    SIGTERM, SIGUSR1 and the end of a job's time make all ranks write a checkpoint and stop, at the same step.

    Parameters
    ----------
    spec : RunSpec
    world : World or None
        None takes all ranks that an MPI launcher started together with this one, or a rank alone.
    resume : bool
        Go on from the newest checkpoint that all ranks have; from the beginning if there is none.  A finished run is
        left as it is.

    Returns
    -------
    dict
        rank, replica, steps, elapsed_s, waited_s (since the start or the resumption), first_step, host and device.
    """
    own = World.here() if world is None else None
    world = own or world
    try:
        result = train(spec, world, resume)
    except BaseException as error:
        # The others must not wait for this rank; the first error is the one to show.
        world.announce_failure(error)
        raise
    if own:
        own.close()  # engines run one spec after another, and communicators are not without number
    return result


def run(spec, world=None, resume=False):
    """Prepare a run and train it, in a batch job or a single process.  Collective."""
    world = world or World.here()
    with world.rank_0_first("rank 0 to create the store"):
        if world.rank == 0:
            prepare(spec, world.size, resume)
    return run_rank(spec, world, resume)


def observed_events(spec):
    """Events of the problem's own or of a file, and in words where they come from."""
    if spec.events is None:
        events = spec.problem.observed(spec.n_observed, np.random.default_rng(spec.seed))
        return events, f"{spec.problem!r}.observed, seed {spec.seed}"
    file = spec.events if isinstance(spec.events, Observed) else Observed(spec.events)
    events = file.read(spec.problem, spec.n_observed, spec.seed)
    sampling = "" if spec.n_observed is None else f", {spec.n_observed} at random, seed {spec.seed}"
    rest = "; the ranks train on windows of the whole file" if spec.streams else ""
    return events, f"{file!r}{sampling}{rest}"


def _reference(spec, events):
    has_likelihood = type(spec.problem).log_likelihood is not Problem.log_likelihood
    if not (spec.reference and has_likelihood):
        return None
    fit = fit_likelihood(spec.problem, events)
    return {"mle": fit.theta, "deviation": fit.deviation, "covariance": fit.covariance}

"""How runs are started: a notebook, a batch job and a single process all call `run_rank` on each rank."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np

from .._text import allowed
from ..check.suite import require
from ..events.observed import Observed
from ..events.resampling import check_events
from ..ranks.world import World
from ..statistics.likelihood import require_finite
from ..store import create
from ..store.files import permissions_of
from ..store.layout import RunLayout
from ..store.status import read_status
from ..training import predictions
from ..training.footprint import require_memory
from . import resume as resuming
from .described import shown_of
from .rank_run import RankResult, RankRun, result_of_finished
from .reference import has_likelihood
from .spec import RunSpec, require_spec

_LARGE_BYTES = 2**25  # of a file of events, which takes a second to read as text
F = TypeVar("F", bound=Callable[..., Any])


def _names_explained(function: F) -> F:
    """Let an unknown keyword argument raise a TypeError that says where it belongs, or what may have been meant."""
    names = list(inspect.signature(function).parameters)
    fields = {field.name for field in dataclasses.fields(RunSpec)}

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs.keys() - names:
            where = f"It is a field of RunSpec. Type {function.__name__}(RunSpec(..., {name}=...))."
            what = where if name in fields else allowed(name, names)
            raise TypeError(f"{function.__name__} has no argument {name!r}. {what}")
        return function(*args, **kwargs)

    return cast(F, checked)


@_names_explained
def prepare(spec: RunSpec, n_ranks: int, resume: bool = False) -> None:
    """Check a run and create its store, complete but empty, before any rank starts.

    Call it once, in one process; afterwards each rank calls `run_rank`.  `run` and `Session.submit` do both.

    Parameters
    ----------
    spec : RunSpec
        The run.
    n_ranks : int
        Number of ranks that will train the run.
    resume : bool
        If the store already holds this run, keep it, so that `run_rank(spec, resume=True)` continues it.  If the store
        is empty, create the run as usual.

    Raises
    ------
    TypeError
        If `spec` is not a RunSpec, but for instance the name of a file.
    ValueError
        If the problem cannot be trained, if the observed events cannot be used, or if the store holds another run than
        the one to be resumed; the text says what to change.
    FileNotFoundError
        If there is no file of observed events.
    FileExistsError
        If there is something at the place of the store already, and neither `resume` nor `spec.overwrite` applies.
    OSError
        If the store cannot be written; nothing half-written is left behind.

    See Also
    --------
    run : Prepare a run and train it.
    run_rank : Train one rank of a prepared run.
    check_problem : Check only the problem, and print what is wrong with it.

    Examples
    --------
    >>> from sagips_kit import Proxy, RunSpec, open_run, prepare
    >>> spec = RunSpec(problem=Proxy(), store="prepared.zarr", n_steps=100, n_observed=2000, overwrite=True)
    >>> prepare(spec, n_ranks=4)
    >>> open_run("prepared.zarr")["observed_data"].sizes["event"]
    2000
    """
    require_spec(spec)
    if resume and spec.overwrite:
        raise ValueError("resume=True continues a run, and overwrite=True deletes it: give only one of them.")
    if resume and resuming.is_begun(spec.store):
        with permissions_of(spec.store):
            resuming.reopen(spec, n_ranks)
        return
    create.check_free(spec.store, spec.overwrite)
    problem, settings = spec.problem, spec.settings
    events, source = observed_events(spec)
    events = check_events(problem, events)
    require(problem, events)
    require_memory(problem, settings)
    if has_likelihood(spec):
        require_finite(problem, events)
    layout = RunLayout(
        n_ranks=n_ranks,
        n_replicas=spec.exchange.n_replicas(n_ranks),
        n_members=settings.n_members,
        n_steps=spec.n_steps,
        record_every=settings.record_every,
        rows_per_block=settings.rows_per_block,
        n_draws=settings.n_draws,
        n_predictive=settings.n_predictive,
        n_snapshots=settings.n_snapshots,
        n_sets=settings.n_sets,
        n_scores=predictions.n_scored(settings, len(events)),
        leaders=tuple(map((spec.exchange.replicas(n_ranks) or ()).index, range(spec.exchange.n_replicas(n_ranks)))),
    )
    create.create_run(
        spec.store,
        problem,
        layout,
        spec=spec.to_dict(),
        events=events,
        mode=repr(spec.exchange),
        source=source,
        uncertainty="bootstrap ensemble" if settings.bootstrap and layout.n_chains > 1 else "none: no resampling",
        marks=resuming.marks(spec),
        shown=shown_of(problem, events),
        overwrite=spec.overwrite,
    )


def is_slow(spec: RunSpec) -> bool:
    """Whether a notebook should leave it to rank 0 to prepare a run, because its file of events is large."""
    return spec.events is not None and sum(size for size, _ in _file(spec).stamps()) > _LARGE_BYTES


def prepare_later(spec: RunSpec) -> None:
    """Refuse what can be refused of a new run without reading all of its file of events; `run` does the rest."""
    require_spec(spec)
    create.check_free(spec.store, spec.overwrite)
    require_memory(spec.problem, spec.settings)
    first = _file(spec).first(spec.problem)
    if len(first):
        require(spec.problem, first)


@_names_explained
def run_rank(spec: RunSpec, world: World | None = None, resume: bool = False) -> RankResult:
    """Train one rank of a run whose store has been prepared.  Collective.

    All ranks of the run call it, each in its own process, with the same spec.  SIGTERM, SIGUSR1, SIGUSR2, SIGHUP, the
    approaching end of a job's time and a request to stop all make the ranks write a checkpoint and stop, at the same
    step.

    Parameters
    ----------
    spec : RunSpec
        The run, as it was prepared.
    world : World or None
        The ranks of the run.  None takes all ranks that an MPI launcher started together with this one, or this process
        alone if there was no launcher.
    resume : bool
        Continue from the newest checkpoint that all ranks have, or start again if there is none.  A finished run is
        left as it is.

    Returns
    -------
    dict
        What this rank did: its number (`rank`), its `replica`, the `steps` made in total, the time since the start or
        the resumption (`elapsed_s`) and the part of it spent waiting for other ranks (`waited_s`), both in seconds, the
        step at which it started or resumed (`first_step`), and its `host` and `device`.

    Raises
    ------
    FileNotFoundError
        If there is no run in the store.
    ValueError
        If the store is not that of a run, or a checkpoint is damaged.
    RuntimeError
        If another process has taken over the run, or the training has failed too often in succession.
    PeerError
        If another rank has failed, or has not answered in time.
    OSError
        If the store cannot be read or written.

    See Also
    --------
    prepare : Check a run and create its store.
    run : Prepare a run and train it.

    Examples
    --------
    >>> from sagips_kit import Proxy, RunSpec, Settings, prepare, run_rank
    >>> small = Settings(n_members=2, n_events=128)
    >>> spec = RunSpec(
    ...     problem=Proxy(), store="ranks.zarr", settings=small, n_steps=20, n_observed=2000, fit=False, overwrite=True
    ... )
    >>> prepare(spec, n_ranks=1)
    >>> result = run_rank(spec)
    >>> result["rank"], result["steps"]
    (0, 20)
    """
    with all_ranks(world) as world, permissions_of(spec.store):
        try:
            if resume and read_status(spec.store).is_finished:
                return result_of_finished(spec, world)
            with RankRun(spec, world) as rank_run:
                rank_run.fit()
                rank_run.begin(resume)
                rank_run.train()
                rank_run.finish()
            return rank_run.result()
        except BaseException as error:
            # The others must not wait for this rank; the first error is the one to show.
            world.announce_failure(error)
            raise


@_names_explained
def run(spec: RunSpec, world: World | None = None, resume: bool = False) -> RankResult:
    """Prepare a run and train it, in a single process or in a batch job.  Collective.

    It returns when the run has ended.  In a single process, that process trains alone.  Under an MPI launcher
    (`mpiexec -n 4 python script.py`), each process is a rank, and all ranks call this function with the same spec:
    rank 0 checks the run and creates its store, then every rank trains.

    A run can also be stopped early: by SIGTERM, SIGUSR1, SIGUSR2 or SIGHUP, by `request_stop`, or shortly before its
    job's time is over.  All ranks then write a checkpoint and stop at the same step, and `resume=True` continues the
    run from there.

    Parameters
    ----------
    spec : RunSpec
        The run: problem, settings, mode of exchange, store and number of steps.
    world : World or None
        The ranks of the run.  None takes all ranks that the MPI launcher has started together with this one, or this
        process alone if there was no launcher.
    resume : bool
        What to do if the store already holds this run.  True continues it from the newest checkpoint that all ranks
        have, and leaves a finished run as it is, unless `spec.n_steps` is larger than it was: then the finished run is
        continued up to there, with learning rates that begin anew.  If the store is empty, it starts the run.  So the
        same line starts a run and, after a job has ended early, continues it.  False raises an error if there is a run,
        unless `spec.overwrite` is true.  In a job that the scheduler runs again, for instance after a node has failed,
        it is always True.

    Returns
    -------
    dict
        What this rank did; the results of the run are in the store.  The keys are `rank` (its number), `replica` (the
        number of the set of ranks that share its generators), `steps` (made in total), `elapsed_s` (seconds since the
        start or the resumption), `waited_s` (the part of these seconds spent waiting for other ranks), `first_step` (at
        which it started or was resumed), `host` and `device`.

    Raises
    ------
    TypeError
        If `spec` is not a RunSpec, but for instance the name of a file.
    ValueError
        If the problem cannot be trained, if the observed events cannot be used, or if the store holds another run than
        the one to be resumed; the text says what to change.
    FileNotFoundError
        If there is no file of observed events.
    FileExistsError
        If there is something at the place of the store already, and neither `resume` nor `spec.overwrite` applies.
    OSError
        If the store cannot be read or written.
    RuntimeError
        If another process has taken over the run, or the training has met NaN or infinity too often in succession
        (`Settings.max_rollbacks`).
    PeerError
        If another rank has failed, or has not answered in time.

    See Also
    --------
    open_run : Open the results, also while the run is under way.
    connect : Start ranks from a notebook instead.
    prepare : Check a run and create its store, without training it.

    Examples
    --------
    >>> from sagips_kit import Proxy, RunSpec, Settings, analysis, open_run, run
    >>> small = Settings(n_members=2, n_events=128)
    >>> spec = RunSpec(
    ...     problem=Proxy(), store="small.zarr", settings=small, n_steps=20, n_observed=2000, fit=False, overwrite=True
    ... )
    >>> result = run(spec)
    >>> result["rank"], result["steps"]
    (0, 20)
    >>> analysis.state(open_run("small.zarr"))
    'finished'
    """
    if isinstance(spec, RunSpec):
        spec, resume = resuming.after_restart(spec, resume)
    with all_ranks(world) as world:
        with world.rank_0_first("rank 0 to create the store"):
            if world.rank == 0:
                prepare(spec, world.size, resume)
        return run_rank(spec, world, resume)


def observed_events(spec: RunSpec) -> tuple[Any, str]:
    """The observed events of a run, (event, observable), and in words where they come from."""
    if spec.events is None:
        events = spec.problem.observed(spec.n_observed, np.random.default_rng(spec.seed))
        return events, f"{spec.problem!r}.observed, seed {spec.seed}"
    file = _file(spec)
    events = file.read(spec.problem, spec.n_observed, spec.seed)
    sampling = "" if spec.n_observed is None else f", {spec.n_observed} at random, seed {spec.seed}"
    rest = "; the ranks train on windows of the whole file" if spec.streamed else ""
    return events, f"{file!r}{sampling}{rest}"


def _file(spec: RunSpec) -> Observed:
    """The file of the observed events of a spec that names one."""
    return spec.events if isinstance(spec.events, Observed) else Observed(cast(Any, spec.events))


@contextlib.contextmanager
def all_ranks(world: World | None) -> Iterator[World]:
    """The ranks to train on; a communicator that is made here is freed afterwards.

    Yields
    ------
    World
        `world`, or all ranks that were started together with this one.
    """
    if world is not None:
        if not isinstance(world, World):
            raise TypeError(f"world = {world!r}: should be a World, or None. To resume a run: run(spec, resume=True).")
        yield world
        return
    world = World.here()
    yield world
    # Only after success, since this is collective.  The number of communicators is limited, and an engine may train
    # many runs, one after another.
    world.close()

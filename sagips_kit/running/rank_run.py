"""One rank of a run, from its store to its last checkpoint.

`RankRun` owns what a rank needs while it trains and uses it in the only safe order; how ranks agree on what to do is in
`coordination`, and how they train is in `training`.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ..analysis.answer import verdict
from ..ranks.accelerators import name_of
from ..ranks.world import World
from ..statistics.start import Start
from ..store import heartbeat
from ..store.files import sync_rows
from ..store.heartbeat import Heartbeat
from ..store.reader import open_run
from ..store.schema import ELAPSED, HISTORY, OBSERVED, ROWS, WAITED
from ..store.status import read_status
from ..store.writer import RunWriter
from ..training import predictions
from ..training.records import Record
from ..training.trainer import Trainer
from . import resume
from .checkpoints import Checkpoints
from .coordination import Control, Milestones
from .reference import has_likelihood, start_of, write_fit, write_likelihood
from .signals import Signals
from .spec import RunSpec


class RankResult(TypedDict):
    """What `run_rank` returns."""

    rank: int
    replica: int
    steps: int
    elapsed_s: float
    waited_s: float
    first_step: int
    host: str
    device: str


class RankRun:
    """One rank of a run that has been prepared.  Collective.

    The methods are called once, in this order::

        with RankRun(spec, world) as rank_run:
            rank_run.fit()
            rank_run.begin(resume)
            rank_run.train()
            rank_run.finish()
        rank_run.result()

    Parameters
    ----------
    spec : RunSpec
        The run, as it was prepared.
    world : World
        All ranks of the run.

    Raises
    ------
    FileNotFoundError
        If there is no run in the store of `spec`.
    """

    def __init__(self, spec: RunSpec, world: World) -> None:
        self._spec, self._world = spec, world
        self._checkpoints = _checkpoints(spec, world)
        replica, self._replicas = spec.exchange.replica(world.rank, world.size), self._checkpoints.replicas
        self._is_leader = self._replicas.index(replica) == world.rank
        # The events in the store, not newly made ones: the analysis reads what the ranks were trained on.
        self._events, self._start = _events(spec), None
        self._writer = RunWriter(spec.store, world.rank, replica if self._is_leader else None, check=self._check_owner)
        self._control, self._signals = Control(spec.store), Signals()
        self._heartbeat = _heartbeat(spec, world)
        self._owner = world.from_rank_0(self._control.take, "rank 0 to take over the run")
        self._resources = contextlib.ExitStack()
        self._trainer: Trainer
        self._first_step, self._elapsed_s, self._waited_s = 0, 0.0, 0.0
        self._last_begins_at = spec.n_steps  # the step from which the last rank continues

    def __enter__(self) -> "RankRun":
        # A rank that has finished waits for the others while the trainer, which is entered later, closes its exchange.
        # A signal that killed it there would end all ranks, so the handlers of signals are restored last.
        for resource in (self._signals, self._heartbeat, self._writer):
            self._resources.enter_context(resource)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._resources.__exit__(*exception)

    def begin(self, resumes: bool) -> None:
        """Make the networks, at the newest checkpoint that all ranks have if the run is resumed.  Collective."""
        self._heartbeat.enter(heartbeat.NETWORKS)
        if resumes:
            self._go_back()
        else:
            self._trainer = self._new_trainer(self._start)
        del self._events  # the trainer has what it needs of them
        if self._trainer.has_start:
            self._writer.write_witnesses(self._trainer.is_witness)
            if self._is_leader:
                self._writer.write_starts(self._trainer.chain_fits, self._trainer.chain_starts)

    def _new_trainer(self, start: dict[str, Any] | None) -> Trainer:
        spec = self._spec
        trainer = Trainer(
            spec.problem,
            spec.settings,
            self._events,
            n_steps=spec.n_steps,
            seed=spec.seed,
            world=self._world,
            exchange=spec.exchange,
            windows=resume.windows(spec),
            start=None if start is None else Start.restored(spec.problem, self._events, start),
            earlier=self._writer.layout.earlier,
        )
        return self._resources.enter_context(trainer)

    def _go_back(self) -> None:
        """Restore the newest checkpoint that all ranks have; without one, the run starts again.  Collective."""
        writer, checkpoints = self._writer, self._checkpoints
        reached = int(read_status(writer.path).steps.max())
        steps = resume.agreed_steps(checkpoints, self._world)
        if not all(steps) and self._start is None and self._spec.begins_at_fit:
            # The fit was made before, and some ranks begin there once more.
            self._start = self._world.from_rank_0(
                lambda: start_of(self._spec, self._events), "rank 0 to fit the events again"
            )
        step, self._last_begins_at = steps[self._world.rank], min(steps)
        state = checkpoints.read(step) if step else {}
        trainer = self._trainer = self._new_trainer(state.get("start") if step else self._start)
        if step:
            trainer.load_state_dict(state)
            if trainer.step != step:
                raise ValueError(
                    f"The checkpoint of step {step} is damaged: it holds the state of step {trainer.step}."
                )
        if step < trainer.n_steps:  # else only the chains may be missing
            writer.set_progress(step)  # later rows will be written again
            checkpoints.forget_after(step)
        if self._world.rank == 0 and reached:
            resume.note(writer.path, min(steps), reached)

    def fit(self) -> None:
        """Make the likelihood fit and the fit by the learned score on rank 0, which the others await.  Collective.

        What has been made is not made again.
        """
        if has_likelihood(self._spec):
            self._heartbeat.enter(heartbeat.LIKELIHOOD)
            self._world.from_rank_0(self._fit_likelihood, "rank 0 to fit the likelihood")
        if self._spec.fit:
            self._heartbeat.enter(heartbeat.SCORE)
            self._start = self._world.from_rank_0(self._fit, "rank 0 to fit the events by the learned score")

    def _fit_likelihood(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)  # what torch says about itself helps no user
            write_likelihood(self._spec, self._writer, self._events)
        for warning in caught:
            self._heartbeat.note(str(warning.message))  # a notebook does not see what engines print
            warnings.warn(str(warning.message), warning.category, stacklevel=2)

    def _fit(self) -> dict[str, Any] | None:
        """Fit the events if that has not been done; returns where generators begin, if not in the middle."""
        if not self._writer.wants_fit():
            return None
        return write_fit(self._spec, self._writer, self._events)

    def train(self) -> None:
        """Train to the last step, or to the step at which the run was asked to stop, and store all rows."""
        spec, settings, writer = self._spec, self._spec.settings, self._writer
        self._first_step = self._trainer.step
        self._heartbeat.enter(heartbeat.TRAINING, lambda: self._trainer.step)
        writer.write_facts(host=self._world.hostname, device=name_of(self._world.device), library=_library(self._world))
        milestones = Milestones(
            self._control,
            self._world.rank,
            self._writer.layout.block_steps,
            spec.n_steps,
            spec.checkpoint_s,
            self._signals,
            settings.record_every,
        )
        if self._first_step == spec.n_steps:
            self._trainer.stand_by(self._last_begins_at)
        next_row = self._writer.layout.n_rows(self._first_step)
        for block in self._blocks(milestones):
            writer.write_rows(next_row, _rows(block))
            next_row += len(block)
            step = block[-1].step
            if step == spec.n_steps:
                break  # `finish` declares the last rows valid
            due = milestones.reached(step)
            if not due.stop:
                writer.set_progress(step)
            if due.checkpoint:
                self._save()
            if due.stop:
                break

    def finish(self) -> None:
        """Store the chains and scores if this rank made all its steps, and declare its last rows valid."""
        self._heartbeat.enter(heartbeat.WRITING)
        if self._trainer.step == self._spec.n_steps:
            # To continue the run; and other replicas, or ranks, may take much longer, and be resumed without this rank.
            self._save()
            self._write_results()
        # Last of all, so that a run which counts as finished has its chains.
        self._writer.set_progress(self._trainer.step)
        if read_status(self._spec.store).is_finished:  # true for the last rank
            self._check_owner()
            self._checkpoints.keep_last()
            self._write_verdict()

    def _write_verdict(self) -> None:
        """Store whether the result may be used; the run has its results, whatever happens here."""
        try:
            self._writer.write_verdict(verdict(open_run(self._spec.store)).to_dict())
        except Exception as error:
            warnings.warn(f"The verdict on the run was not stored: {type(error).__name__}: {error}", stacklevel=2)

    def result(self) -> RankResult:
        """What `run_rank` returns."""
        steps = self._trainer.step
        return _result(self._spec, self._world, steps, self._elapsed_s, self._waited_s, self._first_step)

    def _check_owner(self) -> None:
        self._control.check_owner(self._owner)

    def _blocks(self, milestones: Milestones) -> Iterator[list[Record]]:
        """Train, and yield the records of each block of rows, or of fewer rows if the ranks are about to stop.

        The list is valid until the next one: small objects kept from many steps would fragment the memory.
        """
        trainer, writer, block = self._trainer, self._writer, []
        for record in trainer.iterate():
            block.append(record)
            self._waited_s, self._elapsed_s = self._waited_s + record.waited_s, record.elapsed_s
            if writer.wants_snapshot(record.step):
                parameters, events = predictions.snapshot(trainer)
                writer.write_snapshot(record.step, parameters=parameters, events=events)
            is_wanted = milestones.wants_rows(record.step)
            if is_wanted or record.step % self._writer.layout.block_steps == 0 or record.step == trainer.n_steps:
                yield block
                block.clear()

    def _save(self) -> None:
        """Write a checkpoint; a rank that cannot write it warns, and the run continues."""
        trainer, checkpoints = self._trainer, self._checkpoints
        # Discriminators return to their last good state by themselves, generators do not.
        if not all(weight.isfinite().all() for weight in trainer.gan.generator.parameters()):
            warnings.warn(
                f"Rank {checkpoints.rank} writes no checkpoint of step {trainer.step}, because the weights of its "
                "generators are not finite. A resumed run continues from an earlier checkpoint.",
                stacklevel=2,
            )
            return
        self._check_owner()
        try:
            sync_rows(checkpoints.path, checkpoints.rank)
            checkpoints.write(trainer.step, trainer.state_dict())
        except OSError as error:
            warnings.warn(
                f"Rank {checkpoints.rank} cannot write its checkpoint of step {trainer.step}: {error}. The run "
                "continues; if it is killed, it can be resumed from the previous checkpoint.",
                stacklevel=2,
            )

    def _write_results(self) -> None:
        trainer, draws, predictive = self._trainer, self._trainer.draws, self._trainer.predict()
        generated, observed = predictions.scores(trainer, predictive)
        if self._is_leader:
            if trainer.has_start:
                self._writer.write_ends(trainer.chain_ends)
            # Witnesses show whether the answer is right, and are no part of it.
            is_witness = trainer.is_witness[:, None, None]
            self._writer.write_chains(
                np.where(is_witness, np.nan, draws), np.where(is_witness[..., None], np.nan, predictive)
            )
        self._writer.write_scores(generated=generated, observed=observed)


def result_of_finished(spec: RunSpec, world: World) -> RankResult:
    """What `run_rank` returns for a run that is already finished; removes old checkpoints that a kill left behind."""
    history = open_run(spec.store)[HISTORY].to_dataset()
    _checkpoints(spec, world).keep_last()
    elapsed_s = float(history[ELAPSED][world.rank].values[-1])
    waited_s = float(history[WAITED][world.rank].values.sum())
    return _result(spec, world, spec.n_steps, elapsed_s, waited_s, first_step=spec.n_steps)


def _result(spec: RunSpec, world: World, steps: int, elapsed_s: float, waited_s: float, first_step: int) -> RankResult:
    return {
        "rank": world.rank,
        "replica": spec.exchange.replica(world.rank, world.size),
        "steps": steps,
        "elapsed_s": elapsed_s,
        "waited_s": waited_s,
        "first_step": first_step,
        "host": world.hostname,
        "device": str(world.device),
    }


def _heartbeat(spec: RunSpec, world: World) -> Heartbeat:
    """The signs of life of this rank's node, which its first rank writes."""
    nodes = list(dict.fromkeys(world.hosts))
    is_first = world.hosts.index(world.hostname) == world.rank
    return Heartbeat(spec.store, nodes.index(world.hostname), len(nodes), is_first)


def _checkpoints(spec: RunSpec, world: World) -> Checkpoints:
    spec.exchange.replica(world.rank, world.size)  # raises an error if the replicas depend on the nodes
    exchange = spec.exchange
    return Checkpoints(spec.store, world.rank, spec.n_steps, exchange.replicas(world.size) or (), exchange.waits)


def _opened(spec: RunSpec) -> xr.DataTree:
    try:
        return open_run(spec.store)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no run at `{spec.store}`. run_rank(spec) trains a run that prepare(spec, n_ranks) has created. "
            "Type sagips_kit.run(spec), which does both."
        ) from None


def _events(spec: RunSpec) -> NDArray:
    """The observed events in the store, (event, observable)."""
    observed = _opened(spec)[OBSERVED].to_dataset()
    return np.stack([observed[name].values for name in spec.problem.observables], axis=-1)


def _rows(records: list[Record]) -> dict[str, NDArray]:
    """Records as rows of the history: name -> (member, row[, parameter]) or (row,)."""
    columns = {name: np.array([getattr(record, name) for record in records]) for name in ROWS}
    return {name: column if column.ndim == 1 else np.moveaxis(column, 0, 1) for name, column in columns.items()}


def _library(world: World) -> str:
    """Name and version of the MPI library."""
    if world.comm is None:
        return "none"
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"

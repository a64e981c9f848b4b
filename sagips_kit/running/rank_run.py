"""One rank of a run, from its store to its last checkpoint."""

import warnings

import numpy as np
import torch

from ..store.files import sync_rows
from ..store.reader import open_run
from ..store.schema import HISTORY, OBSERVED, PROGRESS, ROWS
from ..store.status import read_progress
from ..store.writer import RunWriter
from ..training import predictions
from ..training.trainer import Trainer
from . import resume as resuming
from .checkpoints import Checkpoints
from .coordination import Control, Milestones
from .signals import Signals


def train(spec, world, resume):
    replica = spec.exchange.replica(world.rank, world.size)  # or an error that says what is missing
    replicas = spec.exchange.replicas(world.size)
    checkpoints = Checkpoints(spec.store, world.rank, spec.n_steps, replicas)
    if resume and resuming.is_finished(spec.store):
        checkpoints.clear()  # left by a kill at the very end
        return _result(world, spec, *_ended(spec.store, world.rank), first_step=spec.n_steps)
    # The events of the store, not new ones: what is analysed is what was trained on.
    observed = _opened(spec)[OBSERVED]
    events = np.stack([observed[name].values for name in spec.problem.observables], axis=-1)
    trainer = Trainer(
        spec.problem,
        spec.settings,
        events,
        n_steps=spec.n_steps,
        seed=spec.seed,
        world=world,
        exchange=spec.exchange,
        windows=_windows(spec),
    )
    is_leader = replicas.index(replica) == world.rank
    writer = RunWriter(spec.store, world.rank, replica if is_leader else None)
    control = Control(spec.store)
    owner = world.from_rank_0(control.take, "rank 0 to begin")
    # Who is through waits for the others in `trainer`, and a signal that ends it there would end them all.
    with Signals() as signals, trainer, writer:
        if resume:
            _go_back(trainer, writer, checkpoints, world)
        first_step = trainer.step
        writer.write_facts(host=world.hostname, device=_device_name(world.device), library=_library(world))
        block_steps = spec.settings.record_every * spec.settings.rows_per_block
        milestones = Milestones(control, owner, world.rank, block_steps, spec.n_steps, spec.checkpoint_s, signals)
        elapsed_s, waited_s = _write_history(trainer, writer, milestones, checkpoints)
        milestones.check_owner()
        if trainer.step == spec.n_steps:
            if len(set(replicas)) > 1:
                _save(trainer, checkpoints)  # others may take much longer, and be resumed without this rank
            predictive = trainer.predict()
            if is_leader:
                writer.write_chains(trainer.draws, predictive)
            generated, observed = predictions.scores(trainer, predictive)
            writer.write_scores(generated=generated, observed=observed)
        # Last of all, so that a run which counts as finished has its chains.
        writer.set_progress(trainer.step)
        if resuming.is_finished(spec.store):  # seen by the last rank
            checkpoints.clear()
    return _result(world, spec, trainer.step, elapsed_s, waited_s, first_step)


def _opened(spec):
    try:
        return open_run(spec.store)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no run at `{spec.store}`, and run_rank trains one that prepare(spec, n_ranks) has made. Type "
            "sagips_kit.run(spec), which does both."
        ) from None


def _result(world, spec, steps, elapsed_s, waited_s, first_step):
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


def _ended(path, rank):
    """Steps, elapsed_s and waited_s of a rank of a finished run."""
    history = open_run(path)[HISTORY]
    times = history["elapsed_s"][rank].values[-1], history["waited_s"][rank].values.sum()
    return int(history[PROGRESS][rank]), *map(float, times)


def _go_back(trainer, writer, checkpoints, world):
    """Take up the newest checkpoint that all ranks have.  Collective."""
    reached = int(read_progress(writer.path).steps.max())
    steps = resuming.agreed_steps(checkpoints, world)
    if step := steps[world.rank]:
        trainer.load_state_dict(checkpoints.read(step))
        if trainer.step != step:
            raise ValueError(f"The checkpoint of step {step} is damaged: it says that it is of step {trainer.step}.")
    if step < trainer.n_steps:  # else only the chains may be missing
        writer.set_progress(step)  # rows beyond will be written again
        checkpoints.forget_after(step)
    if world.rank == 0 and reached:
        resuming.note(writer.path, min(steps), reached)


def _write_history(trainer, writer, milestones, checkpoints):
    """Train to the end or to the step where a stop was asked for; rows go to the store block by block.

    Returns how long that took, and how long this rank waited for others, in seconds.
    """
    settings, waited_s, elapsed_s = trainer.settings, 0.0, 0.0
    # No more than a block: small things kept from many steps would leave the heap in pieces.
    next_row, block = trainer.step // settings.record_every, []
    for record in trainer.iterate():
        block.append(record)
        waited_s, elapsed_s = waited_s + record.waited_s, record.elapsed_s
        if writer.wants_snapshot(record.step):
            parameters, events = predictions.snapshot(trainer)
            writer.write_snapshot(record.step, parameters=parameters, events=events)
        is_last = record.step == trainer.n_steps
        if len(block) < settings.rows_per_block and not is_last:
            continue
        milestones.check_owner()
        writer.write_rows(next_row, _rows(block))
        next_row += len(block)
        block.clear()
        if is_last:
            break
        stops, saves = milestones.reached(record.step)
        if not stops:
            writer.set_progress(record.step)
        if saves:
            _save(trainer, checkpoints)
        if stops:
            break
    return elapsed_s, waited_s


def _save(trainer, checkpoints):
    # Discriminators find back to their last good state, generators do not.
    if not all(weight.isfinite().all() for weight in trainer.gan.generator.parameters()):
        warnings.warn(
            f"Rank {checkpoints.rank} writes no checkpoint of step {trainer.step}: the weights of its generators are "
            "not finite. A run that is resumed goes on from an earlier one.",
            stacklevel=2,
        )
        return
    try:
        sync_rows(checkpoints.path, checkpoints.rank)
        checkpoints.write(trainer.step, trainer.state_dict())
    except OSError as error:
        warnings.warn(
            f"Rank {checkpoints.rank} cannot write its checkpoint of step {trainer.step}: {error}. The run goes on; "
            "if it is killed, it can be resumed from the checkpoint before.",
            stacklevel=2,
        )


def _device_name(device):
    return f"{device}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def _library(world):
    """The MPI library, by its name and version."""
    if world.comm is None:
        return "none"
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def _rows(records):
    """Records as rows of the history: name -> (member, row[, parameter]) or (row,)."""
    columns = {name: np.array([getattr(record, name) for record in records]) for name in ROWS}
    return {name: column if column.ndim == 1 else np.moveaxis(column, 0, 1) for name, column in columns.items()}


def _windows(spec):
    """What reads a window of a file that the ranks read themselves, by its number; None if there is no such file."""
    if not spec.streams:
        return None
    return lambda number: spec.events.window(spec.problem, number, spec.n_observed, spec.seed)

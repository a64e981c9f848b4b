"""One function behind every door: notebook, batch job and single process all run `run_rank` on each rank."""

import numpy as np
import torch

from . import samples, store, template
from .data import check_events
from .likelihood import fit_likelihood
from .observed import Observed
from .problem import Problem
from .schema import OBSERVED, ROWS, RunLayout
from .trainer import Trainer
from .world import World


def prepare(spec, n_ranks):
    """Check a run and create its store, complete but empty; called once, before any rank starts.

    Parameters
    ----------
    spec : RunSpec
    n_ranks : int

    Raises
    ------
    ValueError, FileNotFoundError
        If the observed events cannot be used.
    FileExistsError
        If the store holds a run already.
    OSError
        If the store cannot be written; nothing half-written is left.
    """
    template.check_free(spec.store, spec.overwrite)
    problem, settings = spec.problem, spec.settings
    events, source = observed_events(spec)
    events = check_events(problem, events)
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
        n_scores=samples.n_scored(settings, len(events)),
    )
    template.create_run(
        spec.store,
        problem,
        layout,
        spec=spec.to_dict(),
        events=events,
        reference=_reference(spec, events),
        mode=repr(spec.exchange),
        source=source,
        uncertainty="bootstrap ensemble" if settings.bootstrap and layout.n_chains > 1 else "none: no resampling",
        overwrite=spec.overwrite,
    )


def run_rank(spec, world=None):
    """Train one rank of a run whose store has been prepared.  Collective.

    Parameters
    ----------
    spec : RunSpec
    world : World or None
        None takes all ranks that an MPI launcher started together with this one, or a rank alone.

    Returns
    -------
    dict
        rank, replica, steps, elapsed_s, waited_s, host and device.
    """
    own = World.here() if world is None else None
    world = own or world
    try:
        result = _train(spec, world)
    except BaseException as error:
        # The others must not wait for this rank; the first error is the one to show.
        world.announce_failure(error)
        raise
    if own:
        own.close()  # engines run one spec after another, and communicators are not without number
    return result


def run(spec, world=None):
    """Prepare a run and train it, in a batch job or a single process.  Collective."""
    world = world or World.here()
    with world.rank_0_first("rank 0 to create the store"):
        if world.rank == 0:
            prepare(spec, world.size)
    return run_rank(spec, world)


def _train(spec, world):
    replica = spec.exchange.replica(world.rank, world.size)
    is_leader = all(spec.exchange.replica(rank, world.size) != replica for rank in range(world.rank))
    # The events of the store, not new ones: what is analysed is what was trained on.
    observed = store.open_run(spec.store)[OBSERVED]
    events = np.stack([observed[name].values for name in spec.problem.observables], axis=-1)
    trainer = Trainer(
        spec.problem,
        spec.settings,
        events,
        n_steps=spec.n_steps,
        seed=spec.seed,
        world=world,
        exchange=spec.exchange,
    )
    with trainer, store.RunWriter(spec.store, world.rank, replica if is_leader else None) as writer:
        writer.write_facts(host=world.hostname, device=_device_name(world.device), library=_library(world))
        records = _write_history(trainer, writer, spec.settings.rows_per_block)
        if trainer.step == spec.n_steps:
            predictive = trainer.predict()
            if is_leader:
                writer.write_chains(trainer.draws, predictive)
            generated, observed = samples.scores(trainer, predictive)
            writer.write_scores(generated=generated, observed=observed)
        # Last of all, so that a run which counts as finished has its chains.
        writer.set_progress(trainer.step)
    return {
        "rank": world.rank,
        "replica": replica,
        "steps": trainer.step,
        "elapsed_s": records[-1].elapsed_s,
        "waited_s": sum(record.waited_s for record in records),
        "host": world.hostname,
        "device": str(world.device),
    }


def _write_history(trainer, writer, rows_per_block):
    """Train to the end or to the step where a stop was asked for; rows go to the store block by block."""
    records, n_written = [], 0
    for record in trainer.iterate():
        records.append(record)
        if writer.wants_snapshot(record.step):
            parameters, events = samples.snapshot(trainer)
            writer.write_snapshot(record.step, parameters=parameters, events=events)
        is_last = record.step == trainer.n_steps
        if len(records) - n_written < rows_per_block and not is_last:
            continue
        writer.write_rows(n_written, _rows(records[n_written:]))
        n_written = len(records)
        if is_last or record.step >= writer.stop_step():
            break
        writer.set_progress(record.step)
    return records


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


def observed_events(spec):
    """Events of the problem's own or of a file, and in words where they come from."""
    if spec.events is None:
        events = spec.problem.observed(spec.n_observed, np.random.default_rng(spec.seed))
        return events, f"{spec.problem!r}.observed, seed {spec.seed}"
    file = spec.events if isinstance(spec.events, Observed) else Observed(spec.events)
    events = file.read(spec.problem, spec.n_observed, spec.seed)
    sampling = "" if spec.n_observed is None else f", {spec.n_observed} at random, seed {spec.seed}"
    return events, f"{file!r}{sampling}"


def _reference(spec, events):
    has_likelihood = type(spec.problem).log_likelihood is not Problem.log_likelihood
    if not (spec.reference and has_likelihood):
        return None
    fit = fit_likelihood(spec.problem, events)
    return {"mle": fit.theta, "deviation": fit.deviation, "covariance": fit.covariance}

"""What a stored run looks like: names of groups, dimensions, variables and attributes, and the shape of every array.

A run is one tree of groups; the groups that ArviZ knows bear ArviZ's names.  The writer, the readers and the plots
spell every name by importing it from here.  Nothing here reads or writes.
"""

import math
from dataclasses import asdict, dataclass

SCHEMA_VERSION = 3

# Groups
POSTERIOR = "posterior"
PREDICTIVE = "posterior_predictive"
HISTORY = "history"
SNAPSHOTS = "snapshots"
SCORES = "scores"
OBSERVED = "observed_data"
REFERENCE = "reference"
ENVIRONMENT = "environment"
CONTROL = "control"

# Dimensions; all but `event` and `set` have a coordinate of the same name
CHAIN = "chain"
DRAW = "draw"
EVENT = "event"
RANK = "rank"
MEMBER = "member"
STEP = "step"
SET = "set"
OBSERVABLE = "observable"
PARAMETER = "parameter"
PARAMETER_2 = "parameter_2"
REPLICA = "replica"  # a coordinate along `chain`, where `member` is one too

# Parameters and observables are variables beside these coordinates, so they cannot bear their names.
RESERVED = frozenset({CHAIN, DRAW, EVENT, MEMBER, REPLICA})

# Variables of the history that a rank writes row by row
ROWS = {
    "theta": (RANK, MEMBER, STEP, PARAMETER),
    "loss_discriminator": (RANK, MEMBER, STEP),
    "loss_generator": (RANK, MEMBER, STEP),
    "waited_s": (RANK, STEP),
    "elapsed_s": (RANK, STEP),
    "staleness": (RANK, STEP),
    "rejected": (RANK, STEP),
}
# Numbers that need more than float32's 7 digits, or that readers add up
_EXACT = frozenset({"waited_s", "elapsed_s"})
PROGRESS = "progress"
STOP_STEP = "stop_step"
CHECKPOINT_STEP = "checkpoint_step"
ASKED = "asked_to_end"
BY_SIGNAL, BY_USER = 1, 2
NO_STOP = 2**63 - 1

# What the generators proposed on the way, and what their discriminators say in the end
TAKEN = {"parameters": (CHAIN, STEP, SET, PARAMETER), "events": (CHAIN, STEP, EVENT, OBSERVABLE)}
SCORED = {"generated": (RANK, MEMBER, EVENT), "observed": (RANK, MEMBER, EVENT)}

# Variables of the reference; a likelihood fit provides the first three
REFERENCES = {
    "mle": (PARAMETER,),
    "deviation": (PARAMETER,),
    "covariance": (PARAMETER, PARAMETER_2),
    "truth": (PARAMETER,),
    "published": (PARAMETER,),
    "published_deviation": (PARAMETER,),
    "lower": (PARAMETER,),
    "upper": (PARAMETER,),
}
FIT = ("mle", "deviation", "covariance")

# Texts that each rank writes once, when it starts
FACTS = {"host": (RANK,), "device": (RANK,), "library": (RANK,)}

# What a chunk of a history holds before it is compressed: long runs of many ranks need few files, and a rank writes the
# chunk under way again with every block.
CHUNK_BYTES = 2**17

LONG_NAMES = {
    CHAIN: "chain: one independent generator",
    DRAW: "draw of a chain",
    RANK: "MPI rank",
    MEMBER: "member: generator of a rank",
    REPLICA: "replica: ranks that hold the same generators",
    PARAMETER: "parameter",
    PARAMETER_2: "parameter",
    STEP: "step",
    OBSERVABLE: "observable",
    "parameters": "parameter vectors that the generator proposed at this step",
    "events": "events that it generated at this step",
    "generated": "discriminator's scores of generated events: the higher, the more like observed ones",
    "observed": "discriminator's scores of observed events: the higher, the more like observed ones",
    "theta": "mean of the generated parameters",
    "loss_discriminator": "loss of the discriminator",
    "loss_generator": "loss of the generator",
    "waited_s": "time spent waiting for other ranks since the row before",
    "elapsed_s": "time since the run started",
    "staleness": "age of the oldest message used",
    "rejected": "steps of members whose numbers were not finite, and that were dropped, since the row before",
    PROGRESS: "steps completed; rows beyond are not valid",
    STOP_STEP: "step at which the ranks shall stop",
    CHECKPOINT_STEP: "step at which the ranks shall write the next checkpoint, or have written the last one",
    ASKED: "1 if a rank was asked by a signal, or by the end of its time, to end; 2 if a user asked",
    "mle": "maximum-likelihood estimate",
    "deviation": "standard deviation of the maximum-likelihood estimate",
    "covariance": "covariance of the maximum-likelihood estimate: inverse of the observed Fisher information",
    "truth": "parameters that the observed events were made with",
    "published": "published value",
    "published_deviation": "standard deviation of the published value",
    "lower": "lower end of the generator's range",
    "upper": "upper end of the generator's range",
    "host": "computer that the rank ran on",
    "device": "processor that the rank trained on",
    "library": "MPI library of the rank",
}
DIMENSIONLESS = "1"
UNITS_OF_PARAMETERS = "units of the parameters"
UNITS = {
    "theta": UNITS_OF_PARAMETERS,
    "parameters": UNITS_OF_PARAMETERS,
    "events": "units of the observables",
    "generated": DIMENSIONLESS,
    "observed": DIMENSIONLESS,
    "covariance": "products of the units of the parameters",
    "waited_s": "s",
    "elapsed_s": "s",
    "staleness": "steps",
    "rejected": DIMENSIONLESS,
    PROGRESS: "steps",
    STOP_STEP: "steps",
    CHECKPOINT_STEP: "steps",
    ASKED: DIMENSIONLESS,
    STEP: "steps",
    "loss_discriminator": DIMENSIONLESS,
    "loss_generator": DIMENSIONLESS,
}

# Attributes of the root
VERSION_KEY = "sagips_kit_schema"
PROBLEM_KEY = "problem"
PARAMETERS_KEY = "parameters"
OBSERVABLES_KEY = "observables"
SPEC_KEY = "spec"
LAYOUT_KEY = "layout"
VERSIONS_KEY = "versions"
MODE_KEY = "mode"
CREATED_KEY = "created_at"
HOSTNAME_KEY = "hostname"
REVISION_KEY = "git_revision"

# Attributes of the control group: what code and streamed file give; from where a run was resumed; who writes it
PROBE_KEY = "probe"
FILE_KEY = "events_file"
RESUMED_KEY = "resumed"
OWNER_KEY = "owner"
# Attributes of the posterior
LIBRARY_KEY = "inference_library"
LIBRARY_VERSION_KEY = "inference_library_version"
UNCERTAINTY_KEY = "uncertainty"
# Attributes of observed events, and of several runs
SOURCE_KEY = "source"
ALONG_KEY = "along"


@dataclass(frozen=True, kw_only=True)
class RunLayout:
    """The sizes of a run's arrays, fixed when the run is created.

    A chain is one independent generator: chain = replica * n_members + member, where a replica is a set of ranks that
    hold the same generators.

    Parameters
    ----------
    n_ranks, n_replicas, n_members : int
        Ranks of the run, sets of ranks with the same generators, generators on each rank.
    n_steps, record_every : int
        Length of the run, and steps between two rows of the history.
    rows_per_block : int
        Rows that a rank writes together.
    n_draws, n_predictive : int
        Parameter vectors that each chain keeps, and events generated from each of them.
    n_snapshots, n_sets : int
        Snapshots of each chain, of which there are no more than rows, and parameter vectors in each of them.
    n_scores : int
        Generated and observed events that each discriminator scores.

    Raises
    ------
    ValueError
        For a size that is not a positive integer, more replicas than ranks, or too many steps or rows.
    """

    n_ranks: int
    n_replicas: int
    n_members: int
    n_steps: int
    record_every: int
    rows_per_block: int
    n_draws: int
    n_predictive: int
    n_snapshots: int = 1
    n_sets: int = 1
    n_scores: int = 1

    def __post_init__(self):
        for name, size in asdict(self).items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"RunLayout: {name} = {size!r}: should be an integer, 1 or more.")
        if self.n_replicas > self.n_ranks:
            raise ValueError(f"RunLayout: n_replicas = {self.n_replicas}: should be at most n_ranks = {self.n_ranks}.")
        if self.n_steps >= 10**12 or self.n_steps // self.record_every > 10**7:  # names of checkpoints have 12 digits
            raise ValueError(f"n_steps = {self.n_steps}: should be below 10^12, with 10^7 rows at most (record_every).")

    @property
    def n_chains(self):
        return self.n_replicas * self.n_members

    @property
    def steps(self):
        """Step number of each row, (step,): every `record_every`-th step, and the last one."""
        return [*range(self.record_every, self.n_steps, self.record_every), self.n_steps]

    @property
    def snapshot_steps(self):
        """Step number of each snapshot, (step,): evenly spaced rows, the last of them included."""
        steps = self.steps
        n = min(self.n_snapshots, len(steps))
        return [steps[(k + 1) * len(steps) // n - 1] for k in range(n)]


@dataclass(frozen=True)
class Array:
    """An array that is created empty and reads `fill` until its owners write; one owner for each chunk."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: float | int | str


def empty_arrays(layout, parameters, observables):
    """What the ranks and the notebook fill while a run goes on: group -> name -> Array.

    The owner of a chunk is a rank (history), the leader of a replica (posterior) or the notebook (control).
    """
    sizes = {
        CHAIN: layout.n_chains,
        DRAW: layout.n_draws,
        EVENT: layout.n_predictive,
        RANK: layout.n_ranks,
        MEMBER: layout.n_members,
        STEP: len(layout.steps),
        PARAMETER: len(parameters),
        SET: layout.n_sets,
        OBSERVABLE: len(observables),
    }
    owned = {CHAIN: layout.n_members, RANK: 1}

    def array(dims, dtype="float64", fill=math.nan, **others):
        shape = {dim: (sizes | others)[dim] for dim in dims}
        chunks = shape | {dim: n for dim, n in owned.items() if dim in dims}
        if STEP in dims and STEP not in others:
            row_bytes = math.prod(chunks[dim] for dim in dims if dim != STEP) * int(dtype.removeprefix("float")) // 8
            chunks[STEP] = min(_rows_per_chunk(row_bytes, layout.rows_per_block), sizes[STEP])
        return Array(dims, tuple(shape.values()), tuple(chunks.values()), dtype, fill)

    # Networks compute in single precision: more digits of their output would be noise.
    history = {name: array(dims, "float64" if name in _EXACT else "float32") for name, dims in ROWS.items()}
    taken, scored = {STEP: len(layout.snapshot_steps)}, {EVENT: layout.n_scores}
    return {
        POSTERIOR: {name: array((CHAIN, DRAW)) for name in parameters},
        PREDICTIVE: {name: array((CHAIN, DRAW, EVENT), "float32") for name in observables},
        HISTORY: history | {PROGRESS: array((RANK,), "int64", 0)},
        # All snapshots of a replica in one file, written again with each of them: they are few and small.
        SNAPSHOTS: {name: array(dims, "float32", **taken) for name, dims in TAKEN.items()},
        SCORES: {name: array(dims, "float32", **scored) for name, dims in SCORED.items()},
        ENVIRONMENT: {name: array(dims, "str", "") for name, dims in FACTS.items()},
        CONTROL: {
            STOP_STEP: array((), "int64", NO_STOP),
            CHECKPOINT_STEP: array((), "int64", 0),
            ASKED: array((), "int64", 0),
        },
    }


def _rows_per_chunk(row_bytes, rows_per_block):
    """Whole blocks, about CHUNK_BYTES of them."""
    return rows_per_block * max(1, CHUNK_BYTES // (row_bytes * rows_per_block))


def variables(parameters, observables):
    """Variables of each group, in the order in which they are shown: group -> name -> dimensions."""
    return {
        POSTERIOR: dict.fromkeys(parameters, (CHAIN, DRAW)),
        PREDICTIVE: dict.fromkeys(observables, (CHAIN, DRAW, EVENT)),
        HISTORY: ROWS | {PROGRESS: (RANK,)},
        SNAPSHOTS: TAKEN,
        SCORES: SCORED,
        OBSERVED: dict.fromkeys(observables, (EVENT,)),
        REFERENCE: REFERENCES,
        ENVIRONMENT: FACTS,
        CONTROL: {STOP_STEP: ()},
    }


def check_names(parameters, observables):
    """Raise ValueError unless every name can be a variable of the store."""
    for kind, names in [("parameter", parameters), ("observable", observables)]:
        for name in names:
            # A name is a folder of the store, and stays one inside it.
            is_path = not name or name.startswith(".") or set(name) & set("/\\\0") or name == "zarr.json"
            if names.count(name) > 1 or is_path or name in RESERVED:
                raise ValueError(
                    f"{kind} {name!r} cannot name a variable of the store. Names should be unique, without '/' and a "
                    f"dot at the beginning, and none of {', '.join(sorted(RESERVED))}."
                )

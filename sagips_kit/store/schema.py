"""The layout of a stored run: names of groups, dimensions, variables and attributes, and the shape of each array.

A run is one tree of groups; groups that ArviZ knows have ArviZ's names.  `variables` is the table that everything else
is derived from: the empty arrays of a new run, the attributes of each array, and what a reader expects to find.  Other
modules import the names from here and do not spell them.  Nothing here reads or writes.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .._text import has_control
from .layout import LISTS, RunLayout

SCHEMA_VERSION = 7
# Since this version, all chunks have checksums, all metadata files have digests, and all chunks are written.
CHECKED_SINCE = 6

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
GROUPS = (POSTERIOR, PREDICTIVE, HISTORY, SNAPSHOTS, SCORES, OBSERVED, REFERENCE, ENVIRONMENT, CONTROL)

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

# Variables of the history
THETA = "theta"
LOSS_DISCRIMINATOR = "loss_discriminator"
LOSS_GENERATOR = "loss_generator"
WAITED = "waited_s"
ELAPSED = "elapsed_s"
STALENESS = "staleness"
REJECTED = "rejected"
PROGRESS = "progress"
WITNESS = "witness"

# Variables of the snapshots and scores
TAKEN_PARAMETERS = "parameters"
TAKEN_EVENTS = "events"
SCORE_GENERATED = "generated"
SCORE_OBSERVED = "observed"

# Variables of the reference; a likelihood fit provides the first three, a fit by the learned score the next five, and
# the ranks of a run that begins at that fit the three after these
MLE = "mle"
DEVIATION = "deviation"
COVARIANCE = "covariance"
FIT = "fit"
FIT_DEVIATION = "fit_deviation"
FIT_COVARIANCE = "fit_covariance"
FIT_GOODNESS = "fit_goodness"
FIT_FREEDOM = "fit_n_freedom"
CHAIN_FIT = "chain_fit"
CHAIN_START = "chain_start"
CHAIN_END = "chain_end"
TRUTH = "truth"
PUBLISHED = "published"
PUBLISHED_DEVIATION = "published_deviation"
LOWER = "lower"
UPPER = "upper"
LIKELIHOOD_FIT = (MLE, DEVIATION, COVARIANCE)

# Variables of the environment
HOST = "host"
DEVICE = "device"
LIBRARY = "library"

# Variables of the control group, and the values that they take
STOP_STEP = "stop_step"
CHECKPOINT_STEP = "checkpoint_step"
ASKED = "asked_to_end"
BY_SIGNAL, BY_USER = 1, 2
NO_STOP = 2**63 - 1

# Units that are no symbols
DIMENSIONLESS = "1"
STEPS = "steps"
SECONDS = "s"
UNITS_OF_PARAMETERS = "units of the parameters"

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
VERDICT_KEY = "verdict"
RUN_KEY = "run_id"  # a new one for each run, also for one that replaces another, and for each continuation
SHOWN_KEY = "shown"  # how pictures and tables show the problem; `store.shown` reads it
CONTINUED_KEY = "continued"  # how a finished run was continued: versions, dates and the verdict before

# Attributes of the control group: what the code and a streamed file of events give, resumptions, and who writes the run
PROBE_KEY = "probe"
FILE_KEY = "events_file"
RESUMED_KEY = "resumed"
OWNER_KEY = "owner"
# Attributes of the posterior
LIBRARY_KEY = "inference_library"
LIBRARY_VERSION_KEY = "inference_library_version"
UNCERTAINTY_KEY = "uncertainty"
NO_UNCERTAINTY = "none"  # what its text begins with if the chains have no spread that is an uncertainty
RESAMPLED_KEY = "n_resampled"  # chains of which events were resampled together, witnesses included
# Attribute of posterior, predictive and observed events: intervals of periodic variables by their names, as JSON text,
# which netCDF takes, too
PERIODIC_KEY = "periodic"
# Attribute of the reference: the state of the fit by the learned score, and what it says in words
FIT_KEY = "fit"
FITTING = "fitting by the learned score"
FIT_STATES = UNDER_WAY, MADE, REFUSED, FAILED = "under way", "made", "refused", "failed"
# Attributes of observed events, and of several runs
SOURCE_KEY = "source"
ALONG_KEY = "along"
# Attributes of every array
LONG_NAME_KEY = "long_name"
UNITS_KEY = "units"
# Attribute of every group and array in the file, which readers do not see
DIGEST_KEY = "sagips_kit_sha256"

# Uncompressed size of a chunk of the history: large enough that long runs of many ranks need few files, small enough
# that a rank can rewrite its current chunk with every block.
CHUNK_BYTES = 2**17

# Who writes a variable: "creator" with the template; "rank 0" alone; each "rank" its own chunk; the leader of each
# "replica" the chunk of its chains; "any" process that wants the ranks to act, one number at a time.
Owner = Literal["creator", "rank 0", "rank", "replica", "any"]


@dataclass(frozen=True)
class Variable:
    """One variable of a stored run.

    Parameters
    ----------
    group, name : str
        Where it is, and its name there.
    dims : tuple of str
        Its dimensions.
    dtype : str
        Type of the stored numbers; networks compute in single precision, so most are "float32".
    unit, long_name : str
        Written to the array's attributes; a unit of None is not written.
    owner : {"creator", "rank 0", "rank", "replica", "any"}
        Who writes it.
    fill : float, int or str
        What it reads before its owner writes.
    is_shown : bool
        Whether `open_run` shows it.
    since : int
        Version of the schema that introduced it; in runs of earlier versions it reads `fill`.
    """

    group: str
    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str | None
    long_name: str
    owner: Owner
    fill: float | int | str = math.nan
    is_shown: bool = True
    since: int = 3

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the stored array."""
        units = {} if self.unit is None else {UNITS_KEY: self.unit}
        return {LONG_NAME_KEY: self.long_name} | units


_EACH = (RANK, MEMBER, STEP)  # the history of one generator

# fmt: off
_FIXED = (
    Variable(HISTORY, THETA, (*_EACH, PARAMETER), "float32", UNITS_OF_PARAMETERS,
             "mean of the generated parameters", "rank"),
    Variable(HISTORY, LOSS_DISCRIMINATOR, _EACH, "float32", DIMENSIONLESS, "loss of the discriminator", "rank"),
    Variable(HISTORY, LOSS_GENERATOR, _EACH, "float32", DIMENSIONLESS, "loss of the generator", "rank"),
    # Times are added up, and need more than the 7 digits of single precision.
    Variable(HISTORY, WAITED, (RANK, STEP), "float64", SECONDS,
             "time spent waiting for other ranks since the row before", "rank"),
    Variable(HISTORY, ELAPSED, (RANK, STEP), "float64", SECONDS, "time since the run started", "rank"),
    Variable(HISTORY, STALENESS, (RANK, STEP), "float32", STEPS, "age of the oldest message used", "rank"),
    Variable(HISTORY, REJECTED, (RANK, STEP), "float32", DIMENSIONLESS,
             "steps of members whose numbers were not finite, and that were dropped, since the row before", "rank"),
    Variable(HISTORY, PROGRESS, (RANK,), "int64", STEPS, "steps completed; rows beyond are not valid", "rank", 0),
    Variable(HISTORY, WITNESS, (RANK, MEMBER), "int64", DIMENSIONLESS,
             "1 for a witness, a generator that began away from the fit; its chain is not in the posterior", "rank", 0,
             since=5),
    Variable(SNAPSHOTS, TAKEN_PARAMETERS, (CHAIN, STEP, SET, PARAMETER), "float32", UNITS_OF_PARAMETERS,
             "parameter vectors that the generator proposed at this step", "replica"),
    Variable(SNAPSHOTS, TAKEN_EVENTS, (CHAIN, STEP, EVENT, OBSERVABLE), "float32", "units of the observables",
             "events that it generated at this step", "replica"),
    Variable(SCORES, SCORE_GENERATED, (RANK, MEMBER, EVENT), "float32", DIMENSIONLESS,
             "discriminator's scores of generated events: the higher, the more like observed ones", "rank"),
    Variable(SCORES, SCORE_OBSERVED, (RANK, MEMBER, EVENT), "float32", DIMENSIONLESS,
             "discriminator's scores of observed events: the higher, the more like observed ones", "rank"),
    Variable(REFERENCE, MLE, (PARAMETER,), "float64", UNITS_OF_PARAMETERS, "maximum-likelihood estimate", "creator"),
    Variable(REFERENCE, DEVIATION, (PARAMETER,), "float64", UNITS_OF_PARAMETERS,
             "standard deviation of the maximum-likelihood estimate", "creator"),
    Variable(REFERENCE, COVARIANCE, (PARAMETER, PARAMETER_2), "float64", "products of the units of the parameters",
             "covariance of the maximum-likelihood estimate: inverse of the observed Fisher information", "creator"),
    Variable(REFERENCE, FIT, (PARAMETER,), "float64", UNITS_OF_PARAMETERS,
             "estimate of the fit by the learned score", "rank 0", since=4),
    Variable(REFERENCE, FIT_DEVIATION, (PARAMETER,), "float64", UNITS_OF_PARAMETERS,
             "standard deviation of the fit by the learned score", "rank 0", since=4),
    Variable(REFERENCE, FIT_COVARIANCE, (PARAMETER, PARAMETER_2), "float64", "products of the units of the parameters",
             "covariance of the fit by the learned score", "rank 0", since=4),
    Variable(REFERENCE, FIT_GOODNESS, (), "float64", DIMENSIONLESS,
             "chi-squared of means of functions that the fit did not use", "rank 0", since=4),
    Variable(REFERENCE, FIT_FREEDOM, (), "int64", DIMENSIONLESS, "degrees of freedom of that chi-squared", "rank 0", 0,
             since=4),
    Variable(REFERENCE, CHAIN_FIT, (CHAIN, PARAMETER), "float64", UNITS_OF_PARAMETERS,
             "fit of the events that the chain learns from, if generators began at the fit", "replica", since=5),
    Variable(REFERENCE, CHAIN_START, (CHAIN, PARAMETER), "float64", UNITS_OF_PARAMETERS,
             "where the chain began, if generators began at the fit; witnesses began elsewhere", "replica", since=5),
    Variable(REFERENCE, CHAIN_END, (CHAIN, PARAMETER), "float64", UNITS_OF_PARAMETERS,
             "mean of the chain's draws, also of witnesses, if generators began at the fit", "replica", since=5),
    Variable(REFERENCE, TRUTH, (PARAMETER,), "float64", UNITS_OF_PARAMETERS,
             "parameters that the observed events were made with", "creator"),
    Variable(REFERENCE, PUBLISHED, (PARAMETER,), "float64", UNITS_OF_PARAMETERS, "published value", "creator"),
    Variable(REFERENCE, PUBLISHED_DEVIATION, (PARAMETER,), "float64", UNITS_OF_PARAMETERS,
             "standard deviation of the published value", "creator"),
    Variable(REFERENCE, LOWER, (PARAMETER,), "float64", UNITS_OF_PARAMETERS,
             "lower end of the generator's range", "creator"),
    Variable(REFERENCE, UPPER, (PARAMETER,), "float64", UNITS_OF_PARAMETERS,
             "upper end of the generator's range", "creator"),
    Variable(ENVIRONMENT, HOST, (RANK,), "str", None, "computer that the rank ran on", "rank", ""),
    Variable(ENVIRONMENT, DEVICE, (RANK,), "str", None, "processor that the rank trained on", "rank", ""),
    Variable(ENVIRONMENT, LIBRARY, (RANK,), "str", None, "MPI library of the rank", "rank", ""),
    Variable(CONTROL, STOP_STEP, (), "int64", STEPS, "step at which the ranks shall stop", "any", NO_STOP),
    Variable(CONTROL, CHECKPOINT_STEP, (), "int64", STEPS,
             "step at which the ranks shall write the next checkpoint, or have written the last one", "any", 0, False),
    Variable(CONTROL, ASKED, (), "int64", DIMENSIONLESS,
             "1 if a rank was asked by a signal, or by the end of its time, to end; 2 if a user asked",
             "any", 0, False),
)

# Coordinates: a group has those along the dimensions of its variables.
_COORDINATES = (
    Variable("", CHAIN, (CHAIN,), "int64", None, "chain: one independent generator", "creator"),
    Variable("", DRAW, (DRAW,), "int64", None, "draw of a chain", "creator"),
    Variable("", REPLICA, (CHAIN,), "int64", None, "replica: ranks that hold the same generators", "creator"),
    Variable("", MEMBER, (CHAIN,), "int64", None, "member: generator of a rank", "creator"),
    Variable("", RANK, (RANK,), "int64", None, "MPI rank", "creator"),
    Variable("", MEMBER, (MEMBER,), "int64", None, "member: generator of a rank", "creator"),
    Variable("", STEP, (STEP,), "int64", STEPS, "step", "creator"),
    Variable("", PARAMETER, (PARAMETER,), "str", None, "parameter", "creator"),
    Variable("", PARAMETER_2, (PARAMETER_2,), "str", None, "parameter", "creator"),
    Variable("", OBSERVABLE, (OBSERVABLE,), "str", None, "observable", "creator"),
)
# fmt: on

ROWS = {variable.name: variable for variable in _FIXED if variable.group == HISTORY and STEP in variable.dims}


def variables(
    parameters: Iterable[str],
    observables: Iterable[str],
    units: Mapping[str, str] | None = None,
    long_names: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Variable]]:
    """All variables of a run with these parameters and observables, in the order shown: group -> name -> Variable.

    Units and long names are those that the problem declares; a reader, which takes them from the store, gives none.
    """
    parameters, observables, units, long_names = [*parameters], [*observables], units or {}, long_names or {}

    def named(group: str, names: list[str], dims: tuple[str, ...], dtype: str, owner: Owner) -> list[Variable]:
        return [
            Variable(group, name, dims, dtype, units.get(name, DIMENSIONLESS), long_names.get(name, name), owner)
            for name in names
        ]

    table = [
        *named(POSTERIOR, parameters, (CHAIN, DRAW), "float64", "replica"),
        *named(PREDICTIVE, observables, (CHAIN, DRAW, EVENT), "float32", "replica"),
        *named(OBSERVED, observables, (EVENT,), "float64", "creator"),
        *_FIXED,
    ]
    return {group: {one.name: one for one in table if one.group == group} for group in GROUPS}


def variable(group: str, name: str) -> Variable:
    """One variable or coordinate, which may be named after a parameter or an observable."""
    return coordinates(group).get(name) or variables((name,), (name,))[group][name]


def of_group(group: str) -> dict[str, Variable]:
    """The variables of a group that every run has, whatever its problem: name -> Variable."""
    return variables((), ())[group]


def coordinates(group: str) -> dict[str, Variable]:
    """The coordinates of a group: name -> Variable."""
    dims = {dim for variable in variables(("",), ("",))[group].values() for dim in variable.dims}
    return {one.name: replace(one, group=group) for one in _COORDINATES if one.dims[0] in dims}


# Parameters and observables are variables beside dimensions and coordinates, in the store or in a table that is made of
# it, so they cannot have their names.
RESERVED = frozenset({*(dim for one in _FIXED for dim in one.dims), *(one.name for one in _COORDINATES)})


def layout_of(attributes: Mapping[Any, Any]) -> RunLayout:
    """The sizes of a run, from the attributes of its root."""
    sizes = attributes[LAYOUT_KEY]
    return RunLayout(**{**sizes, **{name: tuple(sizes.get(name, ())) for name in LISTS}})


def names_of(attributes: Mapping[Any, Any]) -> tuple[list[str], list[str]]:
    """Names of the parameters and of the observables, from the attributes of a run's root."""
    return attributes[PARAMETERS_KEY], attributes[OBSERVABLES_KEY]


def fit_state(attributes: Mapping[Any, Any]) -> str | None:
    """State of the fit by the learned score, from the attributes of the reference; None if it was not begun."""
    words = attributes.get(FIT_KEY)
    return words.get("state") if isinstance(words, Mapping) else None


def intervals_of(attributes: Mapping[Any, Any]) -> dict[str, tuple[float, float]]:
    """The interval of each periodic variable of a group, from the attributes of the group."""
    return {name: (low, high) for name, (low, high) in json.loads(attributes.get(PERIODIC_KEY, "{}")).items()}


@dataclass(frozen=True)
class Array:
    """A variable with the sizes of one run, created empty.

    Parameters
    ----------
    variable : Variable
        What it is.
    shape, chunks : tuple of int
        Sizes of the array and of its chunks, along the dimensions of the variable.
    """

    variable: Variable
    shape: tuple[int, ...]
    chunks: tuple[int, ...]


def empty_arrays(table: Mapping[str, Mapping[str, Variable]], layout: RunLayout) -> dict[str, dict[str, Array]]:
    """What is written during a run, with a single owner for each chunk: group -> name -> Array.

    `table` is what `variables` returns for the parameters and observables of the run.
    """
    sizes = {
        CHAIN: layout.n_chains,
        DRAW: layout.n_draws,
        EVENT: layout.n_predictive,
        RANK: layout.n_ranks,
        MEMBER: layout.n_members,
        STEP: len(layout.steps),
        PARAMETER: len(table[POSTERIOR]),
        PARAMETER_2: len(table[POSTERIOR]),
        SET: layout.n_sets,
        OBSERVABLE: len(table[PREDICTIVE]),
    }
    of_groups = {SNAPSHOTS: {STEP: len(layout.snapshot_steps)}, SCORES: {EVENT: layout.n_scores}}
    return {
        group: {
            name: _array(variable, sizes | of_groups.get(group, {}), layout)
            for name, variable in of_the_group.items()
            if variable.owner != "creator"
        }
        for group, of_the_group in table.items()
    }


def _array(variable: Variable, sizes: Mapping[str, int], layout: RunLayout) -> Array:
    shape = {dim: sizes[dim] for dim in variable.dims}
    owned = {"rank": {RANK: 1}, "replica": {CHAIN: layout.n_members}}
    chunks = shape | owned.get(variable.owner, {})
    # All snapshots of a replica share a file, which is rewritten with each of them: they are few and small.
    if variable.group == HISTORY and STEP in variable.dims:
        row = math.prod(n for dim, n in chunks.items() if dim != STEP)
        row_bytes = row * int(variable.dtype.removeprefix("float")) // 8
        chunks[STEP] = min(_rows_per_chunk(row_bytes, layout.rows_per_block), sizes[STEP])
    return Array(variable, tuple(shape.values()), tuple(chunks.values()))


def _rows_per_chunk(row_bytes: int, rows_per_block: int) -> int:
    """Whole blocks, of about CHUNK_BYTES together."""
    return rows_per_block * max(1, CHUNK_BYTES // (row_bytes * rows_per_block))


def check_names(parameters: Sequence[str], observables: Sequence[str]) -> None:
    """Raise ValueError unless each name can be a variable of the store."""
    for kind, names in [("parameter", parameters), ("observable", observables)]:
        for name in names:
            # Each name becomes a folder, which has to stay inside the store.
            is_path = not name or name.startswith(".") or set(name) & set("/\\\0") or name == "zarr.json"
            is_path = is_path or has_control(name)
            if names.count(name) > 1 or is_path or name in RESERVED:
                raise ValueError(
                    f"{kind} {name!r} cannot be the name of a variable in the store. Names should be unique, contain "
                    "no '/' and no control characters, not begin with a dot, and be none of "
                    f"{', '.join(sorted(RESERVED))}."
                )

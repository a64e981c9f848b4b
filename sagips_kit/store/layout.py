"""The sizes of a run's arrays, and which steps have a row of the history or a snapshot."""

import itertools
from dataclasses import asdict, dataclass

# Fields that earlier versions of the schema do not have
LISTS = ("leaders", "earlier")


@dataclass(frozen=True, kw_only=True)
class RunLayout:
    """The sizes of a run's arrays, fixed when the run is created.

    Parameters
    ----------
    n_ranks, n_replicas, n_members : int
        Number of ranks, of replicas (sets of ranks that hold the same generators), and of generators on each rank.
        A chain is one independent generator: chain = replica * n_members + member.
    n_steps, record_every : int
        Length of the run, and steps between two rows of the history.
    rows_per_block : int
        Number of rows that a rank writes together.
    n_draws, n_predictive : int
        Number of parameter vectors that each chain keeps, and of events generated from each of them.
    n_snapshots, n_sets : int
        Number of snapshots of each chain (no more are taken than there are rows), and of parameter vectors in each.
    n_scores : int
        Number of generated, and of observed, events that each discriminator scores.
    leaders : tuple of int
        The rank that writes the results of each replica; empty if that is not known before the run.
    earlier : tuple of int
        Last step of each earlier segment, in ascending order: the lengths that the run had before it was continued.

    Raises
    ------
    ValueError
        If a size is not a positive integer, if there are more replicas than ranks, or too many steps or rows.
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
    leaders: tuple[int, ...] = ()
    earlier: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if name not in LISTS and (not isinstance(size, int) or size < 1):
                raise ValueError(f"RunLayout: {name} = {size!r}: should be an integer, 1 or more.")
        are_ranks = all(isinstance(leader, int) and 0 <= leader < self.n_ranks for leader in self.leaders)
        if len(self.leaders) not in (0, self.n_replicas) or not are_ranks:
            raise ValueError(f"RunLayout: leaders = {self.leaders}: should be the number of a rank for each replica.")
        ends = (0, *self.earlier, self.n_steps)
        if not all(isinstance(end, int) for end in ends) or any(b <= a for a, b in itertools.pairwise(ends)):
            raise ValueError(f"RunLayout: earlier = {self.earlier}: should be ascending steps below {self.n_steps}.")
        if self.n_replicas > self.n_ranks:
            raise ValueError(f"RunLayout: n_replicas = {self.n_replicas}: should be at most n_ranks = {self.n_ranks}.")
        if self.n_steps >= 10**12 or self.n_steps // self.record_every > 10**7:  # checkpoint names have 12 digits
            raise ValueError(
                f"n_steps = {self.n_steps}: should be below 10^12, and give at most 10^7 rows (record_every)."
            )

    @property
    def n_chains(self) -> int:
        """Number of independent generators, int."""
        return self.n_replicas * self.n_members

    @property
    def steps(self) -> list[int]:
        """Step number of each row, list of int: every `record_every`-th step, and the last one of each segment."""
        return sorted({*range(self.record_every, self.n_steps, self.record_every), *self.earlier, self.n_steps})

    def step_of(self, row: int) -> int:
        """Step number of a row, int."""
        n_between = 0
        for end in self._between:
            last = self.n_rows(end) - 1
            if row == last:
                return end
            n_between += row > last
        return min((row + 1 - n_between) * self.record_every, self.n_steps)

    def n_rows(self, step: int) -> int:
        """Number of rows up to a step that has a row, int."""
        is_between = step % self.record_every > 0
        return step // self.record_every + is_between + sum(end < step for end in self._between)

    @property
    def _between(self) -> list[int]:
        """Last steps of earlier segments between two steps that would have rows anyway."""
        return [end for end in self.earlier if end % self.record_every]

    @property
    def snapshot_steps(self) -> list[int]:
        """Step number of each snapshot, list of int: evenly spaced rows of each segment, including its last one."""
        steps, bounds, chosen = self.steps, [0, *map(self.n_rows, (*self.earlier, self.n_steps))], []
        for first, stop in itertools.pairwise(bounds):
            n = min(self.n_snapshots, stop - first)
            chosen += [steps[first + (k + 1) * (stop - first) // n - 1] for k in range(n)]
        return chosen

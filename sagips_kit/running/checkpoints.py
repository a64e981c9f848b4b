"""Checkpoints of a run: the two newest that all ranks have, as one safetensors file per rank inside the store.

That of the last step stays, so that a finished run can be continued.

The name of a file holds its step, its rank and the first half of its SHA-256, so damage is detected; pickle is not
used.  The files lie below the node of an array, where readers of zarr do not look.  A checkpoint counts once all ranks
of a replica have one of the same step, and older ones are removed only then.
"""

import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from ..store.files import CHECKPOINTS as FOLDER
from ..store.files import Files, digest, is_intact
from ..store.location import explained
from ..training.state_dicts import flattened, nested

_NAME = re.compile(r"(\d{12})-(\d{6})-([0-9a-f]{32})\.safetensors")


class Checkpoints:
    """The checkpoints of one rank.

    Parameters
    ----------
    path : path or URL
        The store of the run.
    rank, n_steps : int
        The rank, and the length of the run in steps.
    replicas : sequence of int
        The replica of each rank.
    waits : callable
        Whether ranks wait for each other in a step, given its number.  A rank that has made all its steps does not go
        back with the rest of its replica if these need it in none of their steps.

    Attributes
    ----------
    damages : list of str
        What is wrong with checkpoints that are damaged, as far as they have been looked at.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rank: int,
        n_steps: int,
        replicas: Sequence[int],
        waits: Callable[[int], bool] = lambda step: True,
    ) -> None:
        self._files, self.path, self.rank = Files(path, FOLDER), path, rank
        self.n_steps, self.replicas = n_steps, tuple(replicas)
        self._waits, self.damages = waits, list[str]()

    def write(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, and remove the checkpoints of this rank that are no longer needed.

        The file appears as a whole or not at all.

        Parameters
        ----------
        step : int
            Steps that the rank has made.
        state : nested dict of Tensor
            What `Trainer.state_dict` returned.

        Raises
        ------
        OSError
            If the file cannot be written; earlier checkpoints are left as they were.
        """
        names = self._names()
        data = safetensors.torch.save(flattened(state))
        self._files.write(f"{step:012d}-{self.rank:06d}-{digest(data)}.safetensors", data)
        steps = [{step for step, of in names if of == rank} for rank in range(len(self.replicas))]
        # A rank that stands by keeps what the others go back to, in case its own last checkpoint is damaged.
        agreed = self.agreed(steps)
        newest = min(agreed[rank] for rank, of in enumerate(self.replicas) if of == self.replicas[self.rank])
        for (old, rank), name in names.items():
            if rank == self.rank and old < newest:
                self._files.remove(name)

    def agreed(self, steps: Sequence[set[int]]) -> list[int]:
        """The step from which each rank can resume.

        All ranks of a replica resume from the same step.  Replicas are independent of each other: one that has made all
        its steps stays finished, and the others resume from a step of their own.  This holds for single ranks, too, if
        the others wait for nobody in the steps that they have left.

        Parameters
        ----------
        steps : sequence of set of int
            Steps of which each rank has a checkpoint.

        Returns
        -------
        list of int
            The step of each rank's checkpoint, 0 where there is none.
        """
        late = [each for each in steps if self.n_steps not in each]
        newest = max(set.intersection(*late), default=0) if late else 0
        if len(late) < len(steps) and newest >= self._free_from:
            return [self.n_steps if self.n_steps in each else newest for each in steps]
        unfinished = {of for each, of in zip(steps, self.replicas, strict=True) if self.n_steps not in each}
        common = [each for each, of in zip(steps, self.replicas, strict=True) if of in unfinished]
        newest = max(set.intersection(*common), default=0) if common else 0
        return [newest if of in unfinished else self.n_steps for of in self.replicas]

    @cached_property
    def _free_from(self) -> int:
        """Number of the first step after the last one in which ranks wait for each other."""
        return next((step + 1 for step in range(self.n_steps - 1, -1, -1) if self._waits(step)), 0)

    def steps(self) -> set[int]:
        """Steps of which this rank has an intact checkpoint; what is wrong with others is added to `damages`.

        Raises
        ------
        OSError
            If a checkpoint cannot be read at the moment, which does not mean that it is damaged.
        """
        return {step for step, rank in self._names() if rank == self.rank and self._is_intact(step)}

    def read(self, step: int) -> dict[str, Any]:
        """The state that was written at `step`, as nested dict of Tensor.

        Raises
        ------
        ValueError
            If there is no such checkpoint, or it is damaged.
        OSError
            If it cannot be read at the moment.
        """
        name = self._names().get((step, self.rank))
        if name is None:
            raise ValueError(f"Rank {self.rank} has no checkpoint of step {step}.")
        advice = "Nothing was changed. Repeat the command when the files can be read again."
        with explained(f"Rank {self.rank} cannot read its checkpoint {name}", advice):
            data = self._files.read(name)
        try:
            if not is_intact(name, data):
                raise ValueError("its checksum differs from the one in its name")
            return nested(safetensors.torch.load(data))
        except (ValueError, KeyError, SafetensorError) as error:
            raise ValueError(f"The checkpoint {name} is damaged: {error}.") from None

    def forget_after(self, step: int) -> None:
        """Remove the later checkpoints of this rank, before the run is trained again from `step`."""
        for (later, rank), name in self._names().items():
            if rank == self.rank and later > step:
                self._files.remove(name)

    def keep_last(self) -> None:
        """Remove the checkpoints of all ranks but those of the last step, after the run has finished."""
        for (step, _), name in self._names().items():
            if step < self.n_steps:
                self._files.remove(name)

    def _names(self) -> dict[tuple[int, int], str]:
        """Names of the files of all ranks by (step, rank)."""
        found = filter(None, map(_NAME.fullmatch, self._files.names()))
        return {(int(match[1]), int(match[2])): match[0] for match in found}

    def _is_intact(self, step: int) -> bool:
        try:
            self.read(step)
        except ValueError as error:
            self.damages.append(str(error))
            return False
        return True


def ranks_with_checkpoints(path: str | os.PathLike[str]) -> set[int]:
    """The ranks of which the run at `path` has a checkpoint, damaged or not."""
    found = filter(None, map(_NAME.fullmatch, Files(path, FOLDER).names()))
    return {int(match[2]) for match in found}

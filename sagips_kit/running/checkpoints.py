"""Checkpoints of a run: for each rank the two newest that all ranks have, as safetensors files inside the store.

A file's name holds its step, its rank and the first half of its SHA-256, so a damaged file is known as one; no pickle
is involved.  Files lie below the node of an array, where readers of zarr do not look.  A checkpoint counts if all ranks
have one of the same step, and older ones are removed only then; replicas that are through wait for nobody.
"""

import hashlib
import re
import warnings

import safetensors.torch
from safetensors import SafetensorError

from ..store import schema
from ..store.files import Files
from ..store.location import explained
from ..training.state_dicts import flattened, nested

FOLDER = f"{schema.CONTROL}/{schema.CHECKPOINT_STEP}"
_NAME = re.compile(r"(\d{12})-(\d{6})-([0-9a-f]{32})\.safetensors")


class Checkpoints:
    """The checkpoints of one rank.

    Parameters
    ----------
    path : path or URL
        The store of the run.
    rank, n_steps : int
    replicas : sequence of int
        The replica of each rank.
    """

    def __init__(self, path, rank, n_steps, replicas):
        self._files, self.path, self.rank = Files(path, FOLDER), path, rank
        self.n_steps, self.replicas = n_steps, tuple(replicas)

    def write(self, step, state):
        """Write `state`, nested dicts of tensors; a file is there as a whole or not at all.

        Raises
        ------
        OSError
            If the disk refuses; earlier checkpoints are as they were.
        """
        names = self._names()
        data = safetensors.torch.save(flattened(state))
        self._files.write(f"{step:012d}-{self.rank:06d}-{_digest(data)}.safetensors", data)
        steps = [{step for step, of in names if of == rank} for rank in range(len(self.replicas))]
        newest = self.agreed(steps)[self.rank]
        for (old, rank), name in names.items():
            if rank == self.rank and old < newest:
                self._files.remove(name)

    def agreed(self, steps):
        """The step of the checkpoint that each rank can go on from: list of int, 0 where there is none.

        All ranks of a replica go on from the same step.  Replicas know nothing of each other, so one that is through
        stays so, and the others go on from a step of their own.

        Parameters
        ----------
        steps : sequence of set of int
            Steps of which each rank has a checkpoint.
        """
        left = {of for each, of in zip(steps, self.replicas, strict=True) if self.n_steps not in each}
        common = [each for each, of in zip(steps, self.replicas, strict=True) if of in left]
        newest = max(set.intersection(*common), default=0) if common else 0
        return [newest if of in left else self.n_steps for of in self.replicas]

    def steps(self):
        """Steps of which this rank has a whole checkpoint: set of int; warns of damaged ones.

        Raises
        ------
        OSError
            If a checkpoint cannot be read now, which says nothing about it.
        """
        return {step for step, rank in self._names() if rank == self.rank and self._is_whole(step)}

    def read(self, step):
        """The state that was written at `step`: nested dicts of tensors.

        Raises
        ------
        ValueError
            If there is none, or it is damaged.
        OSError
            If it cannot be read now.
        """
        name = self._names().get((step, self.rank))
        if name is None:
            raise ValueError(f"Rank {self.rank} has no checkpoint of step {step}.")
        advice = "Nothing was changed. Type the same line again when the files can be read."
        with explained(f"Rank {self.rank} cannot read its checkpoint {name}", advice):
            data = self._files.read(name)
        try:
            if _NAME.fullmatch(name)[3] != _digest(data):
                raise ValueError("its checksum is another one")
            return nested(safetensors.torch.load(data))
        except (ValueError, KeyError, SafetensorError) as error:
            raise ValueError(f"The checkpoint {name} is damaged: {error}.") from None

    def forget_after(self, step):
        """Remove this rank's checkpoints of later steps, before a run goes another way from `step`."""
        for (later, rank), name in self._names().items():
            if rank == self.rank and later > step:
                self._files.remove(name)

    def clear(self):
        """Remove the checkpoints of all ranks, of a run that is finished."""
        for name in self._names().values():
            self._files.remove(name)

    def _names(self):
        """Names of the files of all ranks: dict of (step, rank) to str."""
        found = filter(None, map(_NAME.fullmatch, self._files.names()))
        return {(int(match[1]), int(match[2])): match[0] for match in found}

    def _is_whole(self, step):
        try:
            self.read(step)
        except ValueError as error:
            warnings.warn(f"{error} An earlier one is taken.", stacklevel=3)
            return False
        return True


def _digest(data):
    return hashlib.sha256(data).hexdigest()[:32]

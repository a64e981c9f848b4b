"""Train or resume a run, with a fault on rank 1.

Arguments: the JSON file of the spec, the kind of fault, and the place where it happens; "none" for no fault.  Timeouts
of the world are short, so that the other ranks give up on a stopped rank within seconds.
"""

import errno
import os
import pathlib
import resource
import signal
import sys
import time

import numpy as np
import torch
import zarr

from sagips_kit import RunSpec, run
from sagips_kit.events.batches import Batches
from sagips_kit.exchange import Channel
from sagips_kit.ranks.shared_mean import SharedMean
from sagips_kit.ranks.world import World
from sagips_kit.store import files
from sagips_kit.training.trainer import Trainer

STEP = 213  # the fault happens at or after this step
_state = {"step": 0, "checkpoints": 0, "due": True}


def happen(kind):
    """Cause the fault, but only once."""
    if not _state["due"]:
        return
    _state["due"] = False
    if kind == "exception":
        raise ValueError("the magnet of rank 1 quenched")
    if kind == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "SIGSTOP":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "slow":
        time.sleep(1.5)
    if kind == "full disk":
        # From now on, the kernel refuses to write any byte.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if kind == "read-only store":
        refuse_to_open()
    if kind == "clock jump":
        clock = time.time
        time.time = lambda: clock() + 86_400


def refuse_to_open():
    """Refuse to open any file for writing; permissions would not stop root."""
    opened = pathlib.Path.open

    def refuse(self, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return opened(self, mode, *args, **kwargs)

    pathlib.Path.open = refuse


def before(cls, name, act):
    """Call `act` before each call of a method."""
    method = getattr(cls, name)

    def wrapped(self, *args, **kwargs):
        act(self, *args)
        return method(self, *args, **kwargs)

    setattr(cls, name, wrapped)


def after(cls, name, act):
    method = getattr(cls, name)

    def wrapped(self, *args, **kwargs):
        result = method(self, *args, **kwargs)
        act(self)
        return result

    setattr(cls, name, wrapped)


def install(kind, where):
    def when_due(*_):
        if _state["step"] >= STEP:
            happen(kind)

    def count(trainer):
        _state["step"] = trainer.step

    before(Trainer, "_train_step", count)
    if kind == "NaN":
        install_nan(where)
    elif kind == "corrupt" and where == "during the exchange":
        install_damage()
    elif where == "before the exchange":
        before(Channel, "start", when_due)
    elif where == "during the exchange":
        before(Channel, "finish", when_due)
    elif where == "after the exchange":
        after(Channel, "finish", when_due)
    elif where == "store write":
        # In the middle of a block: some variables have been written and others have not.
        before(zarr.Array, "__setitem__", lambda self, *_: when_due() if self.basename == "loss_generator" else None)
    elif where == "checkpoint":
        install_in_checkpoint(kind)
    else:
        raise ValueError(f"There is no fault {kind!r} for the place {where!r}.")


def install_nan(where):
    def poison(network):
        with torch.no_grad():
            next(network.parameters()).fill_(torch.nan)

    def spoil(result):
        if _state["step"] >= STEP and _state["due"]:
            _state["due"] = False
            return result * torch.nan
        return result

    if where == "before the exchange":
        generate = Trainer._generate
        Trainer._generate = lambda self, *given: spoil(generate(self, *given))
    elif where == "during the exchange":
        take = Batches.take
        Batches.take = lambda self, positions: spoil(take(self, positions))
    else:
        after(
            Trainer, "_update_generator", lambda self: spoil(torch.ones(1)).isnan() and poison(self.gan.discriminator)
        )


def install_damage():
    """Set all bits of one number that this rank puts into shared memory to 1, which gives NaN; once."""

    put = SharedMean.put

    def put_damaged(self, flat):
        damaged = flat.copy()
        if _state["step"] >= STEP and _state["due"]:
            _state["due"] = False
            damaged[:1].view(np.uint32)[:] = 0xFFFFFFFF
        put(self, damaged)

    SharedMean.put = put_damaged


def install_in_checkpoint(kind):
    """Act in the second checkpoint: when its bytes are written but it has no name yet, or damage the named file."""
    write, fsync = files.Files.write, os.fsync

    def counted_write(self, name, data):
        _state["checkpoints"] += 1
        is_due = _state["checkpoints"] == 2 and _state["due"]
        if is_due and kind in ("full disk", "read-only store"):
            happen(kind)
        write(self, name, data)
        if is_due and kind == "corrupt":
            path = self._folder / name
            path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
            os.kill(os.getpid(), signal.SIGKILL)

    def counted_fsync(descriptor):
        if _state["checkpoints"] == 2 and kind not in ("full disk", "read-only store", "corrupt"):
            happen(kind)
        fsync(descriptor)

    files.Files.write, os.fsync = counted_write, counted_fsync


def main(path, kind, where):
    if kind == "clock jump":  # an end of the job that the jump passes
        os.environ["SAGIPS_ENDS_AT"] = str(time.time() + 3600)
    world = World.from_mpi(timeout_s=4.0)
    if kind != "none" and world.rank == 1:
        install(kind, where)
    run(RunSpec.from_file(path), world, resume=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

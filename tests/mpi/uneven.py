"""Rank 0 finishes when the other, slower ranks are halfway.  Arguments: those of `sagips run`."""

import sys
import time

from sagips_kit import RunSpec, Trainer, read_status
from sagips_kit.cli import main

iterate = Trainer.iterate


def slowly(self):
    store = RunSpec.from_file(sys.argv[1]).store
    for record in iterate(self):
        if self.world.rank:
            time.sleep(0.05)
        while self.world.rank and self.step >= self.n_steps / 2 and read_status(store).steps[0] < self.n_steps:
            time.sleep(0.01)
        yield record


Trainer.iterate = slowly
sys.exit(main(["run", *sys.argv[1:]]))

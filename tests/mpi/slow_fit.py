"""The fit by the learned score takes 2 s on rank 0.  Arguments: those of `sagips run`."""

import sys
import time

import numpy as np

from sagips_kit.cli import main
from sagips_kit.running import reference
from sagips_kit.statistics.fit import ScoreFit


def slow(problem, events, *, seed=0):
    time.sleep(2)
    return ScoreFit(problem.parameters, np.array([0.6, 1.1]), np.eye(2), {}, 3.0, 2, ())


reference.fit = slow
sys.exit(main(["run", *sys.argv[1:]]))

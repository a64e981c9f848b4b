"""Train one rank of a run that has been prepared.  Argument: the JSON file of its spec."""

import sys

from sagips_kit import RunSpec, run_rank

run_rank(RunSpec.from_file(sys.argv[1]))

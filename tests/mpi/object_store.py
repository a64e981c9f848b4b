"""A run on an object store: stopped, resumed, verified, compared with one on a local disk, replaced.

Arguments: the file of the spec of a run on a local disk, and the URL of another one.
"""

import dataclasses
import sys

from test_resume import assert_same_bits

from sagips_kit import RunSpec, open_run, prepare, read_status, request_stop, run, run_rank, verify
from sagips_kit.ranks.world import World

local = RunSpec.from_file(sys.argv[1])
far = dataclasses.replace(local, store=sys.argv[2])
world = World.alone("cpu")
run(local, world)
prepare(far, n_ranks=1)
request_stop(far.store, 100)
assert run_rank(far, world)["steps"] == read_status(far.store).step == 100
try:
    prepare(far, n_ranks=1)
except FileExistsError as error:
    assert "already holds a stopped run (at step 100 of 203)" in str(error)
else:
    raise AssertionError("a run was deleted")
assert run(far, world, resume=True)["first_step"] == 100
assert verify(far.store).is_whole
assert_same_bits(far.store, local.store)
run(dataclasses.replace(far, overwrite=True, n_steps=60), world)
assert open_run(far.store).attrs["layout"]["n_steps"] == 60

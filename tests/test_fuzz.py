"""Malformed input: for any content of a file, the outcome is a result or an error that names what is wrong.

`benchmarks/fuzz.py` tries 10 000 inputs for each test instead of 50, by setting SAGIPS_FUZZ=10000.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import operator
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import scipy.io
import torch
from gaussian import QUICK, Gaussian
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_guard import TWO, Gives

from sagips_kit import Observed, Ring, RunSpec, Trainer, World, analysis, list_runs, open_run, prepare, run
from sagips_kit.exchange import Mixed
from sagips_kit.ranks.mailboxes import RemoteSlots, slot_bytes
from sagips_kit.report import export
from sagips_kit.report.progress_line import snapshot
from sagips_kit.running.checkpoints import FOLDER, Checkpoints
from sagips_kit.store import integrity
from sagips_kit.training.state_dicts import flattened

SMALL = dataclasses.replace(QUICK, n_events=64, n_draws=3, n_predictive=4, record_every=5, rows_per_block=4)
N = int(os.environ.get("SAGIPS_FUZZ", "50"))
NAMED = (ValueError, OSError)  # what the command `sagips` reports in one line
fuzz = settings(max_examples=N, suppress_health_check=list(HealthCheck))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


# Values for the types and fields of a spec: numbers of any size, and names with a meaning
_NAMES = [
    "Proxy",
    "Ring",
    ".a:B",
    "..:x",
    "this:x",
    "os:path",
    "torch:nn",
    "gaussian:Gaussian",
    "sagips_kit.__main__:a",
]
EXTREME = [-1, 0, 1, 3, 1000, 10**15, 2**63, 10**400]
FIELDS = (
    JSON | st.sampled_from(_NAMES) | st.sampled_from(EXTREME) | st.fixed_dictionaries({"type": st.sampled_from(_NAMES)})
)
# Excludes sizes that the machine would really allocate
METADATA = FIELDS.filter(lambda new: not isinstance(new, int) or not 10**6 < new < 10**14)


@st.composite
def edits(draw):
    """A function that damages bytes: some are replaced, inserted or removed, or the end is missing."""
    at, length = draw(st.floats(0, 1)), draw(st.sampled_from([0, 0, 1, 2, 8, 1000]))
    new = draw(st.binary(max_size=9))
    is_cut = draw(st.booleans()) and draw(st.booleans())

    def edit(data):
        start = int(at * len(data))
        return data[:start] if is_cut else data[:start] + new + data[start + length :]

    return edit


def paths_in(tree, path=()):
    """All places in nested dicts and lists."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in items:
        yield from paths_in(item, (*path, key))


def edited(tree, path, new):
    """The tree with another item in one place, or without it if `new` is None."""
    if not path:
        return new
    tree = copy.deepcopy(tree)
    branch = tree
    for key in path[:-1]:
        branch = branch[key]
    if new is None:
        del branch[path[-1]]
    else:
        branch[path[-1]] = new
    return tree


SPEC = RunSpec(problem=Gaussian(n_observed=50), store="a.zarr", settings=SMALL, n_steps=40, reference=False, fit=False)
# As read from a file, with lists instead of tuples
VALID = json.loads(SPEC.to_json())


@fuzz
@given(where=st.sampled_from(list(paths_in(VALID))), new=FIELDS)
def test_specs_are_made_or_refused(where, new):
    try:
        spec = RunSpec.from_dict(edited(VALID, where, new))
    except ValueError as error:
        assert str(error)
    else:
        assert RunSpec.from_dict(json.loads(spec.to_json())) == spec


_NUMBERS = [path for path in paths_in(VALID) if type(functools.reduce(operator.getitem, path, VALID)) is int]


@fuzz
@given(where=st.sampled_from(_NUMBERS), new=st.sampled_from(EXTREME) | st.integers(-9, 5000))
def test_valid_specs_of_any_size_are_prepared_or_refused(tmp_path_factory, where, new):
    folder = tmp_path_factory.mktemp("sizes")
    try:
        spec = RunSpec.from_dict(edited(VALID, where, new))
        prepare(dataclasses.replace(spec, store=str(folder / "a.zarr")), 1)
    except (*NAMED, MemoryError) as error:
        assert str(error) and not list(folder.iterdir())
    shutil.rmtree(folder)


@fuzz
@given(edit=edits())
def test_files_of_specs_are_read_or_refused(tmp_path_factory, edit):
    path = tmp_path_factory.getbasetemp() / "spec.json"
    path.write_bytes(edit(SPEC.to_json().encode()))
    try:
        RunSpec.from_file(path)
    except ValueError as error:
        assert str(error)


COLUMNS = {"x": np.linspace(-1.0, 2.0, 50), "w": np.ones(50)}


def write_table(path):
    """A valid file of two columns, in the format of the path's ending."""
    if path.suffix == ".npy":
        np.save(path, np.rec.fromarrays([*COLUMNS.values()], names=[*COLUMNS]))
    elif path.suffix == ".csv":
        np.savetxt(path, np.stack([*COLUMNS.values()], 1), delimiter=",", header="x,w", comments="")
    elif path.suffix == ".npz":
        np.savez(path, **COLUMNS)
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(COLUMNS), path)
    elif path.suffix == ".feather":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.feather").write_feather(pyarrow.table(COLUMNS), path)
    elif path.suffix == ".nc":
        with scipy.io.netcdf_file(path, "w") as file:
            file.createDimension("event", 50)
            for name, column in COLUMNS.items():
                file.createVariable(name, "f8", ("event",))[:] = column
    elif path.suffix == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            for name, column in COLUMNS.items():
                file[name] = column
    else:
        with pytest.importorskip("uproot").recreate(path) as file:
            file["events"] = COLUMNS


@pytest.fixture(scope="module", params=[".npy", ".csv", ".npz", ".parquet", ".feather", ".h5", ".nc", ".root"])
def table(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / f"events{request.param}"
    write_table(path)
    return path, path.read_bytes()


@fuzz
@given(edit=edits())
def test_files_of_events_are_read_or_refused(table, edit):
    path, data = table
    path.write_bytes(edit(data))
    try:
        events = Observed(str(path), within={"w": (0, 2)}).read(Gaussian())
    except NAMED as error:
        assert str(path) in str(error)
    else:
        assert events.shape[1:] == (1,) and np.isfinite(events).all()


class Bytes(bytes):
    """Bytes whose repr shows only their number."""

    def __repr__(self):
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A store, and the bytes of a checkpoint in it."""
    store = tmp_path_factory.mktemp("fuzz") / "a.zarr"
    prepare(dataclasses.replace(SPEC, store=str(store)), 1)
    trainer = make_trainer()
    trainer.run(20)
    return store, Bytes(safetensors.torch.save(flattened(trainer.state_dict())))


EVENTS = Gaussian().observed(50, np.random.default_rng(0))


def make_trainer():
    return Trainer(Gaussian(), SMALL, EVENTS, n_steps=40)


def read_and_load(store, data):
    """Load these bytes as a checkpoint with a correct checksum."""
    folder = Path(store) / FOLDER
    for old in folder.glob("*.safetensors"):
        old.unlink()
    digest = hashlib.sha256(data).hexdigest()[:32]
    (folder / f"{20:012d}-{0:06d}-{digest}.safetensors").write_bytes(data)
    trainer = make_trainer()
    try:
        trainer.load_state_dict(Checkpoints(store, 0, 20, (0,)).read(20))
    except ValueError as error:
        assert str(error)


@fuzz
@given(edit=edits())
def test_checkpoints_of_wrong_bytes_are_refused(checkpoint, edit):
    store, data = checkpoint
    read_and_load(store, edit(data))


_SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (5056,)])
_TYPES = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])


@fuzz
@given(
    index=st.integers(0, 999),
    how=st.sampled_from(["replace", "remove", "below", "rename"]),
    shape=_SHAPES,
    kind=_TYPES,
    number=st.sampled_from([0, 1, -1, 2**40]),
)
def test_checkpoints_of_wrong_tensors_are_refused(checkpoint, index, how, shape, kind, number):
    store, valid = checkpoint
    tensors = safetensors.torch.load(valid)
    name = sorted(tensors)[index % len(tensors)]
    new = torch.full(shape, number if kind not in (torch.uint8, torch.bool) else number & 1, dtype=kind)
    if how == "below":
        tensors[f"{name}/x"] = new
    elif how == "rename":
        tensors[f"{name}2"] = tensors.pop(name)
    elif how == "remove":
        del tensors[name]
    else:
        tensors[name] = new
    read_and_load(store, safetensors.torch.save(tensors))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, and all its files."""
    store = tmp_path_factory.mktemp("fuzz") / "a.zarr"
    run(dataclasses.replace(SPEC, store=str(store)), World.alone("cpu"))
    return store, sorted(path for path in store.rglob("*") if path.is_file())


# All readers of a store: functions of its path and of a path for exports
LOOKS = {
    "open": lambda store, out: open_run(store).load(),
    "progress": lambda store, out: snapshot(store).line(),
    "list": lambda store, out: list_runs(store.parent),
    "describe": lambda store, out: analysis.describe(open_run(store)),
    "summary": lambda store, out: analysis.summary(open_run(store)),
    "resume": lambda store, out: prepare(dataclasses.replace(SPEC, store=str(store)), 1, resume=True),
    "spec": lambda store, out: RunSpec.from_run(open_run(store)),
    "csv": lambda store, out: export.to_csv(open_run(store), out),
    "trace": lambda store, out: export.to_trace(open_run(store), out),
    "netcdf": lambda store, out: export.to_netcdf(open_run(store), out),
}
looks = st.sampled_from(sorted(LOOKS))


def look_at(store, look, folder):
    """Read the store; a failure leaves no file behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            LOOKS[look](store, folder / "out")
        except NAMED as error:
            assert str(error) and not list(folder.iterdir())
    shutil.rmtree(folder)


@fuzz
@given(index=st.integers(0, 999), edit=edits() | st.none(), look=looks)
def test_damaged_stores_open_or_are_refused(finished, tmp_path_factory, index, edit, look):
    store, files = finished
    file = files[index % len(files)]
    content = file.read_bytes()
    try:
        file.unlink() if edit is None else file.write_bytes(edit(content))
        look_at(store, look, tmp_path_factory.mktemp("out"))
    finally:
        file.write_bytes(content)


@fuzz
@given(index=st.integers(0, 999), place=st.integers(0, 9999), new=METADATA, look=looks)
def test_stores_of_wrong_metadata_open_or_are_refused(finished, tmp_path_factory, index, place, new, look):
    """The metadata are still JSON, but with different content."""
    store, files = finished
    texts = [file for file in files if file.name == "zarr.json"]
    file = store / "zarr.json" if index % 3 == 0 else texts[index % len(texts)]
    content = file.read_text()
    tree = json.loads(content)
    places = list(paths_in(tree))
    try:
        document = edited(tree, places[place % len(places)], new)
        with contextlib.suppress(TypeError, ValueError, AttributeError):  # else what no digest can be made of stays
            document = integrity.sealed(document)
        file.write_text(json.dumps(document))
        look_at(store, look, tmp_path_factory.mktemp("out"))
    finally:
        file.write_text(content)


@fuzz
@given(
    payload=st.sampled_from(["gradient", "weights", "updates"]),
    step=st.integers(0, 9),
    at=st.integers(0, 999),
    bits=st.integers(0, 2**32 - 1),
)
def test_messages_of_wrong_numbers_leave_no_weight_that_is_not_finite(payload, step, at, bits):
    """For any float32 in the received mean, generators and optimisers stay finite."""
    trainer = make_trainer()
    trainer._channel = channel = Gives(Ring(payload=payload), TWO, trainer.gan.gradient.buffer)

    def mean(flat, now):
        if now == step:
            flat.numpy().view(np.uint32)[at % len(flat)] = bits
        yield from ()
        return Mixed(received=1)

    channel.mean = mean
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.run(15)
    moments = [item for items in trainer.gan.optimisers["generator"].state.values() for item in items.values()]
    assert all(tensor.isfinite().all() for tensor in [*trainer.gan.generator.parameters(), *moments])


N_ITEMS = 21
SLOT = slot_bytes(N_ITEMS, np.float32)


class Fetched:
    """Memory of two ranks, without MPI: `come` is what has arrived from the other rank."""

    def __init__(self):
        self.own, self.come = np.zeros(SLOT, np.uint8), np.zeros(SLOT, np.uint8)

    def fence(self):
        pass

    def fetch(self, rank, into):
        self._into = into
        return self

    def Test(self):
        self._into[:] = self.come
        return True


@fuzz
@given(at=st.integers(0, SLOT - 1), new=st.binary(min_size=1, max_size=8))
def test_messages_of_wrong_bytes_are_not_taken(at, new):
    """Up to eight consecutive bytes, in the header or in the numbers of a message from another node."""
    writer, reader = (RemoteSlots(Fetched(), rank, 2, N_ITEMS, np.float32) for rank in range(2))
    for step in (7, 8):
        writer.publish(np.full(N_ITEMS, 10.0 * step), step)
    arrives = reader._memory.come
    arrives[:] = writer._memory.own
    arrives[at : at + len(new)] = np.frombuffer(new, np.uint8)[: SLOT - at]
    reader.look()
    step, out = reader.newest(0), np.empty(N_ITEMS, np.float32)
    assert step in (None, 7, 8)
    if step:
        assert reader.mean([0], out) == [step]
        np.testing.assert_array_equal(out, np.full(N_ITEMS, 10.0 * step))
    arrives[:] = writer._memory.own
    reader.look()
    assert reader.newest(0) == 8 and not reader.has_left(0)

"""The store: template first, one writer for each chunk, readable at any time."""

import errno
import itertools
import json
import math
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from gaussian import QUICK, Gaussian
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore, MemoryStore

from sagips_kit import RunSpec, World
from sagips_kit import run as run_alone
from sagips_kit.running.coordination import Control
from sagips_kit.store import create, files, integrity, location, reader, schema
from sagips_kit.store import group as groups
from sagips_kit.store.create import create_run
from sagips_kit.store.layout import RunLayout
from sagips_kit.store.reader import open_run
from sagips_kit.store.status import is_fitting, read_status, request_stop, stop_soon
from sagips_kit.store.writer import RunWriter

pytestmark = pytest.mark.filterwarnings("error")

LAYOUT = RunLayout(
    n_ranks=4,
    n_replicas=2,
    n_members=3,
    n_steps=105,
    record_every=10,
    rows_per_block=4,
    n_draws=5,
    n_predictive=2,
    n_snapshots=4,
    n_sets=3,
    n_scores=6,
)
SPEC = {"n_steps": 105, "exchange": {"name": "Ring"}}


def rewrite(file, **changes):
    """Change a metadata file of a store as its writer would, with the right digest; returns its new contents."""
    document = json.loads(file.read_text())
    attributes = document["attributes"] | changes.pop("attributes", {})
    file.write_text(json.dumps(integrity.sealed(document | changes | {"attributes": attributes})))


BOTH_KINDS = pytest.mark.parametrize("kind", ["directory", "memory"])


def make_problem(n_parameters=2, **changes):
    """The part of a problem that create_run reads; the first parameter and observable have units."""
    names = tuple(f"theta{k}" for k in range(n_parameters))
    problem = SimpleNamespace(
        parameters=names,
        lower=(-5.0,) * n_parameters,
        upper=(5.0,) * n_parameters,
        observables=("energy", "hall"),
        units={"energy": "MeV", "theta0": "days"},
        long_names={"energy": "prompt energy"},
        truth=None,
        published={},
        periodic=(),
    )
    problem.__dict__.update(changes)
    return problem


def make_events(rng, *shape):
    """Energies that depend on the hall 1, 2 or 3: ndarray (..., observable)."""
    hall = rng.integers(1, 4, shape)
    return np.stack([rng.gamma(2.0 + hall), hall], axis=-1)


def fill_run(path, layout, theta, predictive, *, n_steps=None):
    """Write rows of all ranks, which approach theta (chain, draw, parameter) from a distance.

    Predictive events are (chain, draw, event, observable); without n_steps the run ends and writes its chains.
    """
    ends = theta.mean(1).reshape(layout.n_replicas, layout.n_members, -1)
    way = np.exp(-np.arange(len(layout.steps)) / 10)
    for rank in range(layout.n_ranks):
        replica = rank % layout.n_replicas
        chains = slice(replica * layout.n_members, (replica + 1) * layout.n_members)
        rows = ends[replica][:, None] + way[None, :, None] * (1 + rank)
        with RunWriter(path, rank, replica if rank < layout.n_replicas else None) as writer:
            times = {"waited_s": way, "elapsed_s": 2.0 * np.arange(1, len(way) + 1)}
            writer.write_rows(0, {"theta": rows, "loss_generator": rows[..., 0], **times})
            for step in filter(writer.wants_snapshot, layout.snapshot_steps):
                vectors = ends[replica][:, None] + np.arange(layout.n_sets)[None, :, None] / step
                writer.write_snapshot(step, parameters=vectors, events=predictive[chains][:, 0])
            if n_steps is None:
                ones = np.ones((layout.n_members, layout.n_scores))
                writer.write_scores(observed=np.arange(layout.n_scores) * ones, generated=rank * ones)
            if n_steps is None and rank < layout.n_replicas:
                writer.write_chains(theta[chains], predictive[chains])
            writer.set_progress(layout.n_steps if n_steps is None else n_steps)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.zarr"


@pytest.fixture
def make(path):
    """A function that creates a run, by default at `path`."""

    def create(where=path, problem=None, layout=LAYOUT, **options):
        options = {"spec": SPEC, "events": make_events(np.random.default_rng(0), 7)} | options
        create_run(where, problem or make_problem(), layout, **options)
        return where

    return create


def rows_of(rank, first_row, n_rows, layout=LAYOUT):
    """Rows whose numbers encode rank, member, row and parameter: (member, step, parameter)."""
    member, row, parameter = np.ogrid[: layout.n_members, first_row : first_row + n_rows, :2]
    return 1e6 * (rank + 1) + 1e4 * member + 10.0 * row + parameter


@BOTH_KINDS
def test_template_is_complete(kind, make, path):
    fit = {"mle": [1.0, 2.0], "covariance": np.eye(2)}
    problem = make_problem(truth=(1.5, 2.5), published={"theta1": (2.25, 0.5)})
    run = open_run(make(MemoryStore() if kind == "memory" else path, problem, reference=fit))
    assert list(run) == [*schema.variables([], [])]
    assert run["posterior"]["theta1"].dims == ("chain", "draw")
    assert run["posterior"]["theta1"].shape == (6, 5)
    assert run["posterior"]["replica"].values.tolist() == [0, 0, 0, 1, 1, 1]
    assert run["posterior"]["member"].values.tolist() == [0, 1, 2, 0, 1, 2]
    assert run["posterior_predictive"]["energy"].sizes == {"chain": 6, "draw": 5, "event": 2}
    assert run["posterior"]["theta0"].attrs["units"] == "days"
    assert run["history"]["step"].values.tolist() == [*range(10, 101, 10), 105]
    assert run["history"]["parameter"].values.tolist() == ["theta0", "theta1"]
    assert run["observed_data"]["energy"].sizes == {"event": 7}
    assert run["reference"]["mle"].values.tolist() == [1, 2]
    assert run["reference"]["truth"].values.tolist() == [1.5, 2.5]
    assert run["reference"]["deviation"].isnull().all()
    assert run["reference"]["covariance"].dims == ("parameter", "parameter_2")
    np.testing.assert_array_equal(run["reference"]["published"], [np.nan, 2.25])
    assert run["history"]["theta"].isnull().all()
    assert run["posterior"]["theta0"].isnull().all()


def test_attributes_record_the_origin_of_a_run(make):
    run = open_run(make(uncertainty="one chain"))
    assert json.loads(run.attrs["spec"]) == SPEC
    assert schema.layout_of(run.attrs) == LAYOUT
    assert {"python", "numpy", "xarray", "zarr", "torch", "mpi4py", "sagips_kit"} < set(run.attrs["versions"])
    assert {"created_at", "hostname", "git_revision"} < set(run.attrs)
    posterior = run["posterior"].attrs
    assert posterior["inference_library"] == "sagips_kit"
    assert posterior["uncertainty"] == "one chain"
    assert {"created_at", "inference_library_version"} < set(posterior)


def test_memory_is_directory_is_url(make, path):
    runs = []
    for where in (path, MemoryStore(), "memory://test/a.zarr", f"file://{path.parent}/b.zarr"):
        make(where, overwrite=True)
        rng = np.random.default_rng(1)
        fill_run(where, LAYOUT, rng.normal(size=(6, 5, 2)), make_events(rng, 6, 5, 2))
        runs.append(open_run(where).load())
    for group, other in itertools.product(runs[0], runs[1:]):
        xr.testing.assert_equal(runs[0][group].to_dataset(), other[group].to_dataset())
    assert (path.parent / "b.zarr" / "zarr.json").exists()


def test_every_array_of_a_run_is_in_the_table(path):
    problem = Gaussian(n_observed=50)
    run_alone(
        RunSpec(problem=problem, store=str(path), settings=QUICK, n_steps=10, reference=False, fit=False),
        World.alone("cpu"),
    )
    table = schema.variables(problem.parameters, problem.observables, problem.units, problem.long_names)
    root, found = zarr.open_group(path, mode="r"), set()
    for name, group in root.groups():
        for key, array in group.arrays():
            variable = (table[name] | schema.coordinates(name))[key]
            found.add((name, key))
            assert (variable.group, variable.name) == (name, key)
            assert (array.metadata.dimension_names or ()) == variable.dims
            assert array.dtype == variable.dtype or (variable.dtype == "str" and array.dtype.kind in "OT")
            assert array.attrs["long_name"] == variable.long_name
            assert array.attrs.get("units") == variable.unit
    wanted = [(name, key) for name in table for key in (*table[name], *schema.coordinates(name))]
    assert found == set(wanted)


def test_arrays_of_a_problem_have_its_names_and_units(make, path):
    run = open_run(make())
    assert run["posterior_predictive"]["energy"].attrs == {"long_name": "prompt energy", "units": "MeV"}
    assert run["posterior"]["theta1"].attrs == {"long_name": "theta1", "units": "1"}


def test_ranks_record_their_hosts_and_devices(make, path):
    with RunWriter(make(), 2) as writer:
        writer.write_facts(host="nid002", device="cuda:0: A100", library="MPICH 4.3.0")
    environment = open_run(path)["environment"]
    assert environment["host"].values.tolist() == ["", "", "nid002", ""]
    assert environment["device"].values[2] == "cuda:0: A100"


def test_a_run_of_the_schema_before_has_no_fit(make, path):
    """It had no variables of the fit by the learned score."""
    make()
    for name in ("fit", "fit_deviation", "fit_covariance", "fit_goodness", "fit_n_freedom"):
        shutil.rmtree(path / "reference" / name)
    with pytest.raises(ValueError, match="reference/fit is missing"):
        open_run(path)
    rewrite(path / "zarr.json", attributes={schema.VERSION_KEY: 3})
    run = open_run(path)
    assert run["reference"]["fit"].isnull().all() and run["reference"]["fit_covariance"].shape == (2, 2)
    assert list(run["reference"].data_vars) == list(schema.of_group("reference"))
    assert not is_fitting(path)
    with RunWriter(path, 0) as writer:
        assert not writer.wants_fit()


def test_only_rank_0_writes_the_fit(make, path):
    make()
    with RunWriter(path, 1) as writer:
        assert not writer.wants_fit()
        with pytest.raises(ValueError, match="Rank 1 writes no fit"):
            writer.write_fit({"state": "under way"})


@pytest.mark.parametrize("record_every", [1, 10])
def test_a_large_run_has_few_files_and_no_large_chunk(record_every):
    layout = RunLayout(
        n_ranks=400,
        n_replicas=400,
        n_members=4,
        n_steps=100_000,
        record_every=record_every,
        rows_per_block=20,
        n_draws=50,
        n_predictive=500,
        n_snapshots=20,
        n_sets=4,
        n_scores=2000,
    )
    groups = schema.empty_arrays(schema.variables("abcdef", "xy"), layout)
    arrays = [array for group in groups.values() for array in group.values()]
    n_files = sum(
        math.prod(-(-n // chunk) for n, chunk in zip(a.shape, a.chunks, strict=True)) for a in arrays if a.shape
    )
    assert n_files <= 60_000 // record_every**0.5
    assert all(math.prod(array.chunks) * 8 <= 2**20 for array in arrays)
    steps = [array for array in groups["history"].values() if "step" in array.variable.dims]
    assert all(array.chunks[array.variable.dims.index("step")] % layout.rows_per_block == 0 for array in steps)


def test_what_is_written_comes_back(make, path):
    make()
    posterior, predictive = np.random.default_rng(0).normal(size=(3, 5, 2)), np.ones((3, 5, 2, 2))
    predictive[..., 1] = 3
    with RunWriter(path, 3, replica=1) as writer:
        writer.write_chains(posterior, predictive)
    run = open_run(path)
    np.testing.assert_array_equal(run["posterior"]["theta1"][3:], posterior[..., 1])
    np.testing.assert_array_equal(run["posterior_predictive"]["hall"][3:], predictive[..., 1])
    assert run["posterior"]["theta0"][:3].isnull().all()


@given(
    n_ranks=st.integers(1, 5),
    n_replicas=st.integers(1, 5),
    n_members=st.integers(1, 4),
    n_steps=st.integers(1, 60),
    record_every=st.integers(1, 20),
    rows_per_block=st.integers(1, 20),
)
def test_no_chunk_has_two_owners(n_ranks, n_replicas, **sizes):
    layout = RunLayout(n_ranks=n_ranks, n_replicas=min(n_ranks, n_replicas), n_draws=2, n_predictive=2, **sizes)
    owner = {"rank": lambda rank: rank, "chain": lambda chain: chain // layout.n_members}
    arrays = schema.empty_arrays(schema.variables("ab", "x"), layout)
    for array in itertools.chain(*(group.values() for name, group in arrays.items() if name != "control")):
        if array.variable.owner == "rank 0":  # the fit by the learned score, which no other rank writes
            continue
        size, chunk = array.shape[0], array.chunks[0]
        for first in range(0, size, chunk):
            assert len({owner[array.variable.dims[0]](index) for index in range(first, min(first + chunk, size))}) == 1
        assert np.prod(array.shape, dtype=int) > 0


class Recording(MemoryStore):
    """A store that records which keys are read and written, in the sets from the fixture `recording`."""

    read: set
    written: set

    async def get(self, key, *args, **options):
        self.read.add(key)
        return await super().get(key, *args, **options)

    async def set(self, key, *args, **options):
        self.written.add(key)
        return await super().set(key, *args, **options)


@pytest.fixture
def recording():
    # zarr makes read-only copies of a store, so the sets are class attributes.
    return type("Recording", (Recording,), {"read": set(), "written": set()})()


def test_ranks_write_disjoint_chunks(make, recording):
    path = make(recording)
    written = []
    for rank, replica in [(0, 0), (1, None), (2, 1), (3, None)]:
        path.written.clear()
        writer = RunWriter(path, rank, replica)
        for first in range(0, 11, 4):
            n_rows = min(4, 11 - first)
            losses = dict.fromkeys(["loss_discriminator", "loss_generator"], np.ones((3, n_rows)))
            scalars = dict.fromkeys(["waited_s", "elapsed_s", "staleness"], np.ones(n_rows))
            writer.write_rows(first, {"theta": rows_of(rank, first, n_rows), **losses, **scalars})
            writer.set_progress(LAYOUT.steps[first + n_rows - 1])
        if replica is not None:
            writer.write_chains(np.ones((3, 5, 2)), np.ones((3, 5, 2, 2)))
        written.append(frozenset(path.written))
    assert all(len(keys) >= 6 + 1 for keys in written)
    assert not any(a & b for a, b in itertools.combinations(written, 2))
    assert open_run(path)["history"]["theta"].notnull().all()


def test_opening_reads_no_history(make, recording):
    path = make(recording)
    RunWriter(path, 0).write_rows(0, {"theta": rows_of(0, 0, 4)})
    path.read.clear()
    run = open_run(path)
    assert not any(key.startswith("history/theta/c/") for key in path.read)
    run["history"]["theta"].isel(rank=2, step=slice(0, 4)).load()
    assert {key for key in path.read if key.startswith("history/theta/c/")} == {"history/theta/c/2/0/0/0"}


def test_rows_beyond_progress_are_masked(make, path):
    make()
    writer = RunWriter(path, 1)
    writer.write_rows(0, {"theta": rows_of(1, 0, 8), "waited_s": np.arange(8.0)})
    assert open_run(path)["history"]["theta"].isnull().all()
    writer.set_progress(59)
    history = open_run(path)["history"]
    np.testing.assert_array_equal(history["theta"][1, :, :5], rows_of(1, 0, 5))
    assert history["theta"][1, :, 5:].isnull().all()
    assert history["theta"][[0, 2, 3]].isnull().all()
    assert history["waited_s"].sum() == 10
    np.testing.assert_array_equal(
        history["theta"].sel(step=[50, 60], parameter="theta1")[1, 2], [1020041 + 1e6, np.nan]
    )
    assert read_status(path).steps.tolist() == [0, 59, 0, 0]


def test_snapshots_beyond_progress_are_masked(make, path, rng):
    assert LAYOUT.snapshot_steps == [20, 50, 80, 105]
    fill_run(make(), LAYOUT, rng.normal(size=(6, 5, 2)), make_events(rng, 6, 5, 2), n_steps=50)
    snapshots = open_run(path)["snapshots"]
    assert snapshots["events"].dims == ("chain", "step", "event", "observable")
    for name in ("parameters", "events"):
        assert snapshots[name][:, :2].notnull().all() and snapshots[name][:, 2:].isnull().all()
    # Written by ranks 0 and 1, the leaders of replicas 0 and 1: three chains each, with sets 1/20 apart at step 20.
    np.testing.assert_allclose(snapshots["parameters"].isel(step=0).diff("set"), 1 / 20, rtol=1e-5)


def test_snapshots_and_scores_have_their_shapes(make, path):
    with RunWriter(make(), 1, 1) as writer:
        assert [step for step in LAYOUT.steps if writer.wants_snapshot(step)] == LAYOUT.snapshot_steps
        with pytest.raises(ValueError, match=r"snapshots/events of shape \(2, 2\): should be \(3, 2, 2\)"):
            writer.write_snapshot(50, events=np.ones((2, 2)))
        with pytest.raises(ValueError, match=r"scores/observed of shape \(3,\): should be \(3, 6\)"):
            writer.write_scores(observed=np.ones(3))
        writer.write_scores(observed=np.full((3, 6), 2.0))
    observed = open_run(path)["scores"]["observed"]
    assert observed.mean(("member", "event")).fillna(0).values.tolist() == [0, 2, 0, 0]
    assert not RunWriter(path, 2).wants_snapshot(50), "leaders write"


def test_zarr_keeps_the_settings_of_the_user(make, path, monkeypatch):
    def refuse(*_):
        raise AssertionError("other threads, and the user's own arrays, would have these settings too")

    monkeypatch.setattr(zarr.config, "set", refuse)
    make(path)
    array = groups.array_of(path, zarr.open_group(path, mode="r+"), schema.HISTORY, "theta")
    array[...] = array.fill_value
    assert array.nchunks_initialized == array.nchunks, "chunks of fill values are written"


def test_rows_of_many_blocks_share_chunks(make, path, monkeypatch):
    monkeypatch.setattr(schema, "CHUNK_BYTES", 8 * 3 * 2 * 4)  # 8 rows of theta, two blocks
    with RunWriter(make(), 0) as writer:
        for first in range(0, 11, 4):
            writer.write_rows(first, {"theta": rows_of(0, first, min(4, 11 - first))})
            writer.set_progress(LAYOUT.steps[min(10, first + 3)])
    np.testing.assert_array_equal(open_run(path)["history"]["theta"][0], rows_of(0, 0, 11))
    assert len(list((path / "history" / "theta" / "c" / "0" / "0").iterdir())) == 2


def test_an_incomplete_block_is_completed_later(make, path):
    make()
    with RunWriter(path, 0) as writer:
        writer.write_rows(0, {"theta": rows_of(0, 0, 6)})
        writer.write_rows(4, {"theta": rows_of(0, 4, 7)})
        writer.set_progress(105)
    np.testing.assert_array_equal(open_run(path)["history"]["theta"][0], rows_of(0, 0, 11))


@pytest.mark.parametrize(
    ("first_row", "rows", "text"),
    [
        (0, {"thetas": np.ones((3, 4, 2))}, r"no 'thetas'. Did you mean theta\? Allowed: theta, loss_discriminator"),
        (0, {"theta": np.ones((3, 4))}, r"\(3, 4\).*\(member 3, step, parameter 2\)"),
        (0, {"theta": np.ones((2, 4, 2))}, r"\(2, 4, 2\)"),
        (8, {"waited_s": np.ones(4)}, r"from row 8 on there are 3 rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(make, path, first_row, rows, text):
    make()
    with pytest.raises(ValueError, match=text):
        RunWriter(path, 0).write_rows(first_row, rows)


def test_only_leaders_write_chains(make, path):
    make()
    with pytest.raises(ValueError, match="owns no chains"):
        RunWriter(path, 1).write_chains(np.ones((3, 5, 2)), np.ones((3, 5, 2, 2)))
    with pytest.raises(ValueError, match=r"posterior of shape \(3, 5\): should be \(3, 5, 2\)"):
        RunWriter(path, 1, 1).write_chains(np.ones((3, 5)), np.ones((3, 5, 2, 2)))
    with pytest.raises(ValueError, match="rank = 4: .* 0 to 3"):
        RunWriter(path, 4)
    with pytest.raises(ValueError, match="replica = 2"):
        RunWriter(path, 2, 2)


def test_a_run_is_not_overwritten_by_accident(make, path):
    make()
    for rank in range(4):
        RunWriter(path, rank).set_progress(50)
    with pytest.raises(FileExistsError, match=r"an unfinished run \(at step 50 of 105\).*overwrite=True"):
        make()
    for rank in range(4):
        RunWriter(path, rank).set_progress(105)
    with pytest.raises(FileExistsError, match=r"a finished run \(105 steps\)"):
        make()
    make(overwrite=True)
    assert read_status(path).step == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("kind", ["file", "empty folder", "folder", "zarr array"])
def test_what_is_not_a_run_is_never_overwritten(make, path, kind):
    if kind == "file":
        path.write_text("precious")
    elif kind == "zarr array":
        zarr.create_array(LocalStore(path), data=np.arange(3))
    else:
        path.mkdir()
    if kind == "folder":
        (path / "notes.txt").write_text("precious")
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(FileExistsError, match="not a run of sagips_kit"):
        make(overwrite=True)
    assert sorted(path.parent.rglob("*")) == before


@pytest.fixture(params=["memory", "local", "LOCAL", "file", "File", "simplecache"])
def foreign(request, tmp_path):
    """A URL with somebody else's files behind it, and a function that lists them."""
    folder = f"{tmp_path}/project"
    urls = {"memory": "memory://bucket/project", "simplecache": f"simplecache::file://{folder}"}
    url = urls.get(request.param, f"{request.param}://{folder}")
    files = fsspec.filesystem("memory" if request.param == "memory" else "file")
    where = "/bucket/project" if request.param == "memory" else folder
    files.makedirs(f"{where}/raw")
    files.pipe({f"{where}/thesis.tex": b"x", f"{where}/raw/events.npy": b"y"})
    yield url, lambda: sorted(files.find(where))
    files.rm(where, recursive=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_behind_a_url_are_never_deleted(make, foreign, overwrite):
    url, listing = foreign
    before = listing()
    assert len(before) == 2
    with pytest.raises(FileExistsError, match="no run of sagips_kit|not a run of sagips_kit"):
        make(url, overwrite=overwrite)
    assert listing() == before


def test_files_that_appear_behind_a_url_are_not_deleted(make, monkeypatch):
    files, write = fsspec.filesystem("memory"), create._write_template

    def come(*args):
        files.pipe("/bucket/late/thesis.tex", b"x")
        write(*args)

    monkeypatch.setattr(create, "_write_template", come)
    with pytest.raises(OSError, match="Cannot create the run `memory://bucket/late`: .*already contains data"):
        make("memory://bucket/late")
    assert files.find("/bucket/late") == ["/bucket/late/thesis.tex"]


def test_a_run_behind_a_url_is_replaced_if_asked_for(make):
    url = "memory://bucket/again.zarr"
    make(url)
    RunWriter(url, 0).set_progress(30)
    with pytest.raises(FileExistsError, match="already holds an unfinished run"):
        make(url)
    make(url, overwrite=True)
    assert read_status(url).steps[0] == 0


def test_a_zarr_store_with_arrays_of_others_is_not_cleared(make):
    store = MemoryStore()
    zarr.create_array(store, name="a/b", data=np.arange(3))
    for key in [key for key in store._store_dict if key in ("zarr.json", "a/zarr.json")]:
        del store._store_dict[key]
    before = sorted(store._store_dict)
    with pytest.raises(FileExistsError, match="holds files but no run"):
        make(store)
    assert before and sorted(store._store_dict) == before


@pytest.mark.parametrize("scheme", ["file", "local", "LOCAL"])
def test_urls_of_files_are_the_files(make, path, scheme):
    url = f"{scheme}://{path}"
    make(url)
    assert isinstance(location.located(url), LocalStore) and location.local_path(url) == path
    assert read_status(path).n_steps == 105
    files.Files(url, "control").write("a", b"1")
    assert (path / "control" / "a").read_bytes() == b"1"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]


def test_nothing_is_left_where_writing_is_not_allowed(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot create the run `.*file/a.zarr`: .*Not a directory.*Choose a path"):
        make(tmp_path / "file" / "a.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_when_the_disk_is_full(make, path, monkeypatch, overwrite):
    if overwrite:
        make()
        RunWriter(path, 0).set_progress(30)

    def fill_up(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Group, "create_array", fill_up)
        with pytest.raises(OSError, match="No space left on device.*Choose a path"):
            make(overwrite=overwrite)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"] * overwrite
    if overwrite:
        assert read_status(path).steps[0] == 30


def test_an_old_run_survives_a_failing_exchange_of_folders(make, path, monkeypatch):
    make()
    RunWriter(path, 0).set_progress(30)
    rename = type(path).rename

    def fail(self, target):
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        make(overwrite=True)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]
    assert read_status(path).steps[0] == 30


def test_leftovers_of_a_killed_process_do_no_harm(make, path):
    """This holds even for a process with the same id, as is common in containers."""
    for word in ("partial", "old"):
        (path.parent / f".a.zarr.{word}-{os.getpid()}" / "history").mkdir(parents=True)
    make()
    make(overwrite=True)
    assert read_status(path).steps[0] == 0


@pytest.fixture
def meanwhile(monkeypatch):
    """A function that sets what happens while a template is written."""

    def set_up(happen):
        write = create._write_template

        def slowly(*args):
            monkeypatch.setattr(create, "_write_template", write)
            happen()
            write(*args)

        monkeypatch.setattr(create, "_write_template", slowly)

    return set_up


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "empty folder", "folder", "run"])
def test_what_appears_while_a_run_is_created_stays(make, path, meanwhile, kind, overwrite):
    def come():
        if kind == "run":
            make(uncertainty="of another process")
        elif kind == "file":
            path.write_text("precious")
        else:
            path.mkdir()
        if kind == "folder":
            (path / "thesis.tex").write_text("precious")

    meanwhile(come)
    if kind == "run" and overwrite:
        make(overwrite=True)
        assert open_run(path)["posterior"].attrs["uncertainty"] == "bootstrap ensemble"
        assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]
        return
    text = r"already holds an unfinished run \(at step 0 of 105\)" if kind == "run" else "is not a run of sagips_kit"
    with pytest.raises(FileExistsError, match=text):
        make(overwrite=overwrite)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]
    if kind == "run":
        assert open_run(path)["posterior"].attrs["uncertainty"] == "of another process"
    elif kind == "folder":
        assert (path / "thesis.tex").read_text() == "precious"
    elif kind == "file":
        assert path.read_text() == "precious"


def create_at_once(path, number, barrier, results):
    """Run in another process: create a run with `number` events as soon as all processes are ready."""
    barrier.wait()
    try:
        create_run(path, make_problem(), LAYOUT, spec=SPEC, events=np.ones((number, 2)))
        results.put(number)
    except FileExistsError as error:
        results.put(str(error))


def test_one_of_several_that_create_a_run_wins(path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    creators = [context.Process(target=create_at_once, args=(path, n, barrier, results)) for n in (5, 6, 7)]
    for creator in creators:
        creator.start()
    told = [results.get(timeout=60) for _ in creators]
    for creator in creators:
        creator.join()
    (winner,) = (number for number in told if isinstance(number, int))
    assert open_run(path)["observed_data"].sizes["event"] == winner
    assert all(str(path) in text for text in told if text != winner)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]


def test_a_folder_that_another_one_fills_before_the_rename_stays(make, path, monkeypatch):
    rename = type(path).rename

    def fill(self, target):
        if ".partial-" in self.name:
            (target / "thesis.tex").write_text("precious")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", fill)
    with pytest.raises(FileExistsError, match="is not a run of sagips_kit"):
        make()
    assert [file.name for file in path.parent.rglob("*")] == ["a.zarr", "thesis.tex"]


def replace_and_die(path):
    """Run in another process: it is killed when the old run has been moved away and the new run is not in place."""
    rename = type(path).rename
    type(path).rename = lambda self, target: os._exit(9) if ".partial-" in self.name else rename(self, target)
    create_run(path, make_problem(), LAYOUT, spec=SPEC, events=np.ones((5, 2)), overwrite=True)


def test_a_run_that_was_being_replaced_is_found_again(make, path):
    make()
    RunWriter(path, 0).set_progress(30)
    process = multiprocessing.get_context("spawn").Process(target=replace_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9 and not path.exists()
    (old,) = path.parent.glob(".a.zarr.old-*")
    line = f"mv {old} {path}"
    for action in (open_run, read_status):
        with pytest.raises(ValueError, match=f"a.zarr` is missing: .* still whole. To restore it, type: {line}; if"):
            action(path)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=line):
            make(overwrite=overwrite)
    subprocess.run(line.split(), check=True)
    assert read_status(path).steps[0] == 30


def test_the_remains_of_a_replaced_run_are_not_a_run(make, path, monkeypatch):
    """The process was killed while it removed the replaced run."""
    make()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        make(overwrite=True)
    assert list(path.parent.glob(".a.zarr.old-*"))
    shutil.rmtree(path)
    with pytest.raises(FileNotFoundError, match="There is no run at"):
        open_run(path)
    make()


def test_a_writer_without_disk_says_which_rows_are_safe(make, path, monkeypatch):
    async def refuse(self, key, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    make()
    writer = RunWriter(path, 2)
    writer.write_rows(0, {"theta": rows_of(2, 0, 4)})
    writer.set_progress(40)
    monkeypatch.setattr(LocalStore, "set", refuse)
    with pytest.raises(OSError, match="Rank 2 cannot write to .*rows up to step 40 are safe"):
        writer.write_rows(4, {"theta": rows_of(2, 4, 4), "waited_s": np.ones(4)})


def test_errors_of_opening_say_what_to_type(make, path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run at `.*a.zarr`. Start one with session.submit"):
        open_run(path)
    make()
    with pytest.raises(FileNotFoundError, match="That folder holds a.zarr"):
        open_run(tmp_path / "b.zarr")
    with pytest.raises(FileNotFoundError, match="sagips run"):
        open_run(MemoryStore())
    with pytest.raises(ValueError, match="not a run"):
        open_run(tmp_path)
    with pytest.raises(ValueError, match="not a URL that fsspec knows"):
        open_run("ftq://a.zarr")
    rewrite(path / "zarr.json", attributes={schema.VERSION_KEY: 99})
    for action in ACTIONS:
        with pytest.raises(ValueError, match="schema 99.*pip install -U sagips_kit"):
            action(path)


def write(path):
    RunWriter(path, 0)


ACTIONS = (open_run, read_status, write, stop_soon, Control)


@pytest.mark.parametrize("name", ["history/progress", "history/theta", "posterior/theta0", "environment", "control"])
def test_a_missing_variable_is_named(make, path, name):
    shutil.rmtree(make() / name)
    with pytest.raises(ValueError, match=f"is a run, but {name}.* is missing: .*xarray.open_datatree"):
        open_run(path)
    if name in ("history/progress", "control"):
        for action in ACTIONS if name != "control" else set(ACTIONS) - {write}:
            with pytest.raises(ValueError, match=f"{name}.* is missing"):
                action(path)


@pytest.mark.parametrize(
    ("where", "key", "value", "text"),
    [
        ("zarr.json", "created_at", None, "attribute created_at = None: should be a str"),
        ("zarr.json", "observables", [], "attribute observables = .*: should be names"),
        ("zarr.json", "parameters", [1, 2], "attribute parameters = .*: should be names"),
        ("zarr.json", "spec", "[]", "attribute spec = .*: should hold a JSON object"),
        ("zarr.json", "spec", '{"settings": 5}', "attribute spec = .*: should hold a JSON object"),
        ("zarr.json", "layout", {"n_ranks": 0}, "attribute layout = .*: should have n_ranks, n_replicas"),
        ("zarr.json", "layout", vars(LAYOUT) | {"n_ranks": 0}, "n_ranks = 0: should be an integer"),
        ("zarr.json", "parameters", ["theta0", "../theta1"], "parameter '../theta1' cannot be the name of a variable"),
        ("zarr.json", schema.VERSION_KEY, "three", "its schema is 'three': should be a number"),
        ("posterior/zarr.json", "uncertainty", 3, "attribute uncertainty = 3: should be a str"),
        ("reference/zarr.json", "fit", "made", "attribute fit = 'made': should be a state of the fit"),
        ("reference/zarr.json", "fit", {"state": "done"}, "attribute fit = .*: should be a state of the fit"),
        ("reference/zarr.json", "fit", {"state": "refused", "reason": 3}, "attribute fit = .*: should be a state"),
        ("reference/zarr.json", "fit", {"state": "made", "findings": "none"}, "attribute fit = .*: should be a state"),
        ("control/zarr.json", "resumed", 5, "notes of a resumption 5: should be a list"),
        ("zarr.json", "continued", [{"from_step": "5"}], "should have from_step, created_at, hostname"),
        ("posterior/zarr.json", "n_resampled", "many", "attribute n_resampled = 'many': should be a number"),
        ("control/zarr.json", "resumed", [{"at": "noon", "from_step": 5}], "should have at, from_step, reached"),
        (
            "control/zarr.json",
            "resumed",
            [{"at": 12, "from_step": 5, "reached": 7}],
            "should have at, from_step, reached",
        ),
    ],
)
def test_a_store_of_wrong_attributes_is_damaged(make, path, where, key, value, text):
    file = make() / where
    rewrite(file, attributes={key: value})
    with pytest.raises(ValueError, match=f"{path}` is damaged: .*{text}"):
        open_run(path)


def test_a_variable_of_other_dimensions_or_type_is_damage(make, path):
    file = make() / "observed_data" / "hall" / "zarr.json"
    text = file.read_text()
    rewrite(file, dimension_names=["neutrino"])
    with pytest.raises(ValueError, match=r"damaged: .*hall has the dimensions \('neutrino',\): should be \('event',\)"):
        open_run(path)
    file.write_text(text)
    file = path / "history" / "progress" / "zarr.json"
    rewrite(file, data_type="float64", fill_value=0.0)
    for action in ACTIONS:
        with pytest.raises(ValueError, match="damaged: .*history/progress has the type float64: should be int64"):
            action(path)


@pytest.mark.parametrize(("key", "hostile"), [("shape", None), ("chunk_grid", 5), ("codecs", [5]), ("fill_value", [5])])
def test_metadata_that_zarr_cannot_read_is_damage(make, path, key, hostile):
    """zarr raises a TypeError for such metadata."""
    rewrite(make() / "history" / "progress" / "zarr.json", **{key: hostile})
    for action in (open_run, read_status, write):
        with pytest.raises(ValueError, match=f"`{path}` is damaged: .*TypeError"):
            action(path)


@pytest.mark.parametrize(
    ("module", "name", "mistake", "error"),
    [
        (reader, "check_contents", "None + 1", TypeError),
        (groups, "_check_attributes", "None.x", AttributeError),
        (groups, "_check_array", "unknown", NameError),
        (reader._Read, "_read", "None.x", AttributeError),
    ],
)
def test_mistakes_in_the_code_are_not_damage(make, path, monkeypatch, module, name, mistake, error):
    make()
    # As if the mistake were in the package.
    monkeypatch.setattr(module, name, eval(f"lambda *args: {mistake}", {"__name__": "sagips_kit.store.reader"}))
    with pytest.raises(error):
        open_run(path)["posterior"]["theta0"].load()


def test_a_half_created_run_says_so(make, monkeypatch):
    where = MemoryStore()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Cannot create the run .*Delete what is there"):
        patch.setattr(zarr.Group, "create_array", lambda *args, **options: os.read(-1, 1))
        make(where)
    for action in ACTIONS:
        with pytest.raises(ValueError, match="creation was interrupted.*Delete it"):
            action(where)


def test_a_path_with_wildcards_opens_its_only_match(make, path):
    make(path.with_name("first.zarr"))
    assert open_run(path.with_name("f*.zarr")).encoding["source"].endswith("first.zarr")
    make(path.with_name("[last] 2.zarr"))
    assert open_run(path.with_name("[last] 2.zarr")).encoding["source"].endswith("[last] 2.zarr")
    with pytest.raises(ValueError, match=r"matches 2 paths: .*first.zarr.*open_runs\("):
        open_run(path.with_name("*.zarr"))
    with pytest.raises(FileNotFoundError, match=r"no run at `.*g\*.zarr`"):
        open_run(path.with_name("g*.zarr"))


def test_a_run_can_be_asked_to_stop(make, path):
    make()
    writers = [RunWriter(path, rank) for rank in range(4)]
    status = read_status(path)
    assert (status.state, status.stop_step) == ("unfinished", 105)
    writers[0].set_progress(20)
    with pytest.raises(
        ValueError, match="step = 20: some rank has already reached step 20, .* Choose a later step, below 105"
    ):
        request_stop(path, 20)
    for step in (105, 10**6, 40.0, True, "40"):
        with pytest.raises(ValueError, match=f"step = {step!r}: should be"):
            request_stop(path, step)
    request_stop(path, np.int64(40))
    status = read_status(path)
    assert (status.state, status.stop_step, status.has_ended) == ("stopping", 40, False)
    for writer in writers:
        writer.set_progress(40)
    status = read_status(path)
    assert (status.state, status.has_ended, status.is_finished) == ("stopped", True, False)
    stop_soon(path)
    assert Control(path)[schema.ASKED] == 0, "nobody trains"
    request_stop(path, None)
    assert read_status(path).state == "unfinished"
    stop_soon(path)
    # One of the ranks will choose the step.
    assert Control(path)[schema.ASKED] == schema.BY_USER and read_status(path).stop_step == 105


def test_no_rank_stops_later_than_others(make, path):
    make()
    request_stop(path, 40)
    stop_soon(path)
    assert read_status(path).stop_step == 40 and not Control(path)[schema.ASKED]
    RunWriter(path, 0).set_progress(40)
    for step in (80, None):
        with pytest.raises(ValueError, match="some ranks have already stopped at step 40"):
            request_stop(path, step)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"parameters": ("chain", "a")}, "parameter 'chain'.*none of chain, draw"),
        ({"parameters": ("a", "a")}, "parameter 'a'"),
        ({"observables": ("x/y", "z")}, "observable 'x/y'"),
        ({"observables": ("x",)}, r"events of shape \(7, 2\).*columns x\."),
        ({"truth": (1.0,)}, r"truth of shape \(1,\): should be \(2,\)"),
    ],
)
def test_a_problem_that_does_not_fit_is_refused(make, path, changes, text):
    with pytest.raises(ValueError, match=text):
        make(problem=make_problem(**changes))
    assert not path.exists()


def test_a_reference_that_does_not_fit_is_refused(make):
    with pytest.raises(ValueError, match="unknown cov. Allowed: mle, deviation, covariance"):
        make(reference={"cov": np.eye(2)})
    with pytest.raises(ValueError, match="covariance of shape"):
        make(reference={"covariance": np.eye(3)})


@pytest.mark.parametrize("change", [{"n_ranks": 0}, {"n_members": 1.5}, {"n_replicas": 9}])
def test_a_layout_that_does_not_fit_is_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"RunLayout: {name}"):
        RunLayout(**{**LAYOUT.__dict__, **change})


def write_slowly(path, rank, barrier):
    """Run in another process: write all blocks of one rank, one after the other."""
    writer = RunWriter(path, rank)
    barrier.wait()
    for first in range(0, len(LAYOUT.steps), LAYOUT.rows_per_block):
        n_rows = min(LAYOUT.rows_per_block, len(LAYOUT.steps) - first)
        writer.write_rows(first, {"theta": rows_of(rank, first, n_rows)})
        writer.set_progress(LAYOUT.steps[first + n_rows - 1])


def test_a_reader_sees_whole_rows_during_writing(make, path):
    make()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=write_slowly, args=(path, rank, barrier)) for rank in (0, 3)]
    for writer in writers:
        writer.start()
    barrier.wait(60)
    is_over = False
    while not is_over:
        is_over = not any(writer.is_alive() for writer in writers)
        history = open_run(path)["history"]
        for rank in (0, 3):
            is_valid = (history["step"] <= history["progress"][rank]).values
            seen = history["theta"][rank].values
            np.testing.assert_array_equal(seen[:, is_valid], rows_of(rank, 0, is_valid.sum()))
            assert np.isnan(seen[:, ~is_valid]).all()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert read_status(path).steps.tolist() == [105, 0, 0, 105]


def test_the_git_revision_may_be_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert create._git_revision() == ""


def test_a_path_from_home_stays_the_same(monkeypatch, tmp_path):
    """A handle looks for the store where it was created."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert location.absolute("~/runs/a.zarr") == location.local_path("~/runs/a.zarr") == tmp_path / "runs" / "a.zarr"
    assert location.absolute("a.zarr") == Path("/a.zarr")
    assert location.absolute("memory://~/a.zarr") == "memory://~/a.zarr"

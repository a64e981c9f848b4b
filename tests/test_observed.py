"""Observed events from files: the same events from each format, and the errors for files that cannot be used."""

import dataclasses
import fcntl
import json
import pickle
import re
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import uproot
import xarray as xr
import zarr

from sagips_kit import Observed, Proxy, RunSpec
from sagips_kit.events import formats, sampling
from sagips_kit.events.observed import EventFileError
from sagips_kit.events.texts import TEXTS

N = 1000


@pytest.fixture
def columns(rng):
    """Columns of two observables and of another quantity."""
    return {"x1": rng.random(N), "x2": rng.random(N), "quality": np.arange(N) % 4}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(formats, "_BLOCK", 300)


def write_npy(path, columns):
    np.save(path, pd.DataFrame(columns).to_records(index=False))


def write_csv(path, columns):
    pd.DataFrame(columns).to_csv(path, index=False)


def write_parquet(path, columns):
    pa.parquet.write_table(pa.table(columns), path)


def write_hdf5(path, columns):
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[f"day1/{name}"] = column


def write_compound(path, columns):
    with h5py.File(path, "w") as file:
        file["day1"] = pd.DataFrame(columns).to_records(index=False)


def write_zarr(path, columns):
    group = zarr.open_group(path, mode="w")
    for name, column in columns.items():
        group.create_array(name, data=column)


def write_root(path, columns):
    with uproot.recreate(path) as file:
        file.mktree("other", {"y": "f8"})
        file.mktree("day1", {name: column.dtype for name, column in columns.items()})
        file["day1"].extend(columns)


def write_damaged_ntuple(path, columns):
    """An RNTuple with one wrong bit in its footer, which counts what is in the file."""
    with uproot.recreate(path) as file:
        file.mkrntuple("day1", columns)
    with uproot.open(path) as file:
        footer = file["day1"].member("fSeekFooter")
    content = bytearray(path.read_bytes())
    content[footer + 20] ^= 1
    path.write_bytes(content)


FORMATS = {
    "a.npy": (write_npy, None),
    "a.npz": (lambda path, columns: np.savez(path, **columns), None),
    "a.csv": (write_csv, None),
    "a.parquet": (write_parquet, None),
    "a.h5": (write_hdf5, "day1"),
    "a.hdf5": (write_compound, "day1"),
    "a.zarr": (write_zarr, None),
    "a.root": (write_root, "day1"),
    "a.nc": (lambda path, columns: xr.Dataset(columns_of_events(columns)).to_netcdf(path), None),
    "a.feather": (lambda path, columns: pa.feather.write_feather(pa.table(columns), path), None),
    "a.arrow": (lambda path, columns: pa.feather.write_feather(pa.table(columns), path, "uncompressed"), None),
    "a.tsv": (lambda path, columns: pd.DataFrame(columns).to_csv(path, index=False, sep="\t"), None),
}


def columns_of_events(columns):
    return {name: ("event", column) for name, column in columns.items()}


def test_every_format_is_tried_here():
    """Other texts and FITS are in test_event_files."""
    tried = {name.removeprefix("a") for name in FORMATS}
    assert tried == set(formats.FORMATS) - (set(TEXTS) - {".csv", ".tsv"}) - {".fits"}


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_hold_the_same_events(tmp_path, columns, name):
    write, table = FORMATS[name]
    write(tmp_path / name, columns)
    file = Observed(str(tmp_path / name), table=table)
    np.testing.assert_array_equal(file.read(Proxy()), np.stack([columns["x1"], columns["x2"]], axis=-1))
    chosen = Observed(
        str(tmp_path / name),
        columns=("x2", "x1"),
        table=table,
        within={"quality": (1, 2), "x1": (None, 0.5)},
        scale={"x2": 0.1},
    )
    is_in = np.isin(columns["quality"], [1, 2]) & (columns["x1"] <= 0.5)
    expected = np.stack([0.1 * columns["x2"][is_in], columns["x1"][is_in]], axis=-1)
    np.testing.assert_array_equal(chosen.read(Proxy()), expected)


def test_hdf5_files_need_no_lock(tmp_path, columns):
    """Some parallel filesystems have none, and another program may hold one."""
    write_hdf5(tmp_path / "a.h5", columns)
    with open(tmp_path / "a.h5") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert len(Observed(str(tmp_path / "a.h5"), table="day1").read(Proxy())) == N


def write_matrix_hdf5(path, matrix):
    with h5py.File(path, "w") as file:
        file["events"] = matrix


@pytest.mark.parametrize(
    ("name", "write", "table"),
    [
        ("a.npy", np.save, None),
        ("a.npz", lambda path, matrix: np.savez(path, events=matrix), None),
        ("a.h5", write_matrix_hdf5, "events"),
        ("a.zarr", lambda path, matrix: zarr.save_array(path, matrix), None),
    ],
)
def test_columns_without_names_come_in_their_order_or_by_number(tmp_path, rng, name, write, table):
    matrix = rng.random((N, 2))
    write(tmp_path / name, matrix)
    path = str(tmp_path / name)
    np.testing.assert_array_equal(Observed(path, table=table).read(Proxy()), matrix)
    swapped = Observed(path, table=table, columns=("1", "0"), within={"1": (0.5, None)}).read(Proxy())
    np.testing.assert_array_equal(swapped, matrix[matrix[:, 1] >= 0.5][:, ::-1])


def test_a_random_sample_keeps_the_order_and_repeats_nothing(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(2 * N).reshape(N, 2))
    file = Observed(str(tmp_path / "a.npy"))
    one, same, other = (file.read(Proxy(), 400, seed)[:, 0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert len(one) == 400 and (np.diff(one) > 0).all() and (one != other).any()
    # All rows are equally likely: the mean row number of 20 samples, in units of its deviation.
    means = [file.read(Proxy(), 400, seed)[:, 0].mean() / 2 for seed in range(20)]
    deviation = N / np.sqrt(12) * np.sqrt(0.6 / 400 / 20)
    assert abs(np.mean(means) - (N - 1) / 2) < 4 * deviation


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.zarr", "a.parquet", "a.csv"])
def test_a_sample_of_a_large_file_needs_little_memory(tmp_path, monkeypatch, rng, name):
    monkeypatch.setattr(formats, "_BLOCK", 1000)
    columns = {"x1": rng.random(400_000), "x2": rng.random(400_000)}
    write, table = FORMATS[name]
    write(tmp_path / name, columns)
    tracemalloc.start()
    try:
        events = Observed(str(tmp_path / name), table=table).read(Proxy(), 500)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The columns are 6.4 MB; zarr holds one chunk at a time, or two if threads are late.
    assert len(events) == 500 and peak < 3e6


def test_parquet_is_read_piece_by_piece(tmp_path, rng):
    """The memory of Arrow is not seen by tracemalloc, but by the system."""
    write_parquet(tmp_path / "a.parquet", {"x1": rng.random(4_000_000), "x2": rng.random(4_000_000)})
    file = Observed(str(tmp_path / "a.parquet"))
    file.first(Proxy())  # imports

    def resident(name):
        return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000

    pa.default_memory_pool().release_unused()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    file.read(Proxy(), 500)
    assert resident("VmHWM") - before < 30  # MB, of 64


@pytest.mark.parametrize("name", [name for name in FORMATS if name.removeprefix("a") in formats.RANDOM_ACCESS])
def test_windows_cover_a_sorted_file_once_and_each_looks_like_the_whole(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sampling, "_N_STRETCHES", 128)
    n, n_rows = 20_000, 4000
    columns = {"x1": np.linspace(0, 1, n), "x2": np.arange(n, dtype=float)}
    write, table = FORMATS[name]
    write(tmp_path / name, columns)
    file = Observed(str(tmp_path / name), table=table, stream=True)
    windows = [file.window(Proxy(), number, n_rows, seed=3) for number in range(6)]
    first_turn = np.concatenate(windows[:5])
    np.testing.assert_array_equal(np.sort(first_turn[:, 1]), columns["x2"])
    for window in windows:
        # Five times smaller than the scatter of a random sample of this size
        assert window[:, 0].mean() == pytest.approx(0.5, abs=0.3 * 12**-0.5 / n_rows**0.5)
    np.testing.assert_array_equal(windows[0], file.window(Proxy(), 0, n_rows, seed=3))
    assert len(np.intersect1d(windows[0][:, 1], windows[5][:, 1])) < n_rows / 2, "the next turn is another one"


def test_a_file_is_recognised_by_its_digest(tmp_path, rng):
    numbers = {"x1": rng.random(1000), "x2": rng.random(1000), "w": rng.random(1000)}
    others = numbers | {"w": np.where(np.arange(1000) < 900, numbers["w"], 0.5)}
    digests = []
    for folder, columns in (("a", numbers), ("b", numbers), ("c", others)):
        (tmp_path / folder).mkdir()
        write_npy(tmp_path / folder / "a.npy", columns)
        file = Observed(str(tmp_path / folder / "a.npy"), weights="w", stream=True)
        digests.append(file.digest(Proxy()))
    assert digests[0] == digests[1] == json.loads(json.dumps(digests[0]))
    assert digests[0]["rows"] == digests[2]["rows"] == 1000 and digests[0] != digests[2]


def test_a_window_takes_the_selected_events_of_its_rows(tmp_path, rng):
    np.save(tmp_path / "a.npy", rng.random((N, 2)))
    file = Observed(str(tmp_path / "a.npy"), within={"0": (0.5, None)}, scale={"1": 10.0}, stream=True)
    np.testing.assert_array_equal(file.window(Proxy(), 0, N), file.read(Proxy()))


def test_weights_are_relative_probabilities(tmp_path, rng):
    n = 40_000
    columns = {"x1": rng.random(n), "x2": np.arange(n), "w": rng.choice([0.0, 0.5, 2.0], n)}
    write_npy(tmp_path / "a.npy", columns)
    file = Observed(str(tmp_path / "a.npy"), weights="w")
    for n_events in (None, 4000):
        events = file.read(Proxy(), n_events)
        taken = columns["w"][events[:, 1].astype(int)]
        assert (np.diff(events[:, 1]) > 0).all(), "none twice"
        assert (taken == 0).sum() == 0
        assert (taken == 2).mean() == pytest.approx(0.8, abs=4 * 0.4 / len(events) ** 0.5)
    # All events with the largest weight are taken.
    assert len(file.read(Proxy())) == pytest.approx((columns["w"] / 2).sum(), rel=0.02)


def test_too_few_events_after_thinning_give_a_warning(tmp_path, rng):
    write_npy(tmp_path / "a.npy", {"x1": rng.random(N), "x2": rng.random(N), "w": np.where(np.arange(N), 1.0, 1000.0)})
    file = Observed(str(tmp_path / "a.npy"), weights="w")
    message = r"of 1000 events are taken, because the largest weight in w is far above the mean.*within={'w': \(None"
    with pytest.warns(UserWarning, match=message):
        file.read(Proxy())
    message = r"in the selection after 1000 weighted ones were thinned; 900 were asked for. Ask for at most \d+, or for"
    with pytest.raises(ValueError, match=message):
        file.read(Proxy(), 900)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"within": {"quality": (7, None)}}, r"no event within = {'quality': \(7, None\)}. Ranges are in the file's"),
        (
            {"within": {"quality": (0, 0)}, "weights": "quality"},
            "all weights of the selected rows, in column quality, a",
        ),
        ({"path": "none.npy"}, "none.npy` has no event.$"),
    ],
)
def test_a_selection_that_leaves_nothing_is_an_error(tmp_path, monkeypatch, columns, given, message):
    monkeypatch.chdir(tmp_path)
    write_npy("events.npy", columns)
    write_npy("none.npy", {name: column[:0] for name, column in columns.items()})
    with pytest.raises(ValueError, match=message):
        Observed(**({"path": "events.npy"} | given)).read(Proxy())


def test_an_array_instead_of_a_file_is_an_error(columns):
    with pytest.raises(ValueError, match=r"should be a file, .*: np.save\('events.npy', events\)"):
        RunSpec(problem=Proxy(), store="run.zarr", events=np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"columns = 'x1': should be a tuple, such as \('x1',\)"):
        Observed("events.npy", columns="x1")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            -0.5,
            r"column w, row 400, is negative: a weight is a number of ev.*cell resampling.*drop.*{'w': \(0, None\)}",
        ),
        (np.nan, "column w, row 400, is empty, NaN"),
    ],
)
def test_invalid_weights_are_refused(tmp_path, rng, weight, message):
    weights = np.where(np.arange(N) == 400, weight, 1.0)
    write_npy(tmp_path / "a.npy", {"x1": rng.random(N), "x2": rng.random(N), "w": weights})
    with pytest.raises(ValueError, match=message):
        Observed(str(tmp_path / "a.npy"), weights="w").read(Proxy())


def rows(*lines):
    return lambda path, _: path.write_text("\n".join(lines) + "\n")


BAD = {
    "text.csv": (
        rows("x1,x2", "1,2", "3,high"),
        "text.csv`: column x2, row 1 .line 3., holds 'high', which is not a n",
    ),
    "empty.csv": (
        rows("x1,x2", "1,2", "3,"),
        r"empty.csv`: column x2, row 1 .line 3., is empty, NaN or infinite. Drop .*{'x2': \(None, None\)}",
    ),
    "blank.csv": (rows("x1,x2", "1,2", "", "3,4"), "blank.csv`: column x1, row 1 .line 3., is empty"),
    "ragged.csv": (rows("x1,x2", "1,2", "3,4,5"), "ragged.csv` cannot be read: .*Expected 2 fields in line 3, saw 3"),
    "long.csv": (
        rows("x1,x2", "1,2,3", "3,4,5"),
        "its header has 2 names, and the next line 3 entries, '1, 2, 3'. If their commas",
    ),
    "nothing.csv": (rows(""), "nothing.csv` cannot be read"),
    "names.csv": (rows("a,b", "1,2"), "has no column 'x1'. It has: a, b. Proxy observes x1, x2. Name their columns"),
    "late.csv": (rows("x1,x2", *["1,2"] * 700, "nan,1"), "column x1, row 700 .line 702., is empty"),
    "many.csv": (
        rows("x1,x2", "1,2", "nan,1", "inf,1"),
        r"row 1 .line 3., is .* the first of 2 such rows. Drop such rows with within={'x1': \(-1e\+30, 1e\+30\)}",
    ),
    "no.parquet": (rows("PAR1"), "no.parquet` cannot be read"),
    "no.root": (rows("root"), "no.root` cannot be read"),
    "no.h5": (rows("x"), "no.h5` cannot be read"),
    "no.npz": (rows("x"), "no.npz` cannot be read"),
    "trees.root": (write_root, "trees.root` cannot be read: table = None: the file holds day1, other"),
    "ntuple.root": (write_damaged_ntuple, "ntuple.root` cannot be read: .*a checksum does not match"),
    "three.npy": (
        lambda path, _: np.save(path, np.zeros((5, 3))),
        r"has 3 columns without names, and Proxy needs 2: x1, x2. Choose them: Observed\(..., columns=\('0', '1'\)\)",
    ),
    "one.npy": (
        lambda path, _: np.save(path, np.zeros((5, 1))),
        "has 1 column without names, and Proxy needs 2: x1, x2. Use a file with a column for each, or change the",
    ),
    "cube.npy": (lambda path, _: np.save(path, np.zeros((5, 3, 2))), r"an array of shape \(5, 3, 2\), not \(event"),
    "objects.npy": (lambda path, _: np.save(path, np.array([[{}, 1]])), "cannot be read: .*Python objects in dtype"),
    "lengths.npz": (lambda path, _: np.savez(path, x1=np.zeros(3), x2=np.zeros(4)), "different lengths: {'x1': 3, 'x2"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_names_file_column_and_row(tmp_path, columns, name):
    write, message = BAD[name]
    write(tmp_path / name, columns)
    with pytest.raises(ValueError, match=message) as caught:
        Observed(str(tmp_path / name)).read(Proxy())
    assert "\n" not in str(caught.value)


class Trap:
    def __reduce__(self):
        return open, ("trap", "w")


def test_a_store_with_pickles_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "<f8", "fill_value": 0, "order": "C"}
    (tmp_path / "a.zarr" / "x1").mkdir(parents=True)
    (tmp_path / "a.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    codecs = {"compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
    (tmp_path / "a.zarr" / "x1" / ".zarray").write_text(json.dumps(array | codecs))
    (tmp_path / "a.zarr" / "x1" / "0").write_bytes(pickle.dumps(np.array([Trap(), Trap()])))
    with pytest.raises(ValueError, match="a.zarr` cannot be read: .*pickle"):
        Observed("a.zarr", columns=("x1", "x1")).read(Proxy())
    assert not (tmp_path / "trap").exists()


def test_jagged_columns_are_no_numbers(tmp_path):
    pa.parquet.write_table(pa.table({"x1": [[1.0], [2.0, 3.0]], "x2": [1.0, 2.0]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"column x1, row 0, holds array\(.*not a number"):
        Observed(str(tmp_path / "a.parquet")).read(Proxy())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"path": "events.pkl"},
            r"path = 'events.pkl': should be a file that ends in .npy, .h5, .*Pickles can run any",
        ),
        ({"within": {"x1": (2.0, 1.0)}}, r"within = {'x1': \(2.0, 1.0\)}: the first end is above the second"),
        ({"within": {"x1": 3}}, r"within\['x1'\] = 3: should be \(low, high\), where None leaves an end open"),
        ({"within": {"x1": (3,)}}, r"within\['x1'\] = \(3,\): should be \(low, high\)"),
        ({"scale": {"x1": "keV"}}, r"scale\['x1'\] = 'keV': should be a valid number"),
        ({"column": "x"}, r"Did you mean columns\?"),
        (
            {"stream": True},
            r"'a.csv', stream = True: should be .npy, .h5, .hdf5, .nc, .zarr, .root, which allow .* Convert",
        ),
    ],
)
def test_mistakes_are_found_on_construction(given, message):
    with pytest.raises(ValueError, match=message):
        Observed(**({"path": "a.csv"} | given))


def test_rows_are_dropped_as_the_message_says(tmp_path):
    rows("x1,x2", "1,2", ",3", "nan,4", "5,6")(tmp_path / "a.csv", None)
    file = Observed(str(tmp_path / "a.csv"), within={"x1": (None, None)})
    np.testing.assert_array_equal(file.read(Proxy()), [[1, 2], [5, 6]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"within": {"q": (0.0, 1.0)}}, r"has no column 'q'. It has: x1, x2, w. Change within = {'q': \(0.0, 1.0\)}"),
        ({"weights": "q"}, r"has no column 'q'. It has: x1, x2, w. Change weights = 'q'"),
        ({"scale": {"q": 0.1}}, r"has no column 'q'. It has: x1, x2, w. Change scale = {'q': 0.1}"),
        ({"scale": {"w": 0.1}}, r"scale = {'w': 0.1}: column 'w' of `.*a.csv` is not .* no effect. Allowed: x1, x2"),
        ({"columns": ("x1",)}, r"columns = \('x1',\): should be 2 names, one for each of x1, x2"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, given, message):
    rows("x1,x2,w", "1,2,1")(tmp_path / "a.csv", None)
    with pytest.raises(EventFileError, match=message):
        Observed(str(tmp_path / "a.csv"), **given).read(Proxy())


def test_an_error_carries_file_column_and_row(tmp_path):
    rows("x1,x2", "1,2", "3,high")(tmp_path / "a.csv", None)
    with pytest.raises(EventFileError) as caught:
        Observed(str(tmp_path / "a.csv")).read(Proxy())
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.path, error.column, error.row) == (str(tmp_path / "a.csv"), "x2", 1)
        assert str(error) == str(caught.value)


def test_the_sample_in_the_store_and_the_windows_are_thinned_by_different_streams(tmp_path, rng):
    """For NumPy, a seed followed by zeros is the same seed."""
    write_npy(tmp_path / "a.npy", {"x1": rng.random(N), "x2": rng.random(N), "w": np.where(np.arange(N), 0.5, 1.0)})
    file = Observed(str(tmp_path / "a.npy"), weights="w", stream=True)
    sample, window = file.read(Proxy(), seed=3), file.window(Proxy(), 0, N, seed=3)
    # Each takes half of all rows; half of these would be common by chance.
    assert len(np.intersect1d(sample[:, 0], window[:, 0])) < 0.6 * len(sample)


def test_more_events_than_exist_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    with pytest.raises(ValueError, match="has 5 events in the selection; 6 were asked for. Ask for at most 5, or"):
        Observed(str(tmp_path / "a.npy")).read(Proxy(), 6)


def test_a_stream_needs_to_know_how_much_to_hold():
    text = "need n_observed, the number of events that a rank holds .* n_observed=1_000_000"
    with pytest.raises(ValueError, match=text):
        RunSpec(problem=Proxy(), store="a.zarr", events=Observed("a.npy", stream=True))


def test_it_travels_with_the_spec():
    file = Observed("a.root", columns=("E", "h"), table="day1", within={"E": (0.9, None)}, scale={"E": 1e-3})
    spec = RunSpec(problem=Proxy(), store="a.zarr", events=file)
    assert RunSpec.from_dict(json.loads(spec.to_json())) == spec
    assert repr(file).startswith("Observed('a.root', columns=('E', 'h'), table='day1', within={'E': (0.9, None)}")
    assert dataclasses.replace(spec, events="b.npy").to_dict()["events"] == "b.npy"

"""Damage to a stored run is refused or reported, never read: checksums, digests, and files that must be there."""

import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from gaussian import QUICK, Gaussian

from sagips_kit import RunSpec, open_run, prepare, verify
from sagips_kit.cli import main
from sagips_kit.report.progress_line import snapshot
from sagips_kit.running.checkpoints import Checkpoints
from sagips_kit.store import location
from sagips_kit.store.files import CHECKPOINTS
from sagips_kit.store.writer import RunWriter

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "damage.py"


@pytest.fixture(scope="module")
def damage():
    """The benchmark, which damages every file of two runs; here it does so to some."""
    loader = importlib.util.spec_from_file_location("damage", BENCHMARK)
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["finished", "under way"])
def store(request, damage, tmp_path_factory):
    return damage.make(tmp_path_factory.mktemp("stores") / f"{request.param}.zarr", request.param == "finished")


# Of each kind one: written with the template, row by row, by each replica, at the end; texts; coordinates; metadata.
FILES = [
    "zarr.json",
    "history/zarr.json",
    "history/progress/c/0",
    "history/theta/c/0/0/0/0",
    "snapshots/parameters/c/0/0/0/0",
    "scores/member/c/0",
    "reference/truth/c/0",
    "posterior/chain/c/0",
    "environment/host/c/0",
    "posterior/theta0/c/0/0",
    "scores/observed/c/0/0/0",
]


@pytest.mark.filterwarnings("ignore")
def test_no_damage_changes_a_number_in_silence(damage, store, rng):
    files = [store / name for name in FILES if (store / name).exists()]
    assert len(files) >= 9
    trials = damage.sweep(store, rng, 1, files)
    assert not [trial for trial in trials if trial["outcome"] == "silent"]
    assert not [trial for trial in trials if trial["outcome"] == "refused" and not trial["is_verified"]]
    assert sum(trial["outcome"] == "refused" for trial in trials) > 0.9 * len(trials) > 30


def test_verify_names_what_is_damaged_and_what_is_whole(store, capsys):
    assert verify(store).is_whole and main(["verify", str(store)]) == 0
    assert "parts are whole" in capsys.readouterr().out
    file = store / "history" / "theta" / "c" / "0" / "0" / "0" / "0"
    data = file.read_bytes()
    file.unlink()
    try:
        found = verify(store)
        assert list(found.damages) == ["history/theta/c/0/0/0/0"] and "history" not in found.whole_groups
        assert "posterior" in found.whole_groups
        assert main(["verify", str(store)]) == 1
        text = capsys.readouterr().out
        assert "history/theta/c/0/0/0/0: its file history/theta/c/0/0/0/0 has been lost" in text
        assert "Can still be used: posterior, " in text
        with pytest.raises(ValueError, match="is damaged: .*theta.* has been lost"):
            snapshot(store)
    finally:
        file.write_bytes(data)


def test_verify_names_a_checkpoint_that_cannot_be_read(spec):
    prepare(spec, n_ranks=1)
    folder = Path(spec.store) / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    (folder / "000000000010-000000-0.safetensors").symlink_to(folder / "nowhere")
    (name,) = verify(spec.store).damages
    assert name.endswith("000000000010-000000-0.safetensors")


@pytest.fixture
def spec(tmp_path):
    options = {"settings": QUICK, "n_steps": 400, "reference": False, "fit": False}
    return RunSpec(problem=Gaussian(n_observed=50), store=str(tmp_path / "a.zarr"), **options)


def test_every_array_has_a_checksum(spec):
    prepare(spec, n_ranks=2)
    arrays = [array for _, group in zarr.open_group(spec.store, mode="r").groups() for _, array in group.arrays()]
    assert len(arrays) > 50
    assert all(array.metadata.codecs[-1].to_dict()["name"] == "crc32c" for array in arrays)


def test_a_damaged_checkpoint_is_verified(spec):
    prepare(spec, n_ranks=1)
    Checkpoints(spec.store, 0, 400, (0,)).write(20, {"a": torch.zeros(3)})
    [file] = Path(spec.store).rglob("*.safetensors")
    assert verify(spec.store).is_whole
    file.write_bytes(file.read_bytes()[:-1])
    assert list(verify(spec.store).damages) == [str(file.relative_to(spec.store))]


def test_rows_that_are_lost_while_a_run_is_written_are_not_replaced_by_nothing(spec):
    """Writing the next block reads the chunk that holds the earlier ones."""
    prepare(spec, n_ranks=1)
    with RunWriter(spec.store, 0) as writer:
        writer.write_rows(0, {"waited_s": np.ones(25)})
        writer.set_progress(250)
        (Path(spec.store) / "history" / "waited_s" / "c" / "0" / "0").unlink()
        with pytest.raises(ValueError, match="a.zarr` is damaged, .* rank 0 .* history/waited_s/c/0/0 has been lost"):
            writer.write_rows(25, {"waited_s": np.ones(5)})


def test_an_open_run_that_is_replaced_gives_no_numbers_of_the_new_one(spec):
    prepare(spec, n_ranks=1)
    run = open_run(spec.store)
    prepare(RunSpec.from_dict(spec.to_dict() | {"overwrite": True}), n_ranks=1)
    with pytest.raises(ValueError, match="a.zarr` holds another run than when it was opened: .* Open it again"):
        run["observed_data"]["x"].load()
    Path(spec.store).rename(f"{spec.store}.gone")
    with pytest.raises(FileNotFoundError, match="There is no run at"):
        run["observed_data"]["x"].load()


def test_a_writer_asks_before_it_writes_anything(spec):
    class Gone(Exception):
        pass

    def refuse():
        raise Gone

    prepare(spec, n_ranks=1)
    before = {file: file.read_bytes() for file in Path(spec.store).rglob("*") if file.is_file()}
    with RunWriter(spec.store, 0, 0, check=refuse) as writer:
        sizes = {"n_members": 2, "n_draws": 5, "n_predictive": QUICK.n_predictive}
        events = np.ones((*sizes.values(), 1))
        writes = [
            lambda: writer.write_facts(host="a"),
            lambda: writer.write_rows(0, {"waited_s": np.ones(5)}),
            lambda: writer.write_chains(np.ones((2, 5, 2)), events),
            lambda: writer.write_snapshot(40, events=events[:, 0]),
            lambda: writer.write_scores(generated=np.ones((2, 50))),
            lambda: writer.write_fit({"state": "under way"}),
            lambda: writer.write_starts(np.ones((2, 2)), np.ones((2, 2))),
            lambda: writer.write_ends(np.ones((2, 2))),
            lambda: writer.write_witnesses([False, True]),
            lambda: writer.write_verdict({}),
            lambda: writer.set_progress(40),
        ]
        for write in writes:
            with pytest.raises(Gone):
                write()
    assert {file: file.read_bytes() for file in Path(spec.store).rglob("*") if file.is_file()} == before


def test_half_written_folders_of_killed_processes_are_removed(spec):
    old, new = (Path(spec.store).with_name(f".a.zarr.partial-{number}-abcd") for number in (1, 2))
    for folder in (old, new):
        folder.mkdir()
        (folder / "zarr.json").write_text("{}")
    os.utime(old, (time.time() - location._KILLED_S - 10,) * 2)
    prepare(spec, n_ranks=1)
    assert not old.exists() and new.exists(), "the new one may belong to a process that is at work"

"""Files from elsewhere are data, never code; keys stay in files that only their owner can read."""

import ast
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import stat
from pathlib import Path

import numpy as np
import psutil
import pytest
from gaussian import QUICK, Gaussian

import sagips_kit
from sagips_kit import RunSpec, connect, open_run, prepare
from sagips_kit.cli import main
from sagips_kit.cluster.jobs import PBS, Slurm
from sagips_kit.running.checkpoints import FOLDER, Checkpoints
from sagips_kit.store import files

PACKAGE = Path(sagips_kit.__file__).parent


@pytest.fixture
def spec(tmp_path):
    settings = dataclasses.replace(QUICK, n_events=64, n_draws=3, n_predictive=4)
    problem = Gaussian(n_observed=50)
    return RunSpec(
        problem=problem, store=str(tmp_path / "a.zarr"), settings=settings, n_steps=20, reference=False, fit=False
    )


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def calls(path):
    """Names of the functions that a module calls, such as "np.load", and the call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), ast.unparse(node)


def test_only_the_call_that_a_notebook_sends_is_a_pickle():
    unpickling = ("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "torch.load", "eval", "exec")
    found = {(path.name, name) for path in PACKAGE.rglob("*.py") for name, _ in calls(path) if name in unpickling}
    # ipyparallel signs or encrypts it when sending it to the engines.
    assert found == {("remote.py", "pickle.loads")}
    loads = [text for path in PACKAGE.rglob("*.py") for name, text in calls(path) if name in ("np.load", "numpy.load")]
    assert loads and all("allow_pickle=False" in text for text in loads)


@pytest.mark.filterwarnings("ignore:Object at host is not recognized")
def test_an_array_of_pickles_in_a_store_is_not_unpickled(spec, tmp_path):
    prepare(spec, 1)
    array = Path(spec.store) / "environment" / "host"
    shutil.rmtree(array)
    array.mkdir()
    form = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": None}
    (array / ".zarray").write_text(json.dumps(form | {"order": "C", "filters": [{"id": "pickle"}]}))
    (array / "0").write_bytes(pickle.dumps(np.array([Touch(tmp_path / "touched")], dtype=object)))
    with pytest.raises(ValueError, match="environment/host is missing"):
        open_run(spec.store)
    assert not (tmp_path / "touched").exists()


def test_a_pickle_instead_of_a_checkpoint_is_not_unpickled(spec, tmp_path):
    prepare(spec, 1)
    data = pickle.dumps(Touch(tmp_path / "touched"))
    name = f"{20:012d}-{0:06d}-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
    (Path(spec.store) / FOLDER / name).write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        Checkpoints(spec.store, 0, 20, (0,)).read(20)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "zarr.json", ".hidden", "a\\b", "a\0b", ""])
@pytest.mark.parametrize("kind", ["parameters", "observables"])
def test_names_of_a_problem_cannot_leave_the_store(spec, tmp_path, name, kind):
    class Climbing(Gaussian):
        pass

    names = ("mu", name) if kind == "parameters" else (name,)
    setattr(Climbing, kind, names)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="cannot be the name of a variable in the store"):
        prepare(dataclasses.replace(spec, problem=Climbing(n_observed=50)), 1)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("store", ["../victim.zarr", "{}/victim.zarr"])
def test_a_spec_file_replaces_no_run_outside_this_folder(spec, tmp_path, monkeypatch, capsys, store):
    """Unless the command line asks for it."""
    victim = dataclasses.replace(spec, store=str(tmp_path / "victim.zarr"))
    prepare(victim, 1)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    hostile = dataclasses.replace(spec, store=store.format(tmp_path), overwrite=True, seed=7)
    Path("spec.json").write_text(hostile.to_json())
    assert main(["run", "spec.json"]) == 2
    assert "is outside the current folder" in capsys.readouterr().err
    assert RunSpec.from_run(open_run(victim.store)).seed == 0
    assert main(["run", "spec.json", "--overwrite"]) == 0
    assert RunSpec.from_run(open_run(victim.store)).seed == 7


@pytest.mark.parametrize(
    "given",
    [
        {"log": "/runs/a\n/{id}.log"},
        {"body": ["cd '/runs/a\nb'"]},
        {"environment": {"PYTHONPATH": "/a\r"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [PBS, Slurm])
def test_no_name_becomes_a_command_of_a_job_script(kind, given):
    job, rest = kind(walltime="00:10:00"), {"body": ["true"], "name": "a", "log": "/runs/{id}.log"}
    assert "true" in job.script(2, **rest)
    assert "a_rm_-rf__" in job.script(2, **rest | {"name": "a\nrm -rf ~"})  # a label
    with pytest.raises(ValueError, match="cannot be a line of a job script: control characters"):
        job.script(2, **rest | given)
    for option in ("setup", "affinity", "queue"):
        with pytest.raises(ValueError, match=option):
            kind(**{option: "a\x1bb"})


def test_checkpoints_have_the_permissions_of_the_store(spec):
    """A run contains no keys, so its files have the permissions that the user's umask allows."""
    before = os.umask(0o027)
    try:
        prepare(spec, 1)
        beside = files.Files(spec.store, FOLDER)
        beside.write("a", b"1")
    finally:
        os.umask(before)
    path = Path(spec.store)
    modes = {stat.S_IMODE(one.stat().st_mode) for one in (path / FOLDER / "a", path / "zarr.json")}
    assert modes == {0o640}


@pytest.mark.mpi
def test_keys_of_engines_are_in_files_that_only_their_owner_can_read(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with connect("local", n=1) as session:
        files = list(tmp_path.rglob("ipcontroller*-*.json"))
        assert files and all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in files)
        keys = {json.loads(file.read_text()).get("key") for file in files} - {None, ""}
        assert keys
        shown = session.preview()
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            shown += " ".join(process.cmdline()) + " ".join(process.environ().values())
        logs = [file for file in tmp_path.rglob("*.log")]
        shown += "".join(file.read_text(errors="replace") for file in logs)
        assert not [key for key in keys if key in shown]

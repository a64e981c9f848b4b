"""No two purposes use the same random numbers."""

import dataclasses
import re
from pathlib import Path

import numpy as np
from gaussian import QUICK, Calibrated

import sagips_kit
from sagips_kit import Observed, RunSpec, World, run
from sagips_kit.events import streams
from sagips_kit.events.streams import Stream

SMALL = dataclasses.replace(
    QUICK, n_members=2, n_events=64, n_draws=2, n_predictive=4, record_every=1, n_snapshots=2, bootstrap=True
)


def words_of(spec, monkeypatch):
    """The purposes and indices from which a run derives its streams, besides the seed: purpose -> set of indices."""
    seen = {}
    make = streams._words

    def noted(seed, purpose, indices):
        assert seed == spec.seed
        seen.setdefault(purpose, set()).add(indices)
        return make(seed, purpose, indices)

    monkeypatch.setattr(streams, "_words", noted)
    run(spec, World.alone("cpu"))
    return seen


def assert_all_differ(words):
    """NumPy pads entropy words with zeros, so no sequence of words may be the beginning of another."""
    states = [tuple(np.random.SeedSequence(some).generate_state(4)) for some in ([7, 102], [7, 102, 0, 0])]
    assert states[0] == states[1]
    for purpose, indices in words.items():
        assert len({len(some) for some in indices}) == 1, f"{purpose!r} has streams of different numbers of indices"


def test_all_streams_of_a_run_differ(tmp_path, monkeypatch):
    spec = RunSpec(
        problem=Calibrated(),
        store=str(tmp_path / "a.zarr"),
        settings=SMALL,
        n_steps=4,
        seed=7,
        reference=False,
        fit=False,
    )
    words = words_of(spec, monkeypatch)
    # Witnesses are in runs that begin at their fit.
    assert words.keys() == set(Stream) - {Stream.ROWS, Stream.WINDOWS, Stream.WITNESS}
    assert_all_differ(words)


def test_all_streams_of_a_run_on_windows_differ(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(300, 1)))
    file = Observed(str(tmp_path / "a.npy"), stream=True)
    spec = RunSpec(
        problem=Calibrated(),
        store=str(tmp_path / "a.zarr"),
        settings=SMALL,
        events=file,
        n_observed=100,
        n_steps=4,
        seed=7,
        reference=False,
        fit=False,
    )
    words = words_of(spec, monkeypatch)
    assert words.keys() == set(Stream) - {Stream.WITNESS}
    assert_all_differ(words)


def test_streams_of_several_words_are_made_in_one_place():
    """Elsewhere, streams may only come from a seed given by the user, for observed events and for fits."""
    package = Path(sagips_kit.__file__).parent
    for path in package.rglob("*.py"):
        for argument in re.findall(r"(?:SeedSequence|default_rng|manual_seed)\(([^()]*)", path.read_text("utf-8")):
            assert path.stem == "streams" or re.fullmatch(r"(\w+\.)?_?seed|\d+", argument), f"{path}: {argument}"

"""The problems of the zoo: events, simulation, derivative and likelihood of each belong together; and its runner."""

import importlib
import itertools
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # at the end of the path, because files in both folders may have the same names
problems, zoo = (importlib.import_module(name) for name in ("problems", "zoo"))
LIKELY = problems.REGULAR | problems.AMBIGUOUS
DIFFERENTIABLE = {name: kind for name, kind in LIKELY.items() if kind.differentiable}
SIMULATED = ("MovingEnd", "MovingStart", "UnseenParameter", "UnseenCombination")
CONSISTENT = LIKELY | {name: problems.SABOTAGED[name] for name in SIMULATED}


def noise_of(problem, n):
    engine = torch.quasirandom.SobolEngine(problem.noise_dim, scramble=True, seed=1)
    return engine.draw(n, dtype=torch.float64).clamp(1e-10, 1 - 1e-10)


def with_another_truth(kind, rng):
    return kind(problems.drawn_truth(kind, rng))


def test_the_zoo_is_wide():
    kinds = list(problems.REGULAR.values())
    assert len(kinds) >= 24 and len({kind.science for kind in kinds}) >= 10 and all(kind.science for kind in kinds)
    assert {1, 25} <= {len(kind.parameters) for kind in kinds} and {1, 2, 3, 5, 6, 10} <= {
        len(kind.observables) for kind in kinds
    }


@pytest.mark.parametrize("kind", CONSISTENT.values(), ids=CONSISTENT)
def test_simulated_events_are_distributed_as_those_of_the_generator(kind, rng):
    for problem in (kind(), with_another_truth(kind, rng)):
        theta = torch.tensor(problem.truth, dtype=torch.float64)
        made, seen = problem.simulate(theta, noise_of(problem, 4096)).numpy(), problem.observed(4000, rng)
        assert made.shape == (4096, len(problem.observables)) and np.isfinite(made).all()
        assert seen.shape == (4000, len(problem.observables))
        # Quantiles of all observables, and of sums and differences of the ranks of all pairs.
        ranks = scipy.stats.rankdata(np.vstack([made, seen]), axis=0)
        columns = [*ranks.T, *(a + s * b for a, b in itertools.combinations(ranks.T, 2) for s in (1, -1))]
        p_values = [scipy.stats.ks_2samp(one[:4096], one[4096:], method="asymp").pvalue for one in columns]
        assert min(p_values) > 1e-4 / len(columns)


@pytest.mark.parametrize("kind", LIKELY.values(), ids=LIKELY)
def test_the_likelihood_is_that_of_the_events(kind, rng):
    for problem in (kind(), with_another_truth(kind, rng)):
        theta, events = torch.tensor(problem.truth, dtype=torch.float64), torch.as_tensor(problem.observed(2000, rng))
        gradient = torch.func.grad(problem.log_likelihood)(theta, events).numpy()
        information = -torch.func.hessian(problem.log_likelihood)(theta, events).numpy()
        assert np.linalg.eigvalsh(information / np.sqrt(np.outer(*[np.diag(information)] * 2))).min() > 0
        assert scipy.stats.chi2.sf(gradient @ np.linalg.solve(information, gradient), len(gradient)) > 1e-4


@pytest.mark.parametrize("kind", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_the_derivative_of_the_simulation_is_that_of_its_events(kind, rng):
    problem = with_another_truth(kind, rng)
    slopes, narrow, wide = slopes_of_means(problem, rng)
    np.testing.assert_allclose(slopes, narrow, atol=1e-3)
    assert (np.linalg.norm(slopes - wide, axis=0) < 0.5 * np.linalg.norm(slopes, axis=0) + 0.01).all()


def test_a_derivative_that_is_missing_is_seen(rng):
    slopes, narrow, wide = slopes_of_means(problems.REGULAR["Where"](), rng)
    # Narrow steps do not meet the events that change sides.
    assert abs(slopes - narrow)[:, 0].max() < 1e-3 and abs(slopes - wide)[:, 0].max() > 0.1


def slopes_of_means(problem, rng):
    """Derivatives of the means of some functions, path-wise and by narrow and wide differences, per deviation."""
    theta, noise = torch.tensor(problem.truth, dtype=torch.float64), noise_of(problem, 1024)
    events = problem.simulate(theta, noise)
    middle, low, high = events.quantile(torch.tensor([0.5, 0.25, 0.75]).double(), dim=0)
    projections = torch.as_tensor(rng.normal(size=(len(middle), 6)))

    def means(theta):
        # Bounded, so that far events do not hide all others.
        return torch.tanh((problem.simulate(theta, noise) - middle) / (high - low + 1e-9) @ projections).mean(0)

    information = -torch.func.hessian(problem.log_likelihood)(theta, torch.as_tensor(problem.observed(1000, rng)))
    deviations = (information.diag() / 1000).rsqrt()  # of a single event
    found = [torch.autograd.functional.jacobian(means, theta) * deviations]
    ranges = torch.as_tensor(np.subtract(problem.upper, problem.lower, dtype=float))
    for steps in (1e-4 * deviations, torch.minimum(0.2 * deviations, 0.05 * ranges)):
        change = torch.stack([means(theta + h) - means(theta - h) for h in torch.diag(steps)], -1)
        found.append(change / (2 * steps) * deviations)
    return [one.detach().numpy() for one in found]


@pytest.mark.parametrize("kind", problems.SABOTAGED.values(), ids=problems.SABOTAGED)
def test_sabotaged_problems_say_what_must_be_found(kind, rng):
    problem = kind()
    events = problem.observed(400, rng)
    assert events.shape == (400, len(problem.observables)) and np.isfinite(events).all()
    assert problem.finding and re.compile(problem.finding) and not problem.has_likelihood
    assert len(problem.valid(np.array(problem.truth))) <= len(problem.truth)


@pytest.mark.parametrize("kind", problems.AMBIGUOUS.values(), ids=problems.AMBIGUOUS)
def test_all_answers_are_equally_likely(kind, rng):
    problem = kind()
    events = torch.as_tensor(problem.observed(1000, rng))
    values = [float(problem.log_likelihood(torch.as_tensor(one), events)) for one in problem.answers(problem.truth)]
    assert values == pytest.approx([values[0]] * len(values))


# The runner


def stub(monkeypatch, shift=0.0, findings=()):
    """In place of a fit, the likelihood fit moved by some deviations of its first parameter."""

    def fit(problem, events, seed):
        found = zoo.fit_likelihood(problem, events)
        moved = found.theta + shift * found.deviation * (np.arange(len(found.theta)) == 0)
        return SimpleNamespace(
            theta=moved, covariance=found.covariance, deviation=found.deviation, p_value=0.4, findings=findings
        )

    monkeypatch.setattr(zoo, "fit", fit)


def test_the_zoo_compares_with_the_likelihood_fit(monkeypatch):
    stub(monkeypatch, shift=0.5, findings=("false",))
    row = zoo.study("regular", "Energies", 1000, 0, False)
    assert row["distances"] == pytest.approx([0.5, 0], abs=1e-6)
    assert row["joint_distance"] == pytest.approx(0.5 / np.sqrt(2), rel=1e-2)  # hardly any correlation
    assert row["relative_deviations"] == pytest.approx([1, 1]) and not zoo.is_doubtful(row["reference"])
    found = zoo.summary([row])["regular"]
    assert found["false reports"] == found["joint distance above 0.3"] == {"Energies": 1}
    assert "joint 0.35" in zoo.line(row) and "false" in zoo.line(row)


def test_the_zoo_counts_answers_and_takes_the_nearest(monkeypatch):
    others = ("There is another answer: a = 1.4", "There is another answer: a = 1.4", "The model does not fit")
    stub(monkeypatch, findings=others)
    row = zoo.study("several", "Square", 1000, 0, True)
    assert (row["found"], row["answers"]) == (2, 2) and row["joint_distance"] < 0.01
    assert zoo.summary([row])["several"]["all answers found"] == {"Square": 1.0}


def test_the_zoo_keeps_crashes_and_counts_what_they_say(monkeypatch):
    def fit(problem, events, seed):
        raise ValueError("Compare units")

    monkeypatch.setattr(zoo, "fit", fit)
    rows = [zoo.study(kind, name, 200, 0, False) for kind, name in (("sabotaged", "Units"), ("regular", "Normal"))]
    found = zoo.summary(rows)
    assert found["sabotaged"]["reported"] == {"Units": 1.0} and found["regular"]["crashes"] == {"Normal": 1}
    assert "Compare units" in zoo.line(rows[0])


def test_valid_quantities_are_compared_with_the_truth(monkeypatch):
    problem = problems.SABOTAGED["UnseenCombination"]()
    covariance = np.diag([0.03, 0.01, 0.04])
    result = SimpleNamespace(theta=np.array([0.0, 1.7, 0.9]), covariance=covariance, findings=())
    assert zoo.sabotaged(problem, None, result)["valid_distances"] == pytest.approx([0.4 / 0.2, 0.1 / 0.2])


def test_a_likelihood_fit_that_ends_elsewhere_is_found_out(rng):
    problem = problems.AMBIGUOUS["Square"]()
    events = problem.observed(2000, rng)
    _, facts = zoo.likelihood_fit(problem, events, problem.truth, n_starts=0)
    assert not zoo.is_doubtful(facts) and facts["newton_step"] < 1e-3
    # From a truth that is the maximum of no likelihood, it ends at one far away.
    _, facts = zoo.likelihood_fit(problem, events, (0.4,), n_starts=0)
    assert zoo.is_doubtful(facts)


def test_an_interrupted_zoo_continues(monkeypatch, tmp_path, capsys):
    stub(monkeypatch)
    line = ["zoo.py", "--seeds", "2", "--events", "300", "--problems", "Weibull", "--out", str(tmp_path / "zoo.json")]
    monkeypatch.setattr(sys, "argv", line)
    zoo.main()
    first = capsys.readouterr().out
    assert first.count("Weibull  ") == 2 and '"samples": 2' in first
    monkeypatch.setattr(zoo, "study", None)  # nothing is left to be done
    zoo.main()
    assert '"samples": 2' in capsys.readouterr().out

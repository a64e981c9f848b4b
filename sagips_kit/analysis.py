"""What a run says: estimates, distances to the reference, convergence, events against data.

Every function takes a run (the DataTree of `open_run`) and returns a Dataset, a table or a number; none of them draws
or writes.  Distances are counted in *floor units*: the standard deviations of the maximum-likelihood estimate from the
same events, below which no method can tell parameters apart.
"""

import json

import numpy as np
import xarray as xr

from . import calibration, health, schema


def written(run, group):
    """The chains of `group` that have been written, in memory.

    Parameters
    ----------
    run : DataTree
    group : {"posterior", "posterior_predictive"}

    Returns
    -------
    Dataset (chain, draw, ...)

    Raises
    ------
    ValueError
        If there is none yet.
    """
    # Only chains without any number: one that diverged in a parameter stays, and shows.
    chains = run[group].to_dataset().load().dropna(schema.CHAIN, how="all")
    if not chains.sizes[schema.CHAIN]:
        step, n_steps = int(run[schema.HISTORY][schema.PROGRESS].min()), run.attrs[schema.LAYOUT_KEY]["n_steps"]
        raise ValueError(
            f"No chain has been written yet: the run is at step {step} of {n_steps}. Look at convergence(run) "
            "until it ends, then open the run again."
        )
    return chains


def estimate(run):
    """Estimates of the parameters beside everything they can be compared with.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    Dataset (parameter)
        mean, deviation : over the chains, each taken at the mean of its draws.  Chains learned from different
        resamples, so their deviation is the uncertainty; NaN for a single chain, which knows nothing of its own spread.
        n_chains : their number.
        low, high : central interval of 68 %, by Student's distribution since the chains are few.
        mle, floor : maximum-likelihood estimate and its standard deviation.
        truth, published, published_deviation : where known, else NaN.
        to_mle : (mean - mle) / floor.
        pull : (mean - truth) / deviation.
        published_pull : (mean - published) / deviation of the difference.

    Raises
    ------
    ValueError
        If no chain has been written yet.
    """
    chains = written(run, schema.POSTERIOR).mean(schema.DRAW).to_dataarray(schema.PARAMETER)
    n_chains = chains.sizes[schema.CHAIN]
    mean = chains.mean(schema.CHAIN)
    deviation = chains.std(schema.CHAIN, ddof=1) if n_chains > 1 else np.nan * mean
    half_width = calibration.half_width(deviation, n_chains, 0.6827)
    reference = run[schema.REFERENCE].to_dataset().drop_dims(schema.PARAMETER_2).load()
    result = xr.Dataset(
        {
            "mean": mean,
            "deviation": deviation,
            "n_chains": n_chains,
            "low": mean - half_width,
            "high": mean + half_width,
            "mle": reference["mle"],
            "floor": reference["deviation"],
            **{name: reference[name] for name in ("truth", "published", "published_deviation")},
        }
    )
    result["to_mle"] = (result["mean"] - result["mle"]) / result["floor"]
    result["pull"] = (result["mean"] - result["truth"]) / result["deviation"]
    both = np.hypot(result["deviation"], result["published_deviation"])
    result["published_pull"] = (result["mean"] - result["published"]) / both
    # What xarray carried over describes the operands, such as the unit of one parameter.
    return result.drop_attrs().assign_attrs(
        {schema.UNCERTAINTY_KEY: run[schema.POSTERIOR].attrs[schema.UNCERTAINTY_KEY]}
    )


def distance_to_mle(run):
    """Root mean square over the parameters of (mean - mle) / floor.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    float
        In floor units: below 1 the run is closer to the maximum-likelihood estimate than the events can tell.

    Raises
    ------
    ValueError
        If the run has no likelihood reference, or no chain has been written yet.
    """
    _require_reference(run)
    return float(_rms(estimate(run)["to_mle"]))


def convergence(run):
    """The way of the generators through parameter space.

    Parameters
    ----------
    run : DataTree
        May still be running.

    Returns
    -------
    Dataset (step)
        theta (step, parameter) : mean over ranks and members; NaN at steps that not all ranks have completed.
        deviation (step, parameter) : standard deviation over ranks and members, likewise.
        distance (step,) : of `theta` to the maximum-likelihood estimate, in floor units; NaN without a reference.
        distance_each (rank, member, step) : the same of each generator, as far as it has come.
    """
    history = run[schema.HISTORY]
    each = history["theta"].load().dropna(schema.STEP, how="all")
    # Ranks come and go along the ragged end, and a mean over whoever is there would jump.
    complete = each.where(each[schema.STEP] <= history[schema.PROGRESS].min())
    generators = (schema.RANK, schema.MEMBER)
    theta = complete.mean(generators)
    reference = run[schema.REFERENCE].to_dataset()

    def distance(values):
        return _rms((values - reference["mle"]) / reference["deviation"])

    result = {
        "theta": theta,
        "deviation": complete.std(generators),
        "distance": distance(theta),
        "distance_each": distance(each),
    }
    result = xr.Dataset(result).drop_attrs()
    for name in ("distance", "distance_each"):
        result[name].attrs.update(long_name="RMS distance to the MLE", units="floor units")
    return result


def warnings_of(run):
    """What is wrong with the run now, if the last rows of its history agree on it: list of sentences.

    Parameters
    ----------
    run : DataTree
        May still be running.
    """
    history, reference = run[schema.HISTORY].to_dataset(), run[schema.REFERENCE].to_dataset()
    last = history[schema.STEP] <= history[schema.PROGRESS].min()
    rows = (
        history[["theta", "loss_discriminator"]]
        .sel({schema.STEP: last})
        .isel({schema.STEP: slice(-health.N_ROWS, None)})
    )
    if rows.sizes[schema.STEP] < health.N_ROWS:
        return []
    rows = rows.load().stack(generator=(schema.RANK, schema.MEMBER))
    loss = json.loads(run.attrs[schema.SPEC_KEY]).get("settings", {}).get("loss", "likelihood")
    found = health.complaints(
        rows["theta"].transpose(schema.STEP, "generator", schema.PARAMETER),
        rows["loss_discriminator"].transpose(schema.STEP, "generator"),
        reference["lower"].values,
        reference["upper"].values,
        run.attrs[schema.PARAMETERS_KEY],
        loss,
    )
    return list(found.values())


def observed_and_generated(run, observable, bins=50, by=None):
    """Normalised histograms of the observed and of the generated events.

    Parameters
    ----------
    run : DataTree
    observable : str
    bins : int or ndarray (edge,)
        Number of equal bins over the observed range, or edges.
    by : str or None
        A categorical observable, such as a detector's number: one pair of histograms, each of area 1, for each value.

    Returns
    -------
    Dataset (bin) or (by, bin)
        observed, observed_error : density and its statistical error.
        generated, generated_error : mean density over the chains and its standard deviation among them (NaN for one).
        low, high : edges; the coordinate `bin` is the centre.

    Raises
    ------
    ValueError
        For an unknown observable, a `by` with more than 50 values, or if no chain has been written yet.
    """
    observed = run[schema.OBSERVED].to_dataset().load()
    generated = written(run, schema.PREDICTIVE)
    for name in {observable, by} - {None}:
        if name not in observed:
            raise ValueError(f"The run has no observable {name!r}. Allowed: {', '.join(observed)}.")
    edges = np.histogram_bin_edges(observed[observable], bins)
    if by is None:
        return _compare(observed, generated, observable, edges)
    # Generated events are kept in single precision.
    values = np.unique(observed[by].astype(np.float32))
    if len(values) > 50:
        raise ValueError(f"by={by!r} has {len(values)} values: should be categorical, with 50 at most.")
    parts = [
        _compare(
            observed.where(observed[by].astype(np.float32) == value),
            generated.where(generated[by] == value),
            observable,
            edges,
        )
        for value in values
    ]
    return xr.concat(parts, xr.Variable((by,), values))


def describe(run):
    """What a run is and how far it has come, as text of a few lines.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    str
    """
    facts, layout = run.attrs, run.attrs[schema.LAYOUT_KEY]
    progress = run[schema.HISTORY][schema.PROGRESS].values
    versions = ", ".join(f"{name} {version}" for name, version in facts[schema.VERSIONS_KEY].items())
    exchange = json.loads(facts[schema.SPEC_KEY]).get("exchange", {}).get("type", "unknown")
    rows = {
        "problem": f"{facts[schema.PROBLEM_KEY]}: {', '.join(facts[schema.PARAMETERS_KEY])}",
        "events": f"{run[schema.OBSERVED].sizes[schema.EVENT]} observed: {', '.join(facts[schema.OBSERVABLES_KEY])}",
        "ranks": f"{layout['n_ranks']}, {layout['n_members']} members each, exchange {exchange}",
        "chains": f"{layout['n_replicas'] * layout['n_members']} independent generators",
        "progress": f"step {progress.min()} of {layout['n_steps']}",
        "created": f"{facts[schema.CREATED_KEY]} on {facts[schema.HOSTNAME_KEY]}",
        "versions": versions,
    }
    return "\n".join(f"{name:<10}{text}" for name, text in rows.items())


def summary(run):
    """The estimates as a small table for a notebook.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    pandas.DataFrame
        One row for each parameter; columns estimate, deviation, truth, published, published_deviation, mle, floor and
        distance (to the mle, in floor units), without those that the run does not know.
    """
    names = {"mean": "estimate", "to_mle": "distance"}
    columns = ["mean", "deviation", "truth", "published", "published_deviation", "mle", "floor", "to_mle"]
    return estimate(run)[columns].to_dataframe()[columns].rename(columns=names).dropna(axis="columns", how="all")


def _rms(distances):
    return np.sqrt((distances**2).mean(schema.PARAMETER))


def _require_reference(run):
    if not run[schema.REFERENCE]["mle"].notnull().any():
        raise ValueError(
            "The run has no likelihood reference, so there are no distances in floor units. estimate(run) compares it "
            "with the truth or published values."
        )


def _compare(observed, generated, observable, edges):
    """One pair of histograms; events that are NaN do not count."""
    density, error = _density(observed[observable].values, edges)
    chains = [_density(chain.values, edges)[0] for chain in generated[observable]]
    spread = np.std(chains, axis=0, ddof=1) if len(chains) > 1 else np.full(density.shape, np.nan)
    columns = {
        "observed": density,
        "observed_error": error,
        "generated": np.mean(chains, axis=0),
        "generated_error": spread,
    }
    edge_columns = {"low": edges[:-1], "high": edges[1:]}
    centre = (edges[:-1] + edges[1:]) / 2
    attributes = observed[observable].attrs
    return xr.Dataset(
        {name: ("bin", column) for name, column in columns.items()},
        {"bin": ("bin", centre, attributes), **{name: ("bin", column) for name, column in edge_columns.items()}},
    )


def _density(events, edges):
    """Histogram of area 1 (less what lies outside the edges) and its statistical error."""
    events = events[np.isfinite(events)]
    # All events count in the area: a tail outside the edges must not raise what is inside.
    counts, _ = np.histogram(events, edges)
    area = np.diff(edges) * max(len(events), 1)
    return counts / area, np.sqrt(counts) / area

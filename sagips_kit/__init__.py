"""sagips_kit: inverse problems solved by generative adversarial networks on many ranks.

Names are imported when they are first used, so that opening results needs neither torch nor MPI nor ipyparallel.
"""

import importlib

_HOMES = {
    "connect": "cluster.connect",
    "install_profile": "cluster.profiles",
    "profiles": "cluster.profiles",
    "show_profile": "cluster.profiles",
    "RunSpec": "running.spec",
    "Settings": "training.settings",
    "Observed": "events.observed",
    "Problem": "problems.base",
    "Pipeline": "problems.pipeline",
    "Plane": "problems.samplers",
    "Select": "problems.pipeline",
    "Separate": "problems.samplers",
    "Smear": "problems.pipeline",
    "Proxy": "problems",
    "Proxy2D": "problems",
    "DayaBay": "problems",
    "Image": "problems",
    "Linear": "problems",
    "Octants": "problems",
    "Independent": "exchange",
    "AllReduce": "exchange",
    "Ring": "exchange",
    "Within": "exchange",
    "Leaders": "exchange",
    "Every": "exchange",
    "Chain": "exchange",
    "Hypercube": "exchange",
    "Exponential": "exchange",
    "Trainer": "training.trainer",
    "FlatGradient": "ranks.flat",
    "FlatWeights": "ranks.flat",
    "World": "ranks.world",
    "check_problem": "check",
    "tune_exchange": "running.tune",
    "fit_likelihood": "statistics.likelihood",
    "fisher_information": "statistics.fisher",
    "floor_step": "statistics.fisher",
    "prepare": "running.launch",
    "run": "running.launch",
    "run_rank": "running.launch",
    "open_run": "report.accessor",
    "open_runs": "analysis.collection",
    "list_runs": "analysis.collection",
    "read_progress": "store.status",
    "request_stop": "store.status",
}
_ROOMS = ("analysis", "plot")

__all__ = [*_HOMES, *_ROOMS, "__version__"]


def __getattr__(name):
    if name == "__version__":
        from importlib.metadata import version

        return version("sagips_kit")
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"sagips_kit has no {name!r}. Allowed: {', '.join(__all__)}.")


def __dir__():
    return sorted(__all__)

"""sagips_kit: inverse problems solved by generative adversarial networks on many ranks.

Names are imported when they are first used, so that opening results needs neither torch nor MPI nor ipyparallel.
"""

import importlib

_HOMES = {
    "connect": "cluster",
    "install_profile": "profiles",
    "profiles": "profiles",
    "show_profile": "profiles",
    "RunSpec": "spec",
    "Settings": "settings",
    "Observed": "observed",
    "Problem": "problem",
    "Pipeline": "pipeline",
    "Plane": "samplers",
    "Select": "pipeline",
    "Separate": "samplers",
    "Smear": "pipeline",
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
    "Trainer": "trainer",
    "FlatGradient": "flat",
    "FlatWeights": "flat",
    "World": "world",
    "check_problem": "check",
    "tune_exchange": "tune",
    "fit_likelihood": "likelihood",
    "fisher_information": "features",
    "floor_step": "features",
    "prepare": "launch",
    "run": "launch",
    "run_rank": "launch",
    "open_run": "runs",
    "open_runs": "runs",
    "list_runs": "runs",
    "read_progress": "store",
    "request_stop": "store",
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

"""`run.sagips`: everything that can be asked of a run, as its methods.

Opening a run through this module registers them with xarray.
"""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from .. import analysis, plot
from ..analysis.answer import Verdict
from ..analysis.calibration import LEVELS
from ..analysis.collection import open_runs
from ..analysis.events import AUTO
from ..store import schema
from ..store.reader import open_run
from . import export
from .dashboard import Dashboard
from .html import html_card, html_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ChainsAccessor", "RunAccessor", "open_run", "open_runs"]

M = TypeVar("M", bound=Callable[..., Any])

_FIRST_PARAMETER = re.compile(r"(?<=\nParameters\n----------\n)\w+ : .*\n(?:    .*\n?)*")
_NO_PARAMETERS = re.compile(r"\nParameters\n----------\n(?=\n)")
_EXAMPLES = re.compile(r"\n\nExamples\n--------\n.*", re.DOTALL)


def _documented_as(function: Callable[..., Any]) -> Callable[[M], M]:
    """Give a method the docstring of the function that it calls, without what the method already knows."""

    def with_docstring(method: M) -> M:
        text = _FIRST_PARAMETER.sub("", inspect.getdoc(function) or "")
        method.__doc__ = _EXAMPLES.sub("", _NO_PARAMETERS.sub("", text))
        return method

    return with_docstring


@xr.register_datatree_accessor("sagips")
class RunAccessor:
    """Everything that can be asked of a run, or of several runs side by side, as methods of `run.sagips`.

    Each function of `sagips_kit.analysis` that takes a run is a method of the same name with the same arguments:
    `analysis.convergence(run, n_rows=100)` is `run.sagips.convergence(n_rows=100)`.

    Parameters
    ----------
    run : DataTree
        The run, which `open_run` returned, or several runs of `open_runs`.

    Raises
    ------
    ValueError
        If the DataTree is not a run.

    See Also
    --------
    ChainsAccessor : The same for chains that were taken from a run.
    open_run : Open a run.

    Examples
    --------
    >>> from sagips_kit import open_run
    >>> run = open_run("runs/proxy.zarr")
    >>> run.sagips.state()
    'finished'
    >>> run.sagips.estimate()["mean"].dims
    ('parameter',)
    """

    def __init__(self, run: xr.DataTree) -> None:
        if schema.PARAMETERS_KEY not in run.attrs and schema.ALONG_KEY not in run.attrs:
            raise ValueError("This DataTree is not a run. Open one with open_run(path), several with open_runs.")
        self._run = run

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        if schema.ALONG_KEY in self._run.attrs:
            return f"<pre>{html.escape(self.describe())}</pre>"
        return html_card(self._run)

    @_documented_as(analysis.convergence)
    def convergence(self, n_rows: int | None = 1000) -> xr.Dataset:
        return analysis.convergence(self._run, n_rows)

    @_documented_as(analysis.coverage)
    def coverage(self, levels: Sequence[float] = LEVELS) -> xr.Dataset:
        return analysis.coverage(self._run, levels)

    @_documented_as(analysis.densities)
    def densities(self, observable: str, bins: int | ArrayLike = 50, by: str | None = AUTO) -> xr.Dataset:
        return analysis.densities(self._run, observable, bins, by)

    @_documented_as(analysis.describe)
    def describe(self) -> str:
        return analysis.describe(self._run)

    @_documented_as(analysis.discriminator)
    def discriminator(self, n_bins: int = 40) -> xr.Dataset:
        return analysis.discriminator(self._run, n_bins)

    @_documented_as(analysis.distance_to_fit)
    def distance_to_fit(self) -> float:
        return analysis.distance_to_fit(self._run)

    @_documented_as(analysis.distance_to_mle)
    def distance_to_mle(self) -> float:
        return analysis.distance_to_mle(self._run)

    @_documented_as(analysis.each_run)
    def each_run(self) -> dict[Any, xr.DataTree]:
        return analysis.each_run(self._run)

    @_documented_as(analysis.environment)
    def environment(self) -> pd.Series:
        return analysis.environment(self._run)

    @_documented_as(analysis.estimate)
    def estimate(self) -> xr.Dataset:
        return analysis.estimate(self._run)

    @_documented_as(analysis.evolution)
    def evolution(self) -> xr.Dataset:
        return analysis.evolution(self._run)

    @_documented_as(analysis.fact)
    def fact(self, name: str) -> Any:
        return analysis.fact(self._run, name)

    @_documented_as(analysis.fit)
    def fit(self) -> xr.Dataset:
        return analysis.fit(self._run)

    @_documented_as(analysis.image)
    def image(self) -> xr.Dataset:
        return analysis.image(self._run)

    @_documented_as(analysis.impacts)
    def impacts(self) -> xr.Dataset:
        return analysis.impacts(self._run)

    @_documented_as(analysis.losses)
    def losses(self, n_rows: int | None = 1000) -> xr.Dataset:
        return analysis.losses(self._run, n_rows)

    @_documented_as(analysis.observed_and_generated)
    def observed_and_generated(self, observable: str, bins: int | ArrayLike = 50, by: str | None = AUTO) -> xr.Dataset:
        return analysis.observed_and_generated(self._run, observable, bins, by)

    @_documented_as(analysis.pace)
    def pace(self, after: int = 0) -> xr.Dataset:
        return analysis.pace(self._run, after)

    @_documented_as(analysis.plane)
    def plane(self, x: str, y: str, bins: int | None = None) -> xr.Dataset:
        return analysis.plane(self._run, x, y, bins)

    @_documented_as(analysis.residuals)
    def residuals(self) -> xr.Dataset:
        return analysis.residuals(self._run)

    @_documented_as(analysis.snapshots)
    def snapshots(self) -> xr.Dataset:
        return analysis.snapshots(self._run)

    @_documented_as(analysis.spec)
    def spec(self) -> dict[str, Any]:
        return analysis.spec(self._run)

    @_documented_as(analysis.staleness)
    def staleness(self, n_rows: int | None = 1000) -> xr.Dataset:
        return analysis.staleness(self._run, n_rows)

    @_documented_as(analysis.state)
    def state(self) -> str:
        return analysis.state(self._run)

    @_documented_as(analysis.summary)
    def summary(self) -> pd.DataFrame:
        return analysis.summary(self._run)

    @_documented_as(analysis.timeline)
    def timeline(self, n_bins: int = 200) -> xr.Dataset:
        return analysis.timeline(self._run, n_bins)

    @_documented_as(analysis.verdict)
    def verdict(self) -> Verdict:
        return analysis.verdict(self._run)

    @_documented_as(analysis.warnings_of)
    def warnings_of(self) -> list[str]:
        return analysis.warnings_of(self._run)

    @_documented_as(analysis.written)
    def written(self, group: str) -> xr.Dataset:
        return analysis.written(self._run, group)

    @_documented_as(plot.overview)
    def overview(self, figure: Figure | None = None) -> dict[str, Any]:
        return plot.overview(self._run, figure)

    @_documented_as(html_report)
    def report(self) -> str:
        return html_report(self._run)

    @_documented_as(export.to_arviz)
    def to_arviz(self) -> Any:
        return export.to_arviz(self._run)

    def reopen(self) -> xr.DataTree:
        """Open the run again, with what has been written since.

        Returns
        -------
        DataTree
            The run as it is now.

        Raises
        ------
        ValueError
            If this run does not come from a store, or several runs are given.
        """
        return open_run(self._source("reopen"))

    def dashboard(self, interval_s: float = 1.0) -> Dashboard:
        """Show the run in a notebook while it is running.

        Parameters
        ----------
        interval_s : float
            Time between two updates, s.

        Returns
        -------
        Dashboard
            A widget with the progress, a picture and a button that stops the run.

        Raises
        ------
        ValueError
            If this run does not come from a store, or several runs are given.
        ModuleNotFoundError
            If ipywidgets is not installed.
        """
        return Dashboard(self._source("dashboard"), interval_s)

    def _source(self, name: str) -> Any:
        analysis.single_run(self._run, name)
        if "source" not in self._run.encoding:
            raise ValueError("This run does not come from a store, so it cannot be opened again. Type open_run(path).")
        return self._run.encoding["source"]


@xr.register_dataset_accessor("sagips")
class ChainsAccessor:
    """What can be asked of chains that were taken from a run, or computed from them, as methods of `chains.sagips`.

    Each function of `sagips_kit.analysis` that takes chains is a method without the ending `_of` of its name:
    `analysis.estimate_of(chains)` is `chains.sagips.estimate()`.  To estimate a quantity that is not a parameter,
    compute it with xarray for all draws.

    Parameters
    ----------
    chains : Dataset (chain, draw)
        The posterior of a run, or what was computed from it.

    See Also
    --------
    RunAccessor : The same for a run.

    Examples
    --------
    >>> from sagips_kit import open_run
    >>> chains = open_run("runs/proxy.zarr")["posterior"].to_dataset()
    >>> chains = chains.assign(ratio=chains.theta0 / chains.theta3)
    >>> chains.sagips.summary().index.tolist()[-1]
    'ratio'
    """

    def __init__(self, chains: xr.Dataset) -> None:
        self._chains = chains

    @_documented_as(analysis.estimate_of)
    def estimate(self) -> xr.Dataset:
        return analysis.estimate_of(self._chains)

    @_documented_as(analysis.summary_of)
    def summary(self) -> pd.DataFrame:
        return analysis.summary_of(self._chains)

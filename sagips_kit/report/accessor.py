"""`run.sagips`: all that can be asked of a run, as its methods."""

import xarray as xr

from .. import analysis, plot
from ..analysis.collection import list_runs, open_runs
from ..store import schema
from ..store.reader import open_run
from . import export
from .dashboard import Dashboard
from .html import html_report

__all__ = ["RunAccessor", "list_runs", "open_run", "open_runs"]


@xr.register_datatree_accessor("sagips")
class RunAccessor:
    """What can be asked of a run, or of several, as methods: `run.sagips.summary()`.

    The methods are the functions of `analysis` of the same names; each takes the options of its function.
    """

    def __init__(self, run):
        if schema.PARAMETERS_KEY not in run.attrs and schema.ALONG_KEY not in run.attrs:
            raise ValueError("This DataTree is not a run. Open one with open_run(path), several with open_runs.")
        self._run = run

    def estimate(self):
        """Dataset (parameter): see `analysis.estimate`."""
        return analysis.estimate(self._run)

    def residuals(self):
        """Dataset (reference, parameter): see `analysis.residuals`."""
        return analysis.residuals(self._run)

    def convergence(self, n_rows=1000):
        """Dataset (step): see `analysis.convergence`."""
        return analysis.convergence(self._run, n_rows)

    def coverage(self, levels=(0.68, 0.95)):
        """Dataset (level, parameter): see `analysis.coverage`."""
        return analysis.coverage(self._run, levels)

    def evolution(self):
        """Dataset (parameter, step): see `analysis.evolution`."""
        return analysis.evolution(self._run)

    def discriminator(self, n_bins=40):
        """Dataset (rank, member), (score): see `analysis.discriminator`."""
        return analysis.discriminator(self._run, n_bins)

    def pace(self, after=0):
        """Dataset: see `analysis.pace`."""
        return analysis.pace(self._run, after)

    def summary(self):
        """pandas.DataFrame: see `analysis.summary`."""
        return analysis.summary(self._run)

    def __repr__(self):
        return self.describe()

    def describe(self):
        """str: see `analysis.describe`."""
        return analysis.describe(self._run)

    def spec(self):
        """dict: see `analysis.spec`."""
        return analysis.spec(self._run)

    def environment(self):
        """pandas.Series: see `analysis.environment`."""
        return analysis.environment(self._run)

    def overview(self, figure=None):
        """All pictures on one sheet: see `plot.overview`."""
        return plot.overview(self._run, figure)

    def report(self):
        """The run as an HTML page, str."""
        return html_report(self._run)

    def to_arviz(self):
        """InferenceData or DataTree: see `export.to_arviz`."""
        return export.to_arviz(self._run)

    def reopen(self):
        """The run as it is now, DataTree."""
        return open_run(self._source())

    def dashboard(self, interval_s=2.0):
        """A live view of the run in a notebook: see `Dashboard`."""
        return Dashboard(self._source(), interval_s)

    def _source(self):
        if "source" not in self._run.encoding:
            raise ValueError("This run does not come from a store, so it cannot be opened again. Type open_run(path).")
        return self._run.encoding["source"]


@xr.register_dataset_accessor("sagips")
class ChainsAccessor:
    """What can be asked of chains that were taken from a run, or computed from them: `ds.sagips.estimate()`.

    Whoever wants a quantity that is no parameter computes it with xarray, of all draws:
    `run["posterior"].to_dataset().assign(ratio=lambda ds: ds.theta0 / ds.theta3)`.
    """

    def __init__(self, chains):
        self._chains = chains

    def estimate(self):
        """Dataset (parameter): see `analysis.estimate_of`."""
        return analysis.estimate_of(self._chains)

    def summary(self):
        """pandas.DataFrame: the estimates as a small table."""
        columns = {"mean": "estimate", "deviation": "deviation", "low": "low", "high": "high"}
        return self.estimate()[list(columns)].to_dataframe()[list(columns)].rename(columns=columns)

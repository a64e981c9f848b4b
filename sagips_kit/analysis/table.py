"""The answer of a run as a table, for a notebook and for a paper."""

import html
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import pandas as pd
import xarray as xr

from .._text import concise, counted
from ..store import schema
from ..store.shown import Shown
from ..store.status import RunStatus
from .answer import verdict
from .base import for_each_run, group_of
from .estimates import compared, estimate
from .history import convergence

# Columns of a paper: values, their deviations if they have any, and the heading
_OF_A_PAPER = (
    ("estimate", "deviation", "estimate"),
    ("chains", "spread", "chains"),
    ("mle", "floor", "likelihood fit"),
    ("published", "published_deviation", "published"),
    ("prior", "prior_deviation", "prior"),
    ("truth", None, "truth"),
)


class Summary(pd.DataFrame):
    """A table of estimates that shows the verdict on their run above itself.

    See Also
    --------
    summary : Make such a table.
    """

    _metadata: ClassVar = ["verdict", "shown", "units"]
    verdict: str = ""
    shown: Shown = Shown()
    units: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        # All columns, and no NaN where nothing was published.
        table = self._with_units(self).to_string(max_rows=pd.get_option("display.max_rows"), na_rep="-")
        return f"{self.verdict}\n{table}" if self.verdict else table

    def _repr_html_(self) -> str:
        parts = [
            self._with_units(one).dropna(axis="columns", how="all").to_html(na_rep="-", notebook=True)
            for one in self.folded()
        ]
        if len(parts) > 1:
            parts[1] = f"<details><summary>{self._others()}</summary>{parts[1]}</details>"
        return (f"<p><b>{html.escape(self.verdict)}</b></p>" if self.verdict else "") + "".join(parts)

    def _with_units(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table whose rows are named by the parameters and their units."""
        named = {name: f"{name} [{unit}]" for name, unit in self.units.items()}
        return pd.DataFrame(table).rename(index=named)

    def _others(self) -> str:
        return counted(len(self) - len(self.shown.interest), "other parameter")

    def folded(self) -> list[pd.DataFrame]:
        """The table in one part, or in two: parameters of interest, and the others.

        Returns
        -------
        list of DataFrame
            Tables with the same columns.
        """
        is_first = self.index.isin(self.shown.interest)
        parts = (self[is_first], self[~is_first]) if is_first.any() and not is_first.all() else (self,)
        return [pd.DataFrame(one) for one in parts]

    def rounded(self) -> pd.DataFrame:
        """The table for readers: each value with two digits of its standard deviation in brackets.

        Returns
        -------
        DataFrame
            Texts, with the columns estimate, chains, likelihood fit, published, prior and truth, without those that the
            run does not know.

        Examples
        --------
        >>> from sagips_kit import analysis, open_run
        >>> analysis.summary(open_run("runs/proxy.zarr")).rounded().columns.tolist()
        ['estimate', 'chains', 'likelihood fit', 'truth']
        """
        rows = self.to_dict("records")
        columns = {
            text: ["" if pd.isna(row[value]) else concise(row[value], row.get(error, float("nan"))) for row in rows]
            for value, error, text in _OF_A_PAPER
            if value in self
        }
        return pd.DataFrame(columns, index=self.index)

    def latex(self) -> str:
        """The table for a paper: two digits of each standard deviation in brackets, and symbols of the parameters.

        Returns
        -------
        str
            A `tabular` that needs no package of LaTeX.  The symbols are the problem's `labels`.

        Examples
        --------
        >>> from sagips_kit import analysis, open_run
        >>> print(analysis.summary(open_run("runs/proxy.zarr")).latex().splitlines()[0])
        \\begin{tabular}{lrrrr}
        """
        table = self.rounded()
        rows = [
            [self._symbol(name), *map(_number, row)]
            for name, row in zip(table.index, table.itertuples(index=False), strict=True)
        ]
        lines = [" & ".join(row) + r" \\" for row in [["parameter", *table.columns], *rows]]
        body = [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\hline", lines[0], r"\hline", *lines[1:]]
        return "\n".join([*body, r"\hline", r"\end{tabular}"])

    def _symbol(self, name: object) -> str:
        """A parameter with its unit, as LaTeX."""
        label = self.shown.label(str(name))
        symbol = label if "$" in label else _escaped(label)
        unit = self.units.get(str(name))
        return f"{symbol} [{_escaped(unit)}]" if unit else symbol


def _number(text: str) -> str:
    """A rounded number as LaTeX, a dash if it is unknown."""
    digits, _, power = text.partition("e")
    return "--" if not text else rf"${digits} \times 10^{{{int(power)}}}$" if power else f"${digits}$"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("^", r"\^{}").replace("&", r"\&").replace("#", r"\#")


@for_each_run
def summary(run: xr.DataTree) -> pd.DataFrame:
    """The answer of a run as a small table for a notebook, with the verdict on it above.

    The estimate is that of the fit by the learned score, from all events together, and the chains show whether they
    confirm it.  Where there is no such fit, the estimate is the mean of the chains, and their spread is its deviation.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    pandas.DataFrame
        One row for each parameter (and run), the parameters of interest first.  The columns are estimate, deviation,
        chains and spread (mean and standard deviation of the chains), truth, published, published_deviation, prior,
        prior_deviation, mle, floor (the maximum-likelihood estimate and its standard deviation) and distance, without
        those that the run does not know.  The distance is that of the
        chains from the mle in floor units or, without a likelihood, from the fit in its deviations.

    Raises
    ------
    ValueError
        If no chain has been written yet.

    See Also
    --------
    verdict : Whether the answer may be used.
    estimate : The same and more as a Dataset.
    summary_of : A table of derived quantities.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> table = analysis.summary(open_run("runs/proxy.zarr"))
    >>> list(table.columns)
    ['estimate', 'deviation', 'chains', 'spread', 'truth', 'mle', 'floor', 'distance']
    >>> print(table.latex().splitlines()[4])
    $\\theta_0$ & ...
    """
    return _table(run, estimate(run))


def summary_so_far(run: xr.DataTree) -> pd.DataFrame:
    """The table of `summary`, before the end of a run with the generators as they are at the last row in common.

    Raises
    ------
    ValueError
        If the run has neither a fit nor rows.
    """
    try:
        return _table(run, estimate(run))
    except ValueError:  # no chain has been written yet
        rows = convergence(run, 2)[["theta", "deviation"]].drop_attrs()
        now = rows.isel({schema.STEP: -1}, drop=True) if rows.sizes[schema.STEP] else rows.mean(schema.STEP)
        values = compared(run, now.rename(theta="mean"))
        if not values[["mean", "fit"]].to_array().notnull().any():
            raise ValueError(
                "There is no estimate yet: the run has neither a fit by the learned score nor generators that have "
                f"been trained ({RunStatus.from_run(run)})."
            ) from None
        return _table(run, values)


def _table(run: xr.DataTree, values: xr.Dataset) -> pd.DataFrame:
    """The columns of `summary`, from what `estimate` returns."""
    chains = values.rename(mean="chains", deviation="spread")
    has_fit = bool(values["fit"].notnull().any())
    table = chains.assign(
        estimate=values["fit" if has_fit else "mean"],
        deviation=values["fit_deviation" if has_fit else "deviation"],
        distance=values["to_mle" if values["to_mle"].notnull().any() else "to_fit"],
    )
    columns = ["estimate", "deviation", *(["chains", "spread"] if has_fit else [])]
    columns += ["truth", "published", "published_deviation", "prior", "prior_deviation", "mle", "floor", "distance"]
    shown = Shown.from_attributes(run.attrs)
    rows = table[columns].to_dataframe()[columns].dropna(axis="columns", how="all")
    result = Summary(rows.loc[shown.in_order([*map(str, rows.index)])])
    posterior = group_of(run, schema.POSTERIOR)
    units = {name: unit for name in rows.index if (unit := posterior[name].attrs[schema.UNITS_KEY]) != "1"}
    for name, item in (("verdict", verdict(run).headline), ("shown", shown), ("units", units)):
        object.__setattr__(result, name, item)  # pandas takes a dictionary for a column
    return result

"""The answer of a run as a submission to HEPData, the repository of published numbers of particle physics."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .. import analysis
from ..store import schema
from ..store.contributions import SIMULATION, Contribution, by_group
from .export import new_path, replacing, require_package

if TYPE_CHECKING:
    from collections.abc import Iterator

    import hepdata_lib  # pyright: ignore[reportMissingImports]  (optional: an extra brings it)

_DIGITS = 15  # of numbers in the files; the library's own rounding keeps 6
_UNSEEN = 0.05  # part of a deviation below which the error of simulated events is left out
_ARCHIVE = "submission.tar.gz"


def to_hepdata(run: xr.DataTree, folder: str | os.PathLike[str]) -> Path:
    """Write the estimates of a run, and their covariance, as a submission to HEPData.

    In a terminal, `sagips export STORE --to hepdata` does the same.  The files are checked by HEPData's own validator.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, of which some chain has been written.
    folder : path
        The folder to write; it must not exist.

    Returns
    -------
    Path
        The archive to upload, submission.tar.gz in this folder.  The table of estimates has an error for each group of
        parts of the uncertainty, such as "events" and "priors", if the run has a fit by the learned score; then there
        are tables of covariance and correlation, too.  Descriptions contain the verdict.

    Raises
    ------
    FileExistsError
        If `folder` exists.
    ModuleNotFoundError
        If hepdata_lib is not installed.
    ValueError
        If several runs are given, no chain has been written yet, or the validator refuses the files.

    Warns
    -----
    UserWarning
        If the verdict on the run is not "no fault found".

    See Also
    --------
    sagips_kit.report.export.to_csv : Plain tables.

    References
    ----------
    HEPData: Maguire, Heinrich, Watt, J. Phys. Conf. Ser. 898, 102006 (2017), arXiv 1704.05473.

    Examples
    --------
    >>> import warnings
    >>> from sagips_kit import open_run
    >>> from sagips_kit.report.hepdata import to_hepdata
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # this run is too short
    ...     print(to_hepdata(open_run("runs/proxy.zarr"), "hepdata").name)
    submission.tar.gz
    """
    analysis.single_run(run, "to_hepdata")
    folder, verdict = new_path(folder), analysis.verdict(run)
    values = analysis.summary(run)
    require_package("hepdata_lib")
    if verdict.state != "no fault found":
        warnings.warn(f"The verdict on this run is exported with it: {verdict.headline}", stacklevel=2)
    with _library() as library:
        submission = library.Submission()
        submission.comment = (
            f"Result of {run.attrs[schema.PROBLEM_KEY]}, {schema.layout_of(run.attrs).n_chains} chains."
        )
        for table in _tables(library, run, values, verdict.headline):
            submission.add_table(table)
        with replacing(folder) as partial:
            partial.mkdir(parents=True)
            with contextlib.chdir(partial):
                try:
                    submission.create_files(".")
                except AssertionError as error:
                    raise ValueError(
                        f"HEPData's validator refuses the files: {error}. Its reasons are above."
                    ) from None
    return folder / _ARCHIVE


@contextlib.contextmanager
def _library() -> Iterator[Any]:
    """The library, whose validator uses what other packages have deprecated, and leaves files open."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        import hepdata_lib

        yield hepdata_lib


def _tables(library: Any, run: xr.DataTree, values: Any, verdict: str) -> Iterator[hepdata_lib.Table]:
    """Estimates; and covariance and correlation, if there is a fit."""
    learned = analysis.fit(run)
    names = [str(name) for name in values.index]
    is_fit = learned.attrs["state"] == schema.MADE
    described = "Estimates and standard deviations."
    if is_fit:
        described = "Estimates of the fit by a learned score; the squares of the errors add up to the variance."
    errors = _errors(learned, names) if is_fit else {"total": values["deviation"].to_numpy()}
    units = [_unit(run, name) for name in names]
    table = library.Table("Estimates")
    table.description = f"{described} Verdict: {verdict}"
    table.location = "Result"
    table.add_variable(_variable(library, "parameter", names, is_independent=True))
    if any(units):
        table.add_variable(_variable(library, "unit", units, is_independent=True))
    estimate = _variable(library, "estimate", values["estimate"].to_numpy())
    for label, sizes in errors.items():
        error = library.Uncertainty(label)
        error.values = sizes.tolist()
        estimate.add_uncertainty(error)
    table.add_variable(estimate)
    yield table
    if not is_fit:
        return
    rows, columns = (np.repeat(names, len(names)).tolist(), np.tile(names, len(names)).tolist())
    for name in ("covariance", "correlation"):
        table = library.Table(name.capitalize())
        table.description = f"The {name} of the estimates. Verdict: {verdict}"
        table.location = "Result"
        for label, entries in (("first parameter", rows), ("second parameter", columns)):
            table.add_variable(_variable(library, label, entries, is_independent=True))
        table.add_variable(_variable(library, name, learned[name].values.ravel()))
        yield table


def _errors(learned: xr.Dataset, names: list[str]) -> dict[str, Any]:
    """Errors (parameter,) by the group of parts that they come from, without what nobody would see."""
    contributions = [Contribution.from_dict(one) for one in learned.attrs["contributions"]]
    deviation = learned["deviation"].sel({schema.PARAMETER: names}).values
    groups = by_group(contributions)
    if SIMULATION in groups and (groups[SIMULATION] < _UNSEEN * deviation).all():
        del groups[SIMULATION]
    return groups or {"total": deviation}


def _variable(library: Any, name: str, entries: Any, is_independent: bool = False) -> hepdata_lib.Variable:
    variable = library.Variable(name, is_independent=is_independent, is_binned=False, zero_uncertainties_warning=False)
    variable.digits = _DIGITS
    variable.values = entries if isinstance(entries, list) else np.asarray(entries, float).tolist()
    return variable


def _unit(run: xr.DataTree, name: str) -> str:
    unit = run[schema.POSTERIOR][name].attrs.get(schema.UNITS_KEY, "")
    return "" if unit == schema.DIMENSIONLESS else unit

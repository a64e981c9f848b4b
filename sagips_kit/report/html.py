"""A run as one HTML page to send to a colleague: pictures inside, no scripts, nothing loaded from elsewhere."""

import base64
import html
import io
import json
from collections.abc import Iterable

import xarray as xr
from matplotlib.figure import Figure

from .. import analysis
from ..analysis.answer import Verdict
from ..analysis.fits import reference_of
from ..plot import pictures
from ..plot.base import label
from ..plot.sheet import Picture
from ..store import schema
from ..store.status import RunStatus

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
.lead { color: #555; margin-top: .2rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; }
th:first-child, .facts td { text-align: left; } tbody tr:nth-child(odd) { background: #f4f6f8; }
.figures { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; align-items: start; }
figure { margin: 0; } figure.full { grid-column: 1 / -1; } img { max-width: 100%; } figcaption { color: #555; }
.finding { border-left: 4px solid #d1495b; padding-left: .8rem; }
.missing { background: #f4f6f8; padding: 1rem; color: #555; }
pre { background: #f4f6f8; padding: 1rem; overflow-x: auto; }
@media (max-width: 50rem) { .figures { grid-template-columns: 1fr; } }
"""
_DPI = 110


def html_report(run: xr.DataTree) -> str:
    """Return a run as one HTML page: estimates, pictures, environment and spec.

    The page is complete in itself: pictures are embedded, and it contains neither scripts nor links.  In a terminal
    `sagips report STORE` writes it to a file; `run.sagips.report()` returns it, too.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.  Where it has nothing to show yet, the page says why.

    Returns
    -------
    str
        The text of the page.

    Raises
    ------
    ValueError
        If several runs are given.

    See Also
    --------
    sagips_kit.plot.overview : The pictures of a run on one sheet.
    sagips_kit.report.export.to_netcdf : All numbers of a run in one file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sagips_kit import open_run
    >>> from sagips_kit.report.html import html_report
    >>> page = html_report(open_run("runs/proxy.zarr"))
    >>> page.startswith("<!doctype html>") and "theta0" in page
    True
    >>> _ = Path("proxy.html").write_text(page, encoding="utf-8")
    """
    analysis.single_run(run, "html_report")
    title = f"{run.attrs[schema.PROBLEM_KEY]}: {analysis.fact(run, 'mode') or 'run'}"
    created = run.attrs[schema.CREATED_KEY][:16].replace("T", " ")
    lead = f"{RunStatus.from_run(run)}; created {created} UTC; read from {_source(run)}"
    parts = [
        f"<h1>{_text(title)}</h1><p class=lead>{_text(lead)}</p>",
        *_verdict(analysis.verdict(run)),
        "<h2>Estimates</h2>",
        _estimates(run),
        "<h2>Pictures</h2><div class=figures>",
        *map(_figure, pictures(run)),
        "</div>",
        "<h2>The run</h2>",
        _facts((line[:10], line[10:]) for line in analysis.describe(run).splitlines()),
        "<h2>Environment</h2>",
        _facts((str(name), text) for name, text in analysis.environment(run).items()),
        "<h2>Spec</h2>",
        _spec(run),
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{_text(title)}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _verdict(verdict: Verdict) -> Iterable[str]:
    kind = "finding" if verdict.findings or verdict.doubts else "lead"
    return (f"<p class={kind}>{_text(line)}</p>" for line in str(verdict).splitlines())


def _estimates(run: xr.DataTree) -> str:
    try:
        table = analysis.summary(run).rename(lambda name: label(run, name)).rename_axis(None)
        table = table.to_html(float_format="%.4g", na_rep="", border=0)
        pace = analysis.pace(run)
    except ValueError as error:
        return f"<p class=missing>{_text(error)}</p>"
    notes = [f"Uncertainty: {run[schema.POSTERIOR].attrs[schema.UNCERTAINTY_KEY]}."]
    reference = reference_of(run)
    if reference.name == "mle":
        distance = analysis.distance_to_mle(run)
        notes.append(f"RMS distance to the maximum-likelihood fit of the same events: {distance:.2f} floor units.")
    elif reference.name:
        distance = analysis.distance_to_fit(run)
        notes.append(f"RMS distance to the fit by the learned score: {distance:.2f} of its standard deviations.")
    notes.append(f"Training took {float(pace['duration']):.0f} s, {float(pace['waiting']):.1%} of it spent waiting.")
    return f"<div class=wide>{table}</div><p>{_text(' '.join(notes))}</p>"


def _figure(picture: Picture) -> str:
    figure = Figure(figsize=(picture.width, picture.height), layout="constrained")
    try:
        picture.draw(figure)
    except ValueError as error:
        return f"<p class=missing>{_text(picture.caption)}: {_text(error)}</p>"
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    data = base64.b64encode(file.getvalue()).decode()
    kind = " class=full" if picture.width > 8 else ""
    caption = _text(picture.caption)
    image = f"<img alt='{caption}' src='data:image/png;base64,{data}'>"
    return f"<figure{kind}>{image}<figcaption>{caption}</figcaption></figure>"


def _spec(run: xr.DataTree) -> str:
    """The spec, without its permission to overwrite a run, and the command that starts it again."""
    spec, n_ranks = analysis.spec(run), run.attrs[schema.LAYOUT_KEY]["n_ranks"]
    spec.pop("overwrite", None)
    line = "sagips" if n_ranks == 1 else f"mpiexec -n {n_ranks} python -m mpi4py -m sagips_kit"
    words = f"Save this as spec.json to start the same run again: <code>{line} run spec.json --store ...</code>."
    if "__main__:" in str(spec.get("problem")):
        words += (
            " The class of its problem was defined in a notebook: copy the class into a module in the current folder, "
            "and replace __main__ by the name of that module."
        )
    return f"<p>{words}</p><pre>{_text(json.dumps(spec, indent=2))}</pre>"


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{_text(name)}</td><td>{_text(text)}</td></tr>" for name, text in rows)
    return f"<div class=wide><table class=facts><tbody>{cells}</tbody></table></div>"


def _source(run: xr.DataTree) -> str:
    return str(run.encoding.get("source", "memory"))


def _text(words: object) -> str:
    return html.escape(str(words))

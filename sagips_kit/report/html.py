"""A run as one HTML page to send to a colleague: pictures inside, no scripts, nothing loaded from elsewhere."""

import base64
import html
import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from .. import analysis
from .._text import counted
from ..analysis.answer import DOUBTFUL, NOT_RELIABLE, NOT_TESTED, RELIABLE, Verdict
from ..analysis.fits import reference_of
from ..analysis.table import summary_so_far
from ..plot import pictures
from ..plot.sheet import Picture, missing
from ..store import schema
from ..store.heartbeat import read_pulse
from ..store.location import Location
from ..store.reader import open_run
from ..store.status import RunStatus, read_status
from .progress_line import Snapshot

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #222; --faint: #555; --line: #ccc; --box: #f4f6f8; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
.lead { color: var(--faint); margin-top: .2rem; overflow-wrap: anywhere; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; }
th:first-child, .facts td { text-align: left; } tbody tr:nth-child(odd) { background: var(--box); }
.figures { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; align-items: start;
  grid-auto-flow: dense; }
figure { margin: 0; } figure.full { grid-column: 1 / -1; } figcaption { color: var(--faint); }
img { max-width: 100%; background: #fff; border-radius: 3px; }
.verdict { border-left: 4px solid #8a8d94; padding-left: .8rem; }
.not-reliable { border-color: #d1495b; } .doubtful { border-color: #c98a1b; } .no-fault-found { border-color: #2a7f4f; }
.missing { background: var(--box); padding: 1rem; color: var(--faint); }
pre { background: var(--box); padding: 1rem; overflow-x: auto; } summary { cursor: pointer; margin-top: 1rem; }
summary h2 { display: inline-block; margin: 0; border: 0; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181d; --text: #e4e4e7; --faint: #a8abb3; --line: #444; --box: #22252c; }
}
@media (max-width: 50rem) {
  .figures { grid-template-columns: minmax(0, 1fr); } figure.full { overflow-x: auto; }
  figure.full img { max-width: none; width: 46rem; }
}
@page { size: A4; margin: 15mm; }
@media print {
  :root { --back: #fff; --text: #000; --faint: #444; --line: #999; --box: #f4f6f8; }
  body { font-size: 10pt; margin: 0; padding: 0; max-width: none; }
  figure, table, .verdict, tr { break-inside: avoid; } h2 { break-after: avoid; }
  th, td { padding: .1rem .4rem; font-size: 8.5pt; } .figures { display: block; orphans: 1; widows: 1; }
  figure { display: inline-block; width: 49%; vertical-align: top; margin-bottom: 1rem; }
  figure.full { display: block; width: 100%; } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 7.5pt; }
  .wide { overflow: visible; } figure.full img { max-width: 100%; width: auto; }
  details.later:not([open]) { display: none; }
}
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
    title = _title(run)
    parts = [
        f"<h1>{_text(title)}</h1><p class=lead>{_text(_lead(run))}</p>",
        *_verdict(analysis.verdict(run)),
        "<h2>Estimates</h2>",
        _estimates(run),
        *_pictures(run),
        "<h2>The run</h2>",
        _described(run),
        _later("Environment", _facts((str(name), text) for name, text in analysis.environment(run).items())),
        _later("Spec", _spec(run)),
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{_text(title)}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _title(run: xr.DataTree) -> str:
    """The problem and, where several ranks train it, how."""
    n_ranks, mode = run.attrs[schema.LAYOUT_KEY]["n_ranks"], analysis.fact(run, "mode")
    parts = [run.attrs[schema.PROBLEM_KEY], mode, counted(n_ranks, "rank")] if n_ranks > 1 and mode else []
    return ", ".join(parts) or run.attrs[schema.PROBLEM_KEY]


def _lead(run: xr.DataTree) -> str:
    """How far the run is, since when it exists, and where; before its end, what it does at this moment."""
    status, created = RunStatus.from_run(run), run.attrs[schema.CREATED_KEY][:16].replace("T", " ")
    now = ""
    if not status.has_ended:
        pulse = read_pulse(run.encoding["source"]) if "source" in run.encoding else None
        doing = Snapshot(status, pulse).doing()
        now = f" ({doing} at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC)".replace("( ", "(")
    return f"{status}{now}; created {created} UTC; read from {_source(run)}"


def html_card(run: xr.DataTree) -> str:
    """A run in a notebook: what it is, how far, its verdict, and its estimates or why there are none."""
    title = _title(run)
    first = f"<b>{_text(title)}</b>, {_text(RunStatus.from_run(run))}; {_text(_source(run))}"
    try:
        table = summary_so_far(run)._repr_html_()
    except ValueError as error:
        table = f"<p><b>{_text(analysis.verdict(run).headline)}</b></p><p>{_text(error)}</p>"
    return f"<p>{first}</p>{table}<details><summary>The run</summary>{_described(run)}</details>"


def html_handle(path: Location, words: str) -> str:
    """The handle of a run in a notebook: `words`, a bar of its progress or, when it has ended, its card."""
    try:
        status = read_status(path)
        card = html_card(open_run(path)) if status.has_ended else ""
    except (OSError, ValueError):  # the run was moved or deleted, which the words say
        return f"<code>{_text(words)}</code>"
    bar = "" if card else f"<progress value={status.step} max={status.n_steps}></progress> "
    return f"<p>{bar}<code>{_text(words)}</code></p>{card}"


def _verdict(verdict: Verdict) -> Iterable[str]:
    for line in str(verdict).splitlines():
        state = next(one for one in (NOT_RELIABLE, DOUBTFUL, NOT_TESTED, RELIABLE) if line.startswith(one.upper()))
        yield f"<p class='verdict {state.replace(' ', '-')}'>{_text(line)}</p>"


def _estimates(run: xr.DataTree) -> str:
    try:
        summary = summary_so_far(run)
    except ValueError as error:
        return f"<p class=missing>{_text(error)}</p>"
    texts = summary.rounded()
    parts = [_table(run, texts.loc[one.index]) for one in summary.folded()]
    if len(parts) > 1:
        n_others = counted(len(summary) - len(summary.shown.interest), "other parameter")
        parts[1] = f"<details><summary>{n_others}</summary>{parts[1]}</details>"
    elif summary.shown.image:
        parts[0] = f"<details><summary>{counted(len(summary), 'pixel')}</summary>{parts[0]}</details>"
    return f"{''.join(parts)}<p>{_text(' '.join(_notes(run)))}</p>"


def _notes(run: xr.DataTree) -> list[str]:
    """What is said below the estimates, in sentences."""
    status = RunStatus.from_run(run)
    if missing(run):
        if not status.step:
            return ["The generators have not been trained yet."]
        return [f"The chains are the generators at step {status.step} of {status.n_steps}, and may still move."]
    kind, pace = run[schema.POSTERIOR].attrs[schema.UNCERTAINTY_KEY], analysis.pace(run)
    notes = [
        "Brackets hold the standard deviation, in units of the last digits; that of the chains is their spread "
        f"({kind})."
    ]
    reference = reference_of(run)
    if reference.name == "mle":
        distance = analysis.distance_to_mle(run)
        notes.append(f"RMS distance to the maximum-likelihood fit of the same events: {distance:.2f} floor units.")
    elif reference.name:
        distance = analysis.distance_to_fit(run)
        notes.append(f"RMS distance to the fit by the learned score: {distance:.2f} of its standard deviations.")
    notes.append(f"Training took {float(pace['duration']):.0f} s, {float(pace['waiting']):.1%} of it spent waiting.")
    return notes


def _table(run: xr.DataTree, texts: pd.DataFrame) -> str:
    """Estimates as HTML, names of parameters with their units."""
    posterior = run[schema.POSTERIOR].to_dataset()
    units = {str(name): posterior[name].attrs.get(schema.UNITS_KEY, schema.DIMENSIONLESS) for name in texts.index}
    texts = texts.loc[:, (texts != "").any()].rename_axis(None)
    texts = texts.rename(lambda name: name if units[name] == schema.DIMENSIONLESS else f"{name} [{units[name]}]")
    return f"<div class=wide>{texts.to_html(border=0)}</div>"


def _pictures(run: xr.DataTree) -> Iterable[str]:
    """The pictures that have something to show, and which ones have not."""
    found, later = pictures(run), missing(run)
    if found or later:
        yield "<h2>Pictures</h2>"
    if later:
        yield f"<p class=missing>{_text(later)}</p>"
    yield from ("<div class=figures>", *map(_figure, found), "</div>") if found else ()


def _later(title: str, content: str) -> str:
    """What few readers need, folded."""
    return f"<details class=later><summary><h2>{_text(title)}</h2></summary>{content}</details>"


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


def _described(run: xr.DataTree) -> str:
    """What `describe` says below the verdict."""
    rows = [(line[:10].strip(), line[10:]) for line in analysis.describe(run).splitlines()]
    first = next(k for k, (name, _) in enumerate(rows) if name == "problem")
    return _facts(rows[first:])


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{_text(name)}</td><td>{_text(text)}</td></tr>" for name, text in rows)
    return f"<div class=wide><table class=facts><tbody>{cells}</tbody></table></div>"


def _source(run: xr.DataTree) -> str:
    return str(run.encoding.get("source", "memory"))


def _text(words: object) -> str:
    return html.escape(str(words))

"""A live view of a run in a notebook: progress, verdict, pictures, estimates, and a button that stops and resumes it.

Everything is read from the store, so the view works in any notebook that can read the store, and closing it does not
affect the run.
"""

import html
import io
import math
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from .. import analysis, plot
from .._text import counted, spaced
from ..analysis.answer import DOUBTFUL, NOT_RELIABLE, NOT_TESTED, RELIABLE
from ..analysis.fits import reference_of
from ..analysis.history import of_ranks
from ..analysis.table import summary_so_far
from ..plot.paths import paths
from ..store.heartbeat import read_pulse
from ..store.reader import open_run
from ..store.schema import layout_of
from ..store.status import read_status, stop_soon
from .line import clock
from .progress_line import Follower, Snapshot

if TYPE_CHECKING:
    from zarr.abc.store import Store

_HEIGHT, _WIDTH = 3.8, 4.6  # of a picture, inches
_DPI, _SHARP = 80, 2.0  # dots per inch as shown; pictures have more of them, for screens of high density
_ASKED = "The ranks were asked to stop. "
_MOST_ROWS = 12  # of the table
_COLOURS = {RELIABLE: "#2a7f4f", NOT_TESTED: "#8a8d94", DOUBTFUL: "#c98a1b", NOT_RELIABLE: "#d1495b"}


class Dashboard:
    """A live view of a run in a notebook: progress, verdict, pictures, estimates, and a button that stops it.

    The pictures show the path of each parameter, in standard deviations of the fit, and its spread over the generators;
    the distance of each generator from the fit; and the losses.  Below are the estimates so far and the ranks, folded.
    Let a cell end with the dashboard, or with its `widget`, to display it.  It reads the store at regular intervals
    until the run has ended or the view is closed.

    Parameters
    ----------
    path : path, URL or zarr Store
        The store of the run.
    interval_s : float
        Time between two readings of the store in seconds.
    stop : callable or None
        What the button does, called without arguments; None asks the ranks through the store to stop.
    has_failed : callable or None
        Returns whether a rank has failed, called without arguments; None means that this is not known.
    resume : callable or None
        What the button does when the run has stopped, called without arguments; None leaves it without effect.

    Attributes
    ----------
    widget : ipywidgets.VBox
        The view itself, which can be part of other widgets.

    Raises
    ------
    ModuleNotFoundError
        If ipywidgets is not installed.
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If there is something other than a run at `path`, or a damaged run.

    See Also
    --------
    sagips_kit.report.html.html_report : A run as an HTML page.
    sagips_kit.plot.overview : All pictures of a run on one sheet.

    Examples
    --------
    >>> from sagips_kit.report.dashboard import Dashboard
    >>> dashboard = Dashboard("runs/proxy.zarr")
    >>> dashboard
    Dashboard('runs/proxy.zarr', step 200 of 200, finished)
    >>> dashboard.close()
    """

    def __init__(
        self,
        path: "str | os.PathLike[str] | Store",
        interval_s: float = 1.0,
        stop: Callable[[], object] | None = None,
        has_failed: Callable[[], bool] | None = None,
        resume: Callable[[], object] | None = None,
    ):
        try:
            import ipywidgets
        except ImportError as error:
            text = 'A dashboard needs ipywidgets. Type: pip install "sagips_kit[explore]", then reload the page.'
            raise ModuleNotFoundError(text, name=error.name) from None
        self.path, self.interval_s = path, interval_s
        self._stop = stop or (lambda: stop_soon(path))
        self._has_failed, self._resume = has_failed or (lambda: False), resume
        self._bar = ipywidgets.IntProgress(min=0, layout={"width": "100%"})
        self._facts = ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self._button = ipywidgets.Button(description="Stop the run", button_style="warning")
        self._button.on_click(lambda _: self._click())
        self._verdict, self._table, self._ranks = (ipywidgets.HTML() for _ in range(3))
        top = ipywidgets.HBox([self._bar, self._button])
        ranks = ipywidgets.Accordion([self._ranks], titles=["Ranks"], selected_index=None)
        self.widget = ipywidgets.VBox([self._verdict, top, self._facts, self._image, self._table, ranks])
        self._follower = Follower(path)
        self._drawn: tuple[Any, ...] | None = None  # what the picture shows
        self._answer = ""  # to a request to stop
        # What is read first is shown first, so that the view never goes back.
        self._saying, self._drawing = threading.Lock(), threading.Lock()
        self.refresh()
        self._follow()

    def _follow(self) -> None:
        self._is_over = threading.Event()
        # Two threads: a picture takes longer than what is said should stand still.
        self._threads = [
            threading.Thread(target=self._repeat, args=(act, self._is_over), name="sagips_kit dashboard", daemon=True)
            for act in (self._say, self._draw)
        ]
        for thread in self._threads:
            thread.start()

    def refresh(self) -> bool:
        """Read the store once and show what has changed.

        Returns
        -------
        bool
            Whether the run can still change: it has neither ended nor failed.
        """
        self._draw()
        return self._say()

    def _say(self) -> bool:
        """Show the state of the run; returns whether it can still change."""
        with self._saying:
            now = self._follower.snapshot()
            is_running = not (now.status.has_ended or self._has_failed())
            self._bar.max, self._bar.value = now.status.n_steps, now.step
            can_resume = now.status.state == "stopped" and self._resume is not None
            self._button.description = "Resume the run" if can_resume else "Stop the run"
            self._button.disabled = not (is_running or can_resume)
            self._button.layout.visibility = "hidden" if self._button.disabled else "visible"
            self._facts.value = self._words(now)
        return is_running

    def _draw(self) -> bool:
        """Show pictures, tables and the verdict, if they have changed; returns whether they can still change."""
        with self._drawing:
            status, pulse = read_status(self.path), read_pulse(self.path)
            if self._drawn != (now := (status.steps.tolist(), status.state, pulse and pulse.phase)):
                run = open_run(self.path)
                self._verdict.value = _verdict(run, status.has_ended)
                self._table.value, self._ranks.value = _table(run), _html(of_ranks(run))
                self._image.value, width = _picture(run)
                self._image.layout.width = f"{width}px"
                self._drawn = now
        return not (status.has_ended or self._has_failed())

    def stop(self) -> None:
        """Ask the ranks to stop cleanly, as the button does; what is shown says at which step."""
        self._try(self._stop, _ASKED)

    def resume(self) -> None:
        """Continue a run that has stopped, as the button does then.

        Raises
        ------
        RuntimeError
            If the run has not stopped; or if this view cannot resume runs, since no session knows it:
            `session.resume(path)` does.
        """
        if self._resume is None:
            raise RuntimeError(f"This view has no engines. Type session.resume({str(self.path)!r}).")
        if not (read_status(self.path).has_ended or self._has_failed()):
            raise RuntimeError(f"{self.path} has not stopped: {read_status(self.path)}. Type .stop() before.")
        self._button.disabled = True  # until the run is there again: a second click would stop it
        self._end_threads()  # of the attempt that has ended
        self._try(self._resume, "")
        self._follow()

    def _click(self) -> None:
        has_stopped = read_status(self.path).state == "stopped" and self._resume is not None
        (self.resume if has_stopped else self.stop)()

    def _try(self, act: Callable[[], object], answer: str) -> None:
        try:
            act()
            self._answer = answer
        except (ValueError, OSError, RuntimeError) as error:
            self._answer = f"{error} "
        self.refresh()

    def close(self) -> None:
        """End the live view; the run continues."""
        self._end_threads()

    def _end_threads(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _repeat(self, act: Callable[[], bool], is_over: threading.Event) -> None:
        """Call `act` at regular intervals while the run can change."""
        is_running = True
        while is_running and not is_over.wait(self.interval_s):
            try:
                is_running = act()
            except (ValueError, OSError) as error:
                # A store may be unavailable for a moment: try again.
                self._facts.value = f"<b>The store cannot be read:</b> {html.escape(str(error))}"

    def _words(self, now: Snapshot) -> str:
        """The state of the run as a line of HTML."""
        status, has_failed = now.status, self._has_failed() and not now.status.has_ended
        state = "failed" if has_failed else now.doing() or status.state
        words = f"<b>{html.escape(state)}</b>"
        words += f": step {spaced(now.step)} of {spaced(status.n_steps)}, {clock(now.elapsed_s)}"
        if status.stop_step < status.n_steps and not status.has_ended:
            words += f", stops at step {spaced(status.stop_step)}"
        if status.steps.max() > now.step:
            words += f", the fastest rank is at {spaced(int(status.steps.max()))}"
        if not (math.isnan(now.rate) or has_failed or status.has_ended):
            words += f"; {now.rate:.3g} steps/s"
            words += "" if math.isnan(now.left_s) else f", about {clock(now.left_s)} left"
        if not math.isnan(now.waited):
            words += f"; {now.waited:.1%} of the time was spent waiting"
        # A view whose kernel was restarted stands still, with this time.
        last = "" if status.has_ended or has_failed else f" <small>(as of {time.strftime('%H:%M:%S')})</small>"
        answer = "" if status.has_ended and self._answer == _ASKED else self._answer
        return f"{words}. {html.escape(answer)}{last}"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        return f"Dashboard({str(self.path)!r}, {read_status(self.path)})"


def _verdict(run: xr.DataTree, has_ended: bool) -> str:
    """The verdict as HTML; before the end, only if something speaks against the answer."""
    verdict = analysis.verdict(run)
    if not (has_ended or verdict.findings or verdict.doubts):
        return ""
    style = f"border-left: 4px solid {_COLOURS[verdict.state]}; padding-left: .6em; line-height: 1.4"
    return f"<div style='{style}'><b>{html.escape(verdict.headline)}</b></div>"


def _table(run: xr.DataTree) -> str:
    """The estimates as HTML, those of interest only if the problem names them."""
    try:
        summary = summary_so_far(run)
    except ValueError:  # there is nothing yet, as the line above the picture says
        return ""
    shown = summary.rounded().loc[summary.folded()[0].index].head(_MOST_ROWS)
    n_others = len(summary) - len(shown)
    others = f"<small>{counted(n_others, 'other parameter')} not shown</small>" if n_others else ""
    return _html(shown.rename_axis(None)) + others


def _html(table: pd.DataFrame) -> str:
    text = table.to_html(border=0, na_rep="", float_format="{:.3g}".format)
    return f"<div class='jp-RenderedHTMLCommon'>{text}</div>"


def _picture(run: xr.DataTree) -> tuple[bytes, int]:
    """What there is to see of the training, as PNG, and its width in pixels."""
    n_panels = 3 if reference_of(run).name else 2
    figure = Figure(figsize=(n_panels * _WIDTH, _HEIGHT), layout="constrained")
    draws = (paths, plot.convergence, plot.losses) if n_panels == 3 else (paths, plot.losses)
    try:
        for ax, draw in zip(figure.subplots(1, n_panels), draws, strict=True):
            draw(run, ax=ax)
    except ValueError:  # no row has been written yet
        words = f"The first pictures come with the rows of step {layout_of(run.attrs).block_steps}."
        figure = Figure(figsize=(n_panels * _WIDTH, 0.5), layout="constrained")
        figure.text(0.02, 0.5, words, ha="left", va="center", color="0.4")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_SHARP * _DPI)
    return image.getvalue(), round(n_panels * _WIDTH * _DPI)

"""A run while it goes on, in a notebook: how far it is, how close, and a button that ends it.

All it knows comes from the store, so it works from any notebook that can read the store, and losing it changes nothing
for the run.
"""

import html
import io
import threading

from matplotlib.figure import Figure

from .. import analysis, plot
from .._text import spaced
from ..store import reader, status

_DPI = 90


class Dashboard:
    """A live view of a run; display it, or its `.widget`, in a notebook.

    Parameters
    ----------
    path : path, URL or zarr Store
    interval : float
        Seconds between two looks at the store.
    stop : callable or None
        Called without arguments by the button; None asks the ranks to stop through the store.
    failed : callable or None
        Tells whether a rank has failed, for whoever knows.

    Raises
    ------
    ModuleNotFoundError
        If ipywidgets is not installed.
    """

    def __init__(self, path, interval=2.0, stop=None, failed=None):
        try:
            import ipywidgets
        except ImportError as error:
            text = 'A dashboard needs ipywidgets. Type: pip install "sagips_kit[explore]", and reload the page.'
            raise ModuleNotFoundError(text, name=error.name) from None
        self.path, self.interval = path, interval
        self._stop = stop or (lambda: status.stop_soon(path))
        self._failed = failed or (lambda: False)
        self._bar = ipywidgets.IntProgress(min=0, layout={"width": "100%"})
        self._facts = ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self._button = ipywidgets.Button(description="Stop the run", button_style="warning")
        self._button.on_click(lambda _: self.stop())
        top = ipywidgets.HBox([self._bar, self._button])
        self.widget = ipywidgets.VBox([top, self._facts, self._image])
        self._seen = None
        self._asked = ""
        self._is_closed = threading.Event()
        self.refresh()
        self._thread = threading.Thread(target=self._follow, name="sagips_kit dashboard", daemon=True)
        self._thread.start()

    def refresh(self):
        """Look at the store once; returns whether the run can still go on."""
        progress = status.read_status(self.path)
        total = progress.stop_step
        goes_on = not (progress.has_ended or self._failed())
        self._bar.max, self._bar.value = total, progress.step
        self._button.disabled = not goes_on
        if self._seen != progress.steps.tolist():
            run = reader.open_run(self.path)
            self._draw(run)
            self._seen = progress.steps.tolist()
            self._pace = analysis.pace(run) if progress.steps.any() else None
        self._facts.value = self._words(progress, total)
        return goes_on

    def stop(self):
        """Ask the ranks to end cleanly, as the button does."""
        try:
            self._stop()
            self._asked = "The ranks were asked to stop. "
        except (ValueError, OSError) as error:
            self._asked = f"{error} "
        self.refresh()

    def close(self):
        """End the live view; the run goes on."""
        self._is_closed.set()
        self._thread.join(timeout=10)

    def _follow(self):
        goes_on = True
        while goes_on and not self._is_closed.wait(self.interval):
            try:
                goes_on = self.refresh()
            except (ValueError, OSError) as error:
                # A store may be away for a moment, and the view shall outlive that.
                self._facts.value = f"<b>The store cannot be read:</b> {html.escape(str(error))}"

    def _words(self, progress, total):
        is_failed = self._failed() and not progress.has_ended
        state = "failed" if is_failed else progress.state
        words = f"<b>{state}</b>: step {spaced(progress.step)} of {spaced(total)}"
        if progress.steps.max() > progress.step:
            words += f", the fastest rank at {spaced(int(progress.steps.max()))}"
        if self._pace is not None and not (is_failed or progress.has_ended) and float(self._pace["step_rate"]) > 0:
            rate = float(self._pace["step_rate"])
            words += f"; {rate:.3g} steps/s, about {(total - progress.step) / rate:.0f} s left"
        if self._pace is not None:
            words += f"; {float(self._pace['waiting']):.1%} of the time spent waiting"
        return f"{words}. {html.escape(self._asked)}"

    def _draw(self, run):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        try:
            plot.convergence(run, ax=left)
        except ValueError:
            left.set_axis_off()
        plot.losses(run, ax=right)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=_DPI)
        self._image.value = image.getvalue()

    def _repr_mimebundle_(self, **options):
        return self.widget._repr_mimebundle_(**options)

    def __repr__(self):
        steps = "no steps" if self._seen is None else f"step {min(self._seen)}"
        return f"Dashboard({str(self.path)!r}, {steps})"

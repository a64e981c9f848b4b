"""A notebook as a batch job: the script that runs it by papermill on the compute node, with engines beside it.

The engines of that job are started by the profile `allocation`, with the same command as those of the given profile.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._text import allowed, listed
from . import profiles
from .jobs import Job, passed_environment

_ALLOCATION = ("threads", "affinity", "interface", "cores_per_rank")


@dataclass(frozen=True)
class Batch:
    """A job script that has been written.

    Attributes
    ----------
    job : Job
        The options of the job.
    path : Path
        The script.
    outputs : Path
        Path of the executed notebook, the store and the log, without extension; {id} stands for the number of the job.
    store : str or None
        Path of the notebook's run, also with {id}; None if the notebook has no parameter `store`.
    """

    job: Job
    path: Path
    outputs: Path
    store: str | None

    @property
    def submit_line(self) -> str:
        """The command that submits the script."""
        return shlex.join([*self.job.submit_command, str(self.path)])

    def submit(self) -> str:
        """Submit the script; returns the job's id."""
        return self.job.submit(self.path)


def write_batch(
    notebook: str | os.PathLike[str],
    profile: str,
    parameters: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] = "runs",
    **options: Any,
) -> Batch:
    """Write the job script that runs a notebook on a cluster.

    Parameters
    ----------
    notebook : path
        A notebook with a cell tagged `parameters` that sets `profile` and `n`, and perhaps `store`.
    profile : str
        A profile that submits jobs.
    parameters : dict of str
        Other values for the notebook's parameters.
    folder : path
        Folder for the script, the executed notebook, the store and the log.
    **options : str or int
        Options of the profile for this job.

    Returns
    -------
    Batch
        The script that was written; `.submit()` submits it.

    Raises
    ------
    ValueError
        If the profile submits no jobs, an option is unknown, wrong or missing, or the notebook does not have these
        parameters.
    FileNotFoundError
        If there is no such notebook.
    """
    notebook, folder = Path(notebook), Path(folder).absolute()
    given = {str(name): text for name, text in (parameters or {}).items()}
    known = _parameters(notebook, given)
    found = profiles.find(profile).with_options(**options)
    if not found.is_job:
        jobs = (name for name in profiles.profiles() if profiles.find(name).is_job)
        raise ValueError(f"Profile {profile!r} submits no jobs. Allowed: {listed(jobs)}.")
    job = found.placement()
    assert isinstance(job, Job)  # as is_job says
    n = _n_ranks(given.get("n", known["n"]))
    outputs = folder / f"{notebook.stem}-{{id}}"
    store = given.get("store", f"{outputs}.zarr" if "store" in known else None)
    body = _body(job, n, notebook, folder, given, "store" in known)
    text = job.script(n, body, f"sagips-{notebook.stem}", f"{outputs}.log", passed_environment())
    path = folder / f"{notebook.stem}-{profile}.sh"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o700)
    return Batch(job, path, outputs, store)


def _parameters(notebook: Path, given: Mapping[str, Any]) -> dict[str, str]:
    """The notebook's parameters with their defaults, as text; ValueError if others are given."""
    try:
        import papermill
    except ImportError:
        raise ImportError('Notebooks are executed by papermill. Type `pip install "sagips_kit[notebooks]"`.') from None
    if not notebook.is_file():
        raise FileNotFoundError(f"There is no notebook `{notebook}`. Current folder: {Path.cwd()}")
    found = papermill.inspect_notebook(str(notebook))
    known = {name: entry["default"] for name, entry in found.items()}
    for name in ("profile", "n"):
        if name not in known:
            raise ValueError(
                f"`{notebook}` has no parameter {name!r}. Set {name} in its first cell, and give the cell the tag "
                "`parameters`."
            )
    for name in given:
        if name not in known or name == "profile":
            raise ValueError(
                f"`{notebook}` takes no parameter {name!r}. {allowed(name, sorted({*known} - {'profile'}))}"
            )
    return known


def _n_ranks(text: str) -> int:
    if not str(text).isdecimal() or int(text) < 1:
        raise ValueError(f"n = {text}: should be the number of ranks, 1 or more. Type -p n 4.")
    return int(text)


def _body(job: Job, n: int, notebook: Path, folder: Path, given: Mapping[str, Any], has_store: bool) -> Sequence[str]:
    """The shell commands that run the notebook, in the folder in which this command was typed."""
    python, here = shlex.quote(sys.executable), shlex.quote(str(Path.cwd()))
    run = f"{shlex.quote(f'{folder}/{notebook.stem}-')}{job.id_variable}"
    ranks = {"mpiexec": job.mpiexec, "ranks_per_node": job.sizes(n)["ranks_per_node"]}
    ranks |= {name: getattr(job, name) for name in _ALLOCATION}
    options = shlex.join(word for name, setting in ranks.items() for word in (f"--{name}", str(setting)))
    words = shlex.join(word for name, text in given.items() if name != "n" for word in ("-p", name, str(text)))
    store = ' -p store "$run.zarr"' if has_store and "store" not in given else ""
    return [
        f"cd {here}",
        f"run={run}",
        "# Connection files of this job alone, in a folder that all its nodes see.",
        'export IPYTHONDIR="$run.ipython" IPP_NONINTERACTIVE=1',
        f"{python} -m sagips_kit profiles install allocation {options} || exit",
        f'{python} -m papermill --no-progress-bar {shlex.quote(str(notebook))} "$run.ipynb" -p profile allocation'
        f" -p n {n}{store} {words}".rstrip(),
        "status=$?",
        'rm -rf "$IPYTHONDIR"',
        "exit $status",
    ]

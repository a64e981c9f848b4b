"""A notebook as a batch job: the script that runs it by papermill on the compute node, with engines beside it.

The engines of that job are started by the profile `allocation`, with the same command as those of the given profile.
"""

import ast
import json
import math
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

_WORDS = {bool: "True or False", int: "a number", float: "a number", list: "a list", tuple: "a list", dict: "a dict"}
_KINDS: dict[type, tuple[type, ...]] = {
    int: (int, float),
    float: (float,),
    list: (list, tuple),
    tuple: (list, tuple),
    dict: (dict,),
}
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
    parameters : dict
        Other values for the notebook's parameters; texts are converted to the types of the values in the notebook.
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
        If the profile submits no jobs, an option is unknown, wrong or missing, the file is no notebook, its kernel is
        not installed, or it does not have these parameters.
    FileNotFoundError
        If there is no such notebook.
    """
    notebook, folder = Path(notebook), Path(folder).absolute()
    known = _parameters(notebook)
    given = {str(name): _typed(notebook, known, str(name), text) for name, text in (parameters or {}).items()}
    _check_kernel(notebook)
    found = profiles.find(profile).with_options(**options)
    if not found.is_job:
        jobs = (name for name in profiles.profiles() if profiles.find(name).is_job)
        raise ValueError(f"Profile {profile!r} submits no jobs. Allowed: {listed(jobs)}.")
    job = found.placement()
    assert isinstance(job, Job)  # as is_job says
    n = int(given.get("n", known["n"]))
    if n < 1:
        raise ValueError(f"n = {n}: should be a number of ranks, 1 or more.")
    outputs = folder / f"{notebook.stem}-{{id}}"
    store = given.get("store", f"{outputs}.zarr" if "store" in known else None)
    body = _body(job, n, notebook, folder, given, "store" in known)
    log = f"{outputs}.log"
    text = job.script(n, body, f"sagips-{notebook.stem}", log, passed_environment(), reruns=True)
    path = folder / f"{notebook.stem}-{profile}.sh"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o700)
    return Batch(job, path, outputs, store)


def _parameters(notebook: Path) -> dict[str, str]:
    """The notebook's parameters with their defaults, as text; ValueError if it is none, or lacks the mandatory ones."""
    try:
        import papermill
    except ImportError:
        raise ImportError('Notebooks are executed by papermill. Type `pip install "sagips_kit[notebooks]"`.') from None
    if not notebook.is_file():
        raise FileNotFoundError(f"There is no notebook `{notebook}`. Current folder: {Path.cwd()}")
    try:
        found = papermill.inspect_notebook(str(notebook))
    except Exception as error:
        raise ValueError(
            f"`{notebook}` is not a Jupyter notebook (.ipynb): {type(error).__name__}: {_first_line(error)}"
        ) from None
    known = {name: entry["default"] for name, entry in found.items()}
    for name in ("profile", "n"):
        if name not in known:
            raise ValueError(
                f"`{notebook}` has no parameter {name!r}. Set {name} in its first cell, and give the cell the tag "
                "`parameters`."
            )
    return known


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _check_kernel(notebook: Path) -> None:
    """Raise ValueError if the notebook's kernel is not installed here."""
    from jupyter_client.kernelspec import KernelSpecManager

    kernel = json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("kernelspec", {}).get("name")
    kernels = sorted(KernelSpecManager().find_kernel_specs())
    if kernel not in kernels:
        raise ValueError(
            f"`{notebook}` asks for the kernel {kernel!r}, which is not installed. Allowed: {listed(kernels)}. Open "
            "and save the notebook with one of them, or type "
            f"`{shlex.quote(sys.executable)} -m ipykernel install --user --name {kernel or 'python3'}`."
        )


def _typed(notebook: Path, known: Mapping[str, str], name: str, given: Any) -> Any:
    """The value of a parameter, of the type that it has in the notebook; ValueError if it has none like it."""
    if name not in known or name == "profile":
        raise ValueError(f"`{notebook}` takes no parameter {name!r}. {allowed(name, sorted({*known} - {'profile'}))}")
    default = _literal(known[name], None)
    if not isinstance(given, str) or isinstance(default, str):
        return given
    value = _literal({"true": "True", "false": "False"}.get(given.lower(), given), given)
    if isinstance(default, float) and isinstance(value, int):
        value = float(value)
    if isinstance(default, int) and isinstance(value, float) and value.is_integer():
        value = int(value)
    kinds = [bool] if isinstance(default, bool) else _KINDS.get(type(default))
    if kinds and type(value) not in kinds:
        raise ValueError(f"{name} = {given!r}: should be {_WORDS[type(default)]}, like {known[name]} in `{notebook}`.")
    return value


def _literal(text: str, other: Any) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return other


def _words_of(name: str, value: Any) -> list[str]:
    """The words by which papermill is given a parameter, so that it has the same value there."""
    if isinstance(value, str):
        return ["-r", name, value]
    if isinstance(value, bool | int | float | None):
        return ["-p", name, str(value)]
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    return ["-y", yaml.safe_dump({name: plain}, default_flow_style=True, width=math.inf, allow_unicode=True).strip()]


def _body(job: Job, n: int, notebook: Path, folder: Path, given: Mapping[str, Any], has_store: bool) -> Sequence[str]:
    """The shell commands that run the notebook, in the folder in which this command was typed."""
    python, here = shlex.quote(sys.executable), shlex.quote(str(Path.cwd()))
    run = f"{shlex.quote(f'{folder}/{notebook.stem}-')}{job.id_variable}"
    ranks = {"mpiexec": job.mpiexec, "ranks_per_node": job.sizes(n)["ranks_per_node"]}
    ranks |= {name: getattr(job, name) for name in _ALLOCATION}
    options = shlex.join(word for name, setting in ranks.items() for word in (f"--{name}", str(setting)))
    words = shlex.join(word for name, value in given.items() if name != "n" for word in _words_of(name, value))
    clear = f"{job.everywhere(n)} {python} -m sagips_kit engines --clear".strip()
    store = ' -p store "$run.zarr"' if has_store and "store" not in given else ""
    return [
        f"cd {here}",
        f"run={run}",
        "# A job that runs again continues the runs of its first attempt, and removes the shared memory that its ranks",
        "# have left, which MPI, whose names for it contain the number of the job, would take for its own.",
        f'[ -e "$run.ipynb" ] && export SAGIPS_RESTARTS=1 && {clear}',
        f"export PYTHONPATH={shlex.quote(str(notebook.absolute().parent))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "# Connection files of this job alone, in a folder that all its nodes see.",
        'export IPYTHONDIR="$run.ipython" IPP_NONINTERACTIVE=1',
        f"{python} -m sagips_kit profiles install allocation {options} || exit",
        f'{python} -m papermill --no-progress-bar {shlex.quote(str(notebook))} "$run.ipynb" -p profile allocation'
        f" -p n {n}{store} {words}".rstrip(),
        "status=$?",
        'rm -rf "$IPYTHONDIR"',
        "# Kernels say that they were interrupted when they are shut down, so this comes last.",
        'echo "The notebook has ended with exit status $status: $run.ipynb"',
        "exit $status",
    ]

"""Profiles: IPython folders that say how engines are started; to list, install and show them with their options.

`ipcluster_config.py` explains each option and holds the profile's own value, `ipcluster_config.json` beside it the
options that the user has given.  traitlets merges the two, and the JSON file wins.  The options are those of `jobs`;
the engines are started in `engines`.
"""

import ast
import copy
import hashlib
import inspect
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import allowed, did_you_mean, guesses, listed
from .jobs import EXAMPLES, PBS, Job, Placement, Slurm, parsed

if TYPE_CHECKING:
    from traitlets.config import Config

CONFIG, GIVEN = "ipcluster_config.py", "ipcluster_config.json"
_SHARED = "shared"
_MANIFEST = ".sagips_kit.json"  # digests of the kit's files, as they were installed
KINDS: dict[str, type[Placement]] = {"AllocationEngines": Placement, "PBSEngines": PBS, "SlurmEngines": Slurm}


def profiles() -> list[str]:
    """The names of the kit's profiles.

    Returns
    -------
    list of str
        Names for `connect`, `install_profile` and `show_profile`, in alphabetical order.

    See Also
    --------
    install_profile : Install a profile, with the options of your account and site.
    show_profile : Print what starts the engines of a profile.

    Examples
    --------
    >>> from sagips_kit import profiles
    >>> profiles()
    ['allocation', 'aurora', 'frontier', 'ifarm', 'local', 'pbs', 'perlmutter', 'polaris', 'slurm']
    """
    return sorted(config.parent.name for config in _source().glob(f"*/{CONFIG}"))


def install_profile(name: str, overwrite: bool = False, **options: Any) -> Path:
    """Copy a profile of the kit to `$IPYTHONDIR/profile_<name>`, where `connect` and `ipcluster` find it.

    The Python files are copied as they are; the options go into `ipcluster_config.json` beside them, which has
    priority.  You may edit all of them.  A later installation keeps the files that you have edited, and the options
    that it does not name.

    Parameters
    ----------
    name : str
        One of `profiles()`.
    overwrite : bool
        Replace all files by the kit's, also those that you have edited, and forget earlier options.
    **options : str or int
        Options of the profile, such as walltime="01:00:00"; `ipcluster_config.py` explains each of them.

    Returns
    -------
    Path
        The folder of the installed profile.

    Raises
    ------
    ValueError
        If the kit has no such profile, or the profile has no such option.
    FileExistsError
        If the kit has a newer version of a file that you have edited, or the file comes from elsewhere.  Nothing is
        written.

    See Also
    --------
    show_profile : Print what starts the engines of a profile.
    connect : Start the engines.

    Examples
    --------
    >>> from sagips_kit import install_profile, show_profile
    >>> folder = install_profile("slurm", walltime="01:00:00", queue="gpu")
    >>> print((folder / "ipcluster_config.json").read_text())
    {
      "SlurmEngines": {
        "options": {
          "walltime": "01:00:00",
          "queue": "gpu"
        }
      }
    }
    >>> "#SBATCH --partition=gpu" in show_profile("slurm", n=8).splitlines()
    True
    """
    if name not in profiles():
        raise ValueError(f"The kit has no profile {name!r}. {allowed(name, profiles())}")
    folder = installed(name)
    files = {path.name: path.read_text() for kind in (_SHARED, name) for path in (_source() / kind).glob("*.py")}
    profile = _read(name, _source() / name)
    options = {option: profile.checked(option, given) for option, given in options.items()}
    given = {} if overwrite else _read_json(folder / GIVEN)
    known = _read_json(folder / _MANIFEST)
    states = {file: _state(folder / file, text, known.get(file)) for file, text in files.items()}
    changed = [file for file, state in states.items() if state == "conflict"]
    if changed and not overwrite:
        raise FileExistsError(
            f"{folder} contains files that differ from the kit's: {', '.join(changed)}. Nothing was written. Replace "
            f"them by install_profile({name!r}, overwrite=True) or `sagips profiles install {name} --overwrite`, and "
            "edit them again if you need to."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        if overwrite or states[file] == "old":
            (folder / file).write_text(text)
    (folder / _MANIFEST).write_text(json.dumps({file: _digest(text) for file, text in files.items()}, indent=2))
    if options and profile.section:
        section = given.setdefault(profile.section, {})
        section["options"] = section.get("options", {}) | options
        (folder / GIVEN).write_text(json.dumps(given, indent=2))
    elif overwrite:
        (folder / GIVEN).unlink(missing_ok=True)
    return folder


def show_profile(name: str, n: int = 4, **options: Any) -> str:
    """What starts n engines: the exact job script, or the command line where no job is submitted.

    Nothing is submitted or started.

    Parameters
    ----------
    name : str
        One of `profiles()`, or an IPython profile of your own.
    n : int
        Number of engines, each of them one MPI rank.
    **options : str or int
        Options of the profile for this time, such as walltime="01:00:00"; they are not kept.

    Returns
    -------
    str
        The text of the job script, or the command line.

    Raises
    ------
    ValueError
        If there is no such profile, if it has no such option, or if a mandatory option is missing.

    See Also
    --------
    install_profile : Keep the options.
    connect : Start the engines.

    Examples
    --------
    >>> from sagips_kit import show_profile
    >>> print(show_profile("perlmutter", n=8, account="physics_g", walltime="00:30:00"))
    #!/bin/bash -l
    #SBATCH --job-name=sagips
    #SBATCH --account=physics_g
    #SBATCH --qos=regular
    #SBATCH --constraint=gpu
    #SBATCH --time=00:30:00
    #SBATCH --nodes=2
    #SBATCH --ntasks=8
    ...
    """
    import ipyparallel

    profile = find(name).with_options(**options)
    profile.placement()
    folder = str(installed(name))
    cluster = ipyparallel.Cluster(load_profile=False, config=profile.config, profile_dir=folder, cluster_id="")
    launcher: Any = cluster.engine_launcher_class(parent=cluster, profile_dir=folder, cluster_id="")
    if profile.section:
        return launcher.script(n)
    launcher.n = n
    return f"{shlex.join(launcher.args)}\n"


@dataclass(frozen=True, eq=False)
class Profile:
    """A profile as it would be used now.

    Attributes
    ----------
    name : str
        Its name.
    folder : Path
        The folder with its files.
    config : traitlets.config.Config
        What its `ipcluster_config.py` and `ipcluster_config.json` say together.
    """

    name: str
    folder: Path
    config: "Config"

    @property
    def section(self) -> str | None:
        """Name of the kit's launcher that starts the engines, which is its section in the config; None for others."""
        launcher = str(self.config.Cluster.get("engine_launcher_class", "")).rpartition(".")[2]
        return launcher if launcher in KINDS else None

    @property
    def kind(self) -> type[Placement] | None:
        """The class of `jobs` that has the options of this profile; None if it has none."""
        return KINDS[self.section] if self.section else None

    @property
    def is_job(self) -> bool:
        """Whether the engines are started as a job of a scheduler."""
        return self.kind is not None and issubclass(self.kind, Job)

    @property
    def options(self) -> dict[str, Any]:
        """The profile's own options, overridden by those that the user has given."""
        section = self.config[self.section] if self.section else {}
        return dict(section.get("defaults", {})) | dict(section.get("options", {}))

    def with_options(self, **options: Any) -> "Profile":
        """This profile with other options."""
        given = {name: self.checked(name, given) for name, given in options.items()}
        config = copy.deepcopy(self.config)
        if self.section and given:
            config[self.section].options = dict(config[self.section].get("options", {})) | given
        return replace(self, config=config)

    def checked(self, name: str, given: Any) -> Any:
        """The value of an option, validated; a text becomes a number where the option is one."""
        options = inspect.signature(self.kind).parameters if self.kind else {}
        if self.kind is None or name not in options:
            raise ValueError(f"Profile {self.name!r} has no option {name!r}. {allowed(name, options)}")
        setting = parsed(self.kind, name, given)
        self.kind(**{name: setting})
        return setting

    def placement(self) -> Placement | None:
        """The options as a complete value of `jobs`; None if the profile has none.

        Raises
        ------
        ValueError
            If an option in the profile's files is wrong, or a mandatory one has not been given.
        """
        if self.kind is None:
            return None
        if self.missing:
            named = ", ".join(f'{name}="{EXAMPLES.get(name, "...")}"' for name in self.missing)
            raise ValueError(
                f"Profile {self.name!r} needs {', '.join(self.missing)}. Type `{self.install_line}`, or pass "
                f"connect({self.name!r}, ..., {named}). Empty text leaves an option out of the job script."
            )
        return self._complete()

    def _complete(self) -> Placement:
        assert self.kind is not None  # checked by both callers
        try:
            return self.kind(**self.options)
        except ValueError as error:
            raise ValueError(f"{error} The options of profile {self.name!r} are in {self.folder}.") from None

    @property
    def missing(self) -> list[str]:
        """Names of mandatory options that have not been given."""
        return self._complete().missing() if self.kind else []

    @property
    def install_line(self) -> str:
        """The command that installs this profile with all options that are missing."""
        words = (f"--{name} {EXAMPLES.get(name, '...')}" for name in self.missing)
        return " ".join(["sagips profiles install", self.name, *words])


def find(name: str) -> Profile:
    """The installed profile of this name, or else the kit's.

    Raises
    ------
    ValueError
        If there is none.
    """
    for folder in (installed(name), _source() / name):
        if (folder / CONFIG).exists():
            return _read(name, folder)
    ready = profiles()
    guess = guesses(name, ready)
    raise ValueError(
        f"No profile {name!r}: the kit brings {listed(ready)}, and {installed(name)} has no {CONFIG}. "
        f"{did_you_mean(name, ready)}Type connect({(guess or ['local'])[0]!r})."
    )


def installed(name: str) -> Path:
    """The folder in which IPython looks for a profile."""
    from IPython.paths import get_ipython_dir

    return Path(get_ipython_dir()) / f"profile_{name}"


def is_installed(name: str) -> bool:
    """Whether IPython finds a profile."""
    return (installed(name) / CONFIG).exists()


def describe(name: str) -> str:
    """The first line of the docstring of a kit's profile, without the name."""
    text = ast.get_docstring(ast.parse((_source() / name / CONFIG).read_text())) or ""
    return text.partition("\n")[0].partition(": ")[2]


def _source() -> Path:
    package = Path(__file__).parents[1]
    for folder in (package / "cluster_profiles", package.parent / "cluster_profiles"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"No cluster_profiles in or beside {package}. Type `pip install sagips_kit`.")


def _read(name: str, folder: Path) -> Profile:
    """Both files of a profile, merged as traitlets does it for ipcluster."""
    from traitlets.config.loader import Config, PyFileConfigLoader

    config = PyFileConfigLoader(CONFIG, path=str(folder)).load_config()
    config.merge(Config(_read_json(folder / GIVEN)))
    return Profile(name, folder, config)


def _read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON: {error}. Correct it, or delete it to start again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} should contain one JSON object. Correct it, or delete it to start again.")
    return content


def _state(path: Path, text: str, known: str | None) -> str:
    """What an installation does with one file whose text in the kit is `text`, and whose digest was once `known`.

    Returns
    -------
    {"same", "old", "edited", "conflict"}
        Nothing to do; replace it, or write it for the first time; keep the user's edits; the user and the kit have both
        changed it, or it comes from elsewhere.
    """
    found = _digest(path.read_text()) if path.exists() else None
    if found == _digest(text):
        return "same"  # and not written again: engines of another cluster may be reading it
    if found in (None, known):
        return "old"
    return "edited" if known == _digest(text) else "conflict"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

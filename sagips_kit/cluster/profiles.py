"""Profiles: IPython folders that say how engines are started; to list, install and show them with their options.

What the options mean is in `jobs`, each with its default in a profile's `ipcluster_config.py`; who starts the engines
is in `cluster`.
"""

import difflib
import hashlib
import inspect
import json
import re
import shlex
import shutil
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from .jobs import EXAMPLES, PBS, Job, Ranks, Slurm, parsed

CONFIG = "ipcluster_config.py"
_SHARED = "shared"
_MANIFEST = ".sagips_kit.json"
KINDS = {"AllocationEngines": Ranks, "PBSEngines": PBS, "SlurmEngines": Slurm}


def profiles():
    """Names of the profiles that the kit brings."""
    return sorted(config.parent.name for config in _source().glob(f"*/{CONFIG}"))


def install_profile(name, overwrite=False, **options):
    """Copy a profile of the kit to `$IPYTHONDIR/profile_<name>`, where `ipcluster start --profile=<name>` finds it.

    Parameters
    ----------
    name : str
        One of `profiles()`.
    overwrite : bool
        Start again from the kit's files, even if they were changed since they were installed.
    **options
        Written into the installed `ipcluster_config.py`, which explains each of them; options given at an earlier
        installation stay.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the kit has no such profile, or the profile no such option.
    FileExistsError
        If the installed files were changed, or come from elsewhere; nothing is written.
    """
    if name not in profiles():
        raise ValueError(f"The kit has no profile {name!r}. Allowed: {', '.join(profiles())}.")
    folder = installed(name)
    manifest = _manifest(folder)
    given = options if overwrite else manifest["options"] | options
    profile = _read(name, _source() / name)
    given = {option: profile.checked(option, text) for option, text in given.items()}
    files = {path.name: path.read_text() for path in (_source() / _SHARED).glob("*.py")}
    files |= {path.name: path.read_text() for path in (_source() / name).glob("*.py")}
    for option, setting in given.items():
        files[CONFIG] = _with_option(files[CONFIG], option, setting)
    changed = [file for file, text in files.items() if _is_changed(folder / file, text, manifest["files"])]
    if changed and not overwrite:
        raise FileExistsError(
            f"{folder} holds changed files: {', '.join(changed)}. They are kept: change them by hand again, or replace "
            f"them with the kit's by install_profile({name!r}, overwrite=True) or `sagips profiles install {name} "
            "--overwrite`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    digests = {file: _digest(text) for file, text in files.items()}
    files[_MANIFEST] = json.dumps({"files": digests, "options": given}, indent=2)
    for file, text in files.items():
        # Engines of another cluster may be reading it.
        if not (folder / file).exists() or (folder / file).read_text() != text:
            (folder / file).write_text(text)
    return folder


def show_profile(name, n=4, **options):
    """What starts n engines: the exact job script, or the command line where no job is submitted.

    Raises
    ------
    ValueError
        If there is no such profile, or a mandatory option is missing.
    """
    import ipyparallel

    profile = find(name).with_options(**options)
    profile.ranks()
    cluster = ipyparallel.Cluster(
        load_profile=False, config=profile.config, profile_dir=str(installed(name)), cluster_id=""
    )
    launcher = cluster.engine_launcher_class(parent=cluster, profile_dir=str(installed(name)), cluster_id="")
    if profile.section:
        return launcher.script(n)
    launcher.n = n
    return f"{shlex.join(launcher.args)}\n"


@dataclass(frozen=True)
class Profile:
    """A profile as it would be used now.

    Attributes
    ----------
    name : str
    folder : Path
    config : traitlets.config.Config
    """

    name: str
    folder: Path
    config: object

    @property
    def section(self):
        """The launcher of the kit that starts the engines, as it is called in the config; None for any other."""
        launcher = str(self.config.Cluster.get("engine_launcher_class", "")).rpartition(".")[2]
        return launcher if launcher in KINDS else None

    @property
    def kind(self):
        return KINDS.get(self.section)

    @property
    def is_job(self):
        return self.kind is not None and issubclass(self.kind, Job)

    @property
    def options(self):
        return dict(self.config[self.section].options) if self.section else {}

    def with_options(self, **options):
        """This profile with other options."""
        given = {name: self.checked(name, text) for name, text in options.items()}
        config = self.config.copy()
        if self.section:
            config[self.section].options = self.options | given
        if "interface" in given:
            config.Cluster.controller_ip, config.Cluster.controller_location = controller_address(given["interface"])
        return replace(self, config=config)

    def checked(self, name, text):
        """The value of an option; texts become numbers where the option is one."""
        if name not in self.options:
            guess = difflib.get_close_matches(name, self.options, n=1)
            hint = f" Did you mean {guess[0]}?" if guess else ""
            raise ValueError(
                f"Profile {self.name!r} has no option {name!r}.{hint} Allowed: {', '.join(self.options) or 'none'}."
            )
        setting = parsed(self.kind, name, text)
        self.kind(**{name: setting})
        return setting

    def ranks(self):
        """The options as a value of `jobs`, complete; None if the profile has none.

        Raises
        ------
        ValueError
            If a mandatory option has not been given.
        """
        if not self.section:
            return None
        ranks = self.kind(**self.options)
        if self.missing:
            named = ", ".join(f'{name}="{EXAMPLES.get(name, "...")}"' for name in self.missing)
            raise ValueError(
                f"Profile {self.name!r} needs {', '.join(self.missing)}. Type `{self.install_line}`, or give "
                f"connect({self.name!r}, ..., {named}). Empty text leaves a line out of the job script."
            )
        return ranks

    @property
    def missing(self):
        """Names of mandatory options that have not been given: list of str."""
        return self.kind(**self.options).missing() if self.section else []

    @property
    def install_line(self):
        """The command that installs this profile with all that is missing."""
        words = (f"--{name} {EXAMPLES.get(name, '...')}" for name in self.missing)
        return " ".join(["sagips profiles install", self.name, *words])


def find(name):
    """The installed profile of this name, or else the kit's.

    Raises
    ------
    ValueError
        If there is none.
    """
    for folder in (installed(name), _source() / name):
        if (folder / CONFIG).exists():
            return _read(name, folder)
    raise ValueError(
        f"No profile {name!r}: the kit brings {', '.join(profiles())}, and {installed(name)} does not hold a {CONFIG}. "
        "Type connect('local')."
    )


def installed(name):
    """The folder in which IPython looks for a profile."""
    from IPython.paths import get_ipython_dir

    return Path(get_ipython_dir()) / f"profile_{name}"


def is_installed(name):
    """Whether IPython finds a profile."""
    return (installed(name) / CONFIG).exists()


def controller_address(interface):
    """Where the controller listens, and where engines look for it; called by the profiles.

    Parameters
    ----------
    interface : str
        A network of this host, such as "hsn0"; where there is none of this name, all networks and the host's name.

    Returns
    -------
    str, str
    """
    for address in psutil.net_if_addrs().get(interface, []):
        if address.family == socket.AF_INET:
            return address.address, address.address
    return "*", socket.gethostname()


def mpiexec_beside_python():
    """The mpiexec that belongs to the running Python's mpi4py, or else the one on PATH; called by the profiles."""
    beside = Path(sys.executable).with_name("mpiexec")
    return shlex.quote(str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec")


def describe(name):
    """The first line of a profile's text, without the name."""
    text = inspect.cleandoc(re.match(r'"""(.*?)"""', (_source() / name / CONFIG).read_text(), re.DOTALL)[1])
    return text.partition("\n")[0].partition(": ")[2]


def _source():
    package = Path(__file__).parents[1]
    for folder in (package / "cluster_profiles", package.parent / "cluster_profiles"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"No cluster_profiles in or beside {package}. Type `pip install sagips_kit`.")


def _read(name, folder):
    from traitlets.config import PyFileConfigLoader

    return Profile(name, folder, PyFileConfigLoader(CONFIG, path=str(folder)).load_config())


def _with_option(text, name, setting):
    """The text of a profile with another default of one option, at the place where it is explained."""
    line = re.compile(rf'^    "{name}": .*,$', flags=re.MULTILINE)
    if len(line.findall(text)) != 1:
        raise ValueError(f"The profile has no line for {name!r}.")
    return line.sub(lambda _: f'    "{name}": {json.dumps(setting) if setting is not None else None},', text)


def _manifest(folder):
    file = folder / _MANIFEST
    return {"files": {}, "options": {}} | (json.loads(file.read_text()) if file.exists() else {})


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def _is_changed(path, text, known):
    return path.exists() and _digest(path.read_text()) not in (known.get(path.name), _digest(text))

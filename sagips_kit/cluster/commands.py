"""The commands `sagips profiles`, `sagips batch` and `sagips engines`: their arguments, and what they print.

They belong to `cli`, which imports this module to list them; what they do is imported when they are called.
"""

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clusters import Cluster

Options = argparse.Namespace
Adder = Callable[..., argparse.ArgumentParser]


def add_commands(commands: Any, add: Adder) -> None:
    """Add the three commands to a parser; `add` adds one of them."""
    _add_profiles(commands, add)
    _add_batch(commands, add)
    _add_engines(commands, add)


def _add_profiles(commands: Any, add: Adder) -> None:
    text = "list, install or show profiles: how engines are started on this machine or a cluster"
    parser = commands.add_parser("profiles", help=text, description=f"{text[0].upper()}{text[1:]}.")
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    add(actions, "list", _list_profiles, "list all profiles")
    own = "Options of the profile follow its name, for instance --account PROJECT --walltime 01:00:00."
    text = "copy a profile to the folder where ipcluster and connect() look for it"
    install = add(actions, "install", _install_profile, text, allow_abbrev=False, epilog=f"{own} They are stored.")
    install.add_argument("name", help="name of the profile; `sagips profiles list` shows all")
    text = "replace files that have been edited, and forget options that were given earlier"
    install.add_argument("--overwrite", action="store_true", help=text)
    text = "print the job script of a profile; nothing is submitted"
    show = add(actions, "show", _show_profile, text, allow_abbrev=False, epilog=f"{own} They are not stored.")
    show.add_argument("name", help="name of the profile; `sagips profiles list` shows all")
    show.add_argument("-n", type=int, default=4, help="number of engines (default: 4)")
    for action in (install, show):
        action.set_defaults(settings={})


def _add_batch(commands: Any, add: Adder) -> None:
    text = "write the job script that runs a notebook on a cluster"
    own = "Options of the profile follow, for instance --walltime 01:00:00; they are not stored."
    batch = add(commands, "batch", _batch, text, allow_abbrev=False, epilog=own)
    batch.add_argument("notebook", help="notebook with a cell that is tagged `parameters`")
    batch.add_argument("--profile", required=True, help="a profile that submits jobs; `sagips profiles list` shows all")
    text = "value of a parameter of the notebook, where n is the number of ranks; may be repeated"
    pair = ("NAME", "VALUE")
    batch.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=pair, help=text)
    text = "folder for the script, the executed notebook, the store and the log (default: runs)"
    batch.add_argument("--folder", default="runs", help=text)
    batch.add_argument("--submit", action="store_true", help="submit the job, too")
    batch.set_defaults(settings={})


def _add_engines(commands: Any, add: Adder) -> None:
    text = "list the engines that you have started, from notebooks or terminals, and end what is no longer needed"
    engines = add(commands, "engines", _engines, text)
    text = "end these engines and their controller, by the names in the list; a run is lost after its last checkpoint"
    engines.add_argument("--end", nargs="+", default=[], metavar="NAME", help=text)
    text = "remove the files of engines that have ended, and shared memory of this node that killed programs have left"
    engines.add_argument("--clear", action="store_true", help=text)


def _list_profiles(options: Options) -> None:
    from . import profiles

    for name in profiles.profiles():
        state = f"installed in {profiles.installed(name)}" if profiles.is_installed(name) else "not installed"
        print(f"{name:12}{profiles.describe(name)}\n{'':12}{state}")


def _install_profile(options: Options) -> None:
    from . import profiles

    folder = profiles.install_profile(options.name, options.overwrite, **options.settings)
    print(f"{folder}: {profiles.CONFIG} explains each option, {profiles.GIVEN} contains those that you gave")
    profile = profiles.find(options.name)
    if profile.missing:
        print(f"Options that are still missing: {', '.join(profile.missing)}. Type `{profile.install_line}`.")


def _show_profile(options: Options) -> None:
    from .profiles import show_profile

    print(show_profile(options.name, options.n, **options.settings), end="")


def _batch(options: Options) -> None:
    from .notebook_job import write_batch

    parameters = dict(options.parameter)
    batch = write_batch(options.notebook, options.profile, parameters, options.folder, **options.settings)
    print(f"script    {batch.path}")
    if not options.submit:
        print(f"submit    {batch.submit_line}")
        return
    job_id = batch.submit()
    files = {"notebook": f"{batch.outputs}.ipynb", "store": batch.store, "log": f"{batch.outputs}.log"}
    print(f"job       {job_id}")
    for name, path in files.items():
        if path:
            print(f"{name:10}{path.replace('{id}', re.split('[.;]', job_id)[0])}")


def _engines(options: Options) -> None:
    from .._text import counted
    from ..ranks import segments
    from .clusters import clusters, named

    for name in options.end:
        named(name).end()
        print(f"{name} ended")
    for cluster in filter(lambda one: options.clear and one.is_over, clusters()):
        cluster.end()
        print(f"{cluster.name} ({cluster.words}): files removed")
    lost = segments.clear() if options.clear else segments.unused()
    if not (options.end or options.clear):
        _list_engines(clusters())
    if lost:
        size, what = f"{sum(one.n_bytes for one in lost) / 1e6:.0f} MB", counted(len(lost), "file")
        advice = "removed" if options.clear else "`sagips engines --clear` removes them"
        print(f"{what} of killed programs in {segments.SHARED}, {size}: {advice}")
    elif options.clear:
        print(f"nothing of killed programs in {segments.SHARED}")


def _list_engines(found: list["Cluster"]) -> None:
    if not found:
        print("There are no engines.")
        return
    rows = [("name", "profile", "engines", "started by", "state")]
    rows += [(one.name, one.profile, str(one.n), one.origin, one.words) for one in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    print("`sagips engines --end NAME` ends them, `sagips engines --clear` removes what has ended.")

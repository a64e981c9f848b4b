"""The command `sagips`, for terminals and batch jobs.

Each command does what a Python name does.  Words and options are the same, with dashes instead of underscores:

=================================  =====================================================================
command                            Python
=================================  =====================================================================
sagips spec PROBLEM                RunSpec(problem=..., exchange=..., store=...).to_json()
sagips check SPEC                  check_problem(spec.problem, ...)
sagips fit SPEC                    fit(spec.problem, ...)
sagips run SPEC                    run(spec, resume=...)
sagips tune SPEC                   session.tune(spec, trial_s), tune_exchange(world, ..., trial_s)
sagips list [FOLDER]               list_runs(folder)
sagips describe STORE              run.sagips.describe(), run.sagips.summary()
sagips verify STORE                verify(path)
sagips report STORE                run.sagips.report()
sagips export STORE --to FORMAT    to_netcdf(run, path), to_csv(run, folder), to_hepdata(run, folder), ...
sagips profiles list               profiles()
sagips profiles install NAME       install_profile(name, overwrite, ...)
sagips profiles show NAME          show_profile(name, n, ...)
sagips batch NOTEBOOK              write_batch(notebook, profile, parameters, folder, ...)
sagips engines                     clusters(), cluster.end(), segments.clear()
=================================  =====================================================================

SPEC is the JSON file of `RunSpec.from_file`, and STORE is what `open_run` opens.  How these things are done belongs to
the packages that do them; here are only arguments and printed text.
"""

import argparse
import dataclasses
import json
import math
import os
import select
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cluster.commands import add_commands

if TYPE_CHECKING:
    from .running.spec import RunSpec
    from .statistics.fit import ScoreFit
    from .statistics.toys import Toys

Options = argparse.Namespace

_NO_READER = 128 + 13  # as the shell reports a program that SIGPIPE has ended
_KNOWN_OPTIONS = ("--help", "--profile", "--parameter", "--folder", "--submit", "--overwrite")  # of batch and profiles
_SPEC = "JSON file of the run; `sagips spec` prints one"
_STORE = "folder or URL of the run"


def main(arguments: list[str] | None = None) -> int:
    """Run the command `sagips`.

    Parameters
    ----------
    arguments : list of str or None
        Arguments of the command; None takes those of this process.

    Returns
    -------
    int
        Exit status: 0, 1 if `sagips check`, `fit` or `verify` finds something wrong, 2 after an error, 130 after an
        interruption, 141 if nobody reads the output any more.
    """
    try:
        try:
            return _main(arguments)
        finally:  # here, not when Python ends; also after --help, which raises SystemExit
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())  # for what is still in the buffer
        return _NO_READER


def _main(arguments: list[str] | None) -> int:
    parser = _parser()
    words, own = _own_options(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(words)
    if (own or rest) and not hasattr(options, "settings"):
        parser.error(f"unrecognized arguments: {' '.join([*own, *rest])}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for the module of a problem; last, so that it hides no other module
    try:
        if own or rest:
            options.settings = _settings([*own, *rest])
        return options.command(options) or 0
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, MemoryError, ArithmeticError) as error:
        if isinstance(error, BrokenPipeError) and not _has_reader():
            raise
        # A rank that ends because another rank failed is silent, since the other one reports the cause.
        if type(error).__name__ != "PeerError" or getattr(error, "rank", None) is None:
            from ._text import printable

            print(f"sagips: {printable(error) or type(error).__name__}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("sagips: interrupted; what has been written to the store is kept.", file=sys.stderr)
        return 130


def _has_reader() -> bool:
    """Whether somebody still reads the output of this process."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return not poll.poll(0)  # an error of the file is always reported


def _parser() -> argparse.ArgumentParser:
    description = (
        "Solve inverse problems with generative adversarial networks on many ranks. `sagips COMMAND --help` explains "
        "the options of a command."
    )
    parser = argparse.ArgumentParser(prog="sagips", description=description)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_training(commands)
    _add_reading(commands)
    add_commands(commands, _add)
    return parser


def _add(commands: Any, name: str, function: Any, text: str, **options: Any) -> argparse.ArgumentParser:
    """A sub-command, whose `text` is its line in the list of commands and the beginning of its own help."""
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **options)
    parser.set_defaults(command=function)
    return parser


def _add_training(commands: Any) -> None:
    spec = _add(commands, "spec", _spec, "print the JSON spec of a run, to be saved and edited for `sagips run`")
    spec.add_argument("problem", help="a ready problem such as Proxy, or your own as module:Class")
    names = "Ring (default), AllReduce, Independent, ...; edit the file to combine several"
    spec.add_argument("--exchange", default="Ring", help=names)
    spec.add_argument("--store", required=True, help="folder or URL of the run, such as runs/proxy.zarr")
    check = _add(commands, "check", _check, "check the problem and the observed events of a spec before training")
    check.add_argument("spec", help=_SPEC)
    text = "fit the observed events of a spec by a learned score, in seconds and without a likelihood"
    ends = "The exit status is 1 if the fit finds reasons not to use its estimate, and 2 if it cannot be made."
    fit = _add(commands, "fit", _fit, text, epilog=ends)
    fit.add_argument("spec", help=_SPEC)
    fit.add_argument("--json", action="store_true", help="print the fit as JSON, with its covariance")
    for name, text in (
        ("--start", "values of all parameters that are not fixed, near which the answer is looked for"),
        ("--fixed", "parameters that keep their values"),
    ):
        fit.add_argument(name, nargs="+", type=_assignment, metavar="NAME=VALUE", help=text)
    fit.add_argument("--toys", type=_n_toys, metavar="N", help="also test the intervals on N simulated data sets")
    run = _add(commands, "run", _run, "train the run of a spec; under mpiexec, on all of its ranks")
    run.add_argument("spec", help=_SPEC)
    run.add_argument("--store", help="write to this folder or URL instead of the one in the spec")
    run.add_argument("--overwrite", action="store_true", help="delete a run that is already in the store")
    run.add_argument("--resume", action="store_true", help="continue the run if it has been started, or start it")
    tune = _add(commands, "tune", _tune, "compare how fast the modes of exchange are on the ranks of this mpiexec")
    tune.add_argument("spec", help=_SPEC)
    tune.add_argument("--trial-s", type=float, default=2.0, metavar="SECONDS", help="time for each mode (default: 2)")


def _add_reading(commands: Any) -> None:
    """Commands that only read stores; they need neither torch nor MPI."""
    runs = _add(commands, "list", _list, "list the runs in a folder and its subfolders")
    runs.add_argument("folder", nargs="?", default=".", help="the folder (default: the current one)")
    describe = _add(commands, "describe", _describe, "print what a run is, how far it is, and its estimates")
    describe.add_argument("store", help=_STORE)
    verify = _add(commands, "verify", _verify, "test every file of a run, and say which are damaged or lost")
    verify.add_argument("store", help=_STORE)
    report = _add(commands, "report", _report, "write a run as one HTML page with all pictures")
    report.add_argument("store", help=_STORE)
    report.add_argument("--output", help="file to write (default: the name of the store with the ending .html)")
    export = _add(commands, "export", _export, "write a run as netCDF, as tables of text, or as a timeline")
    export.add_argument("store", help=_STORE)
    formats = "netcdf: one file; csv: a folder of tables; trace: a timeline for ui.perfetto.dev; hepdata: a submission"
    export.add_argument("--to", choices=["netcdf", "csv", "trace", "hepdata"], required=True, help=formats)
    export.add_argument("--output", help="file or folder to write (default: named like the store)")


def _own_options(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of a command without the options of a profile, and these options, which may stand anywhere."""
    if words[:1] not in (["batch"], ["profiles"]):
        return words, []
    rest, own, left = [], [], list(words)
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        if not name.startswith("--") or name in _KNOWN_OPTIONS:
            rest.append(word)
            continue
        own += [word] if equals or not left else [word, left.pop(0)]
    return rest, own


def _settings(words: Iterable[str]) -> dict[str, str]:
    """Options of a profile by name, from `--name value` or `--name=value`."""
    settings, words = {}, list(words)
    while words:
        name, equals, text = words.pop(0).partition("=")
        if not name.startswith("--") or not (equals or words):
            raise ValueError(f"{name!r}: options of a profile are written as --name value. Empty text, '', removes it.")
        settings[name.removeprefix("--").replace("-", "_")] = text if equals else words.pop(0)
    return settings


def _spec(options: Options) -> None:
    from .running.spec import RunSpec

    given = {"problem": {"type": options.problem}, "exchange": {"type": options.exchange}, "store": options.store}
    print(RunSpec.from_dict(given).to_json(), end="")


def _read_spec(path: str) -> "RunSpec":
    """The spec in a file, after printing which modules it imports, whose code is then executed."""
    from ._text import printable
    from .ranks.launcher import rank_of_launcher
    from .running.spec import RunSpec, modules_of

    for module in filter(lambda one: rank_of_launcher() == 0 and one not in sys.modules, modules_of(path)):
        print(f"sagips: the spec imports the module {printable(module)}", file=sys.stderr, flush=True)
    return RunSpec.from_file(path)


def _check(options: Options) -> int:
    from .check.suite import check_problem
    from .running.launch import observed_events

    spec = _read_spec(options.spec)
    events = observed_events(spec)[0] if spec.events is not None else None
    report = check_problem(spec.problem, events, spec.n_observed, spec.seed)
    print(report)
    return 0 if report.is_ok else 1


def _fit(options: Options) -> int:
    from ._text import counted, listed, spaced
    from .report.line import working
    from .running.launch import observed_events
    from .statistics.fit import fit

    spec = _read_spec(options.spec)
    events, source = observed_events(spec)
    print(f"{spaced(len(events))} events ({listed(spec.problem.observables)}) from {source}", file=sys.stderr)
    with working(f"fitting {counted(len(spec.problem.parameters), 'parameter')} by the learned score"):
        start, fixed = (given and dict(given) for given in (options.start, options.fixed))
        result = fit(spec.problem, events, start=start, fixed=fixed, seed=spec.seed)
    toys = None
    if options.toys is not None:
        with working(f"fitting {counted(options.toys, 'simulated data set')}"):
            toys = result.toys(options.toys)
    print(_json_of(result, toys) if options.json else "\n\n".join(str(one) for one in (result, toys) if one))
    return 1 if result.findings else 0


def _assignment(text: str) -> tuple[str, float]:
    """Name and value of NAME=VALUE."""
    name, equals, value = text.partition("=")
    try:
        return name, float(value if equals else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} should be NAME=VALUE, such as theta0=1.5") from None


def _n_toys(text: str) -> int:
    """A number of data sets."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of data sets, 2 or more, such as 1000")
    return int(text)


def _json_of(fit: "ScoreFit", toys: "Toys | None") -> str:
    """A fit and its toys as JSON; numbers that are not finite become null."""
    names = ("parameters", "theta", "deviation", "covariance", "goodness", "n_freedom", "p_value", "information")
    values: dict[str, Any] = {name: getattr(fit, name) for name in (*names, "notes")}
    values["findings"] = [finding.to_dict() for finding in fit.findings]
    values["contributions"] = [one.to_dict() for one in fit.contributions]
    if toys is not None:
        coverage = {f"coverage_{n}": toys.coverage(n) for n in (1, 2)}
        values["toys"] = {"n_toys": len(toys.theta), "bias": toys.bias} | coverage

    def finite(item: Any) -> Any:
        item = item.tolist() if hasattr(item, "tolist") else item
        if isinstance(item, dict):
            return {name: finite(one) for name, one in item.items()}
        if isinstance(item, list | tuple):
            return [finite(one) for one in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return json.dumps(finite(values), indent=2)


def _run(options: Options) -> None:
    from ._text import counted
    from .ranks.launcher import rank_of_launcher
    from .report.line import LOG_S, is_terminal, ticking, working

    with working("loading PyTorch and zarr", is_shown=rank_of_launcher() == 0 and is_terminal()):
        from .ranks.world import World
        from .report.progress_line import Follower
        from .running.launch import run
        from .running.signals import Signals
        from .store.location import is_in_memory
        from .store.status import read_status

    world = World.here()
    # Rank 0 reports a mistake in the spec for all ranks.
    with world.rank_0_first("rank 0 to read the spec"):
        spec = _read_spec(options.spec)
        if spec.overwrite and not (options.store or options.overwrite or options.resume):
            _check_here(spec.store)
        # --resume is typed for this time, and has priority over what the file says.
        overwrite = options.overwrite or (False if options.resume else None)
        changes = {"store": options.store, "overwrite": overwrite}
        spec = dataclasses.replace(spec, **{name: change for name, change in changes.items() if change is not None})
        if is_in_memory(spec.store):
            raise ValueError(
                f"store = {spec.store!r} is in the memory of this process and would be lost with it. Give a folder, "
                "for instance --store run.zarr."
            )
    line, quiet_s = Follower(spec.store, is_new=not options.resume).line, None if is_terminal() else LOG_S
    progress = ticking(line, is_shown=world.rank == 0, after_s=quiet_s)
    with Signals(), progress:  # a signal that killed this rank would kill the others before they write checkpoints
        result = run(spec, world, options.resume)
        # Ranks that exchange nothing may finish hours apart.
        world.barrier("the other ranks to finish", math.inf)
    if world.rank == 0:
        was_finished = result["first_step"] == spec.n_steps
        how = ", was already finished" if was_finished else ""
        if result["first_step"] and not was_finished:
            how = f", resumed at step {result['first_step']}"
        ranks = counted(world.size, "rank")
        print(f"{result['steps']} steps on {ranks} in {result['elapsed_s']:.0f} s{how}: {spec.store}")
        if not read_status(spec.store).is_finished:
            print(f"Stopped before step {spec.n_steps}. Add --resume to the same command to continue.")
        _print_summary(spec.store)


def _check_here(store: str) -> None:
    """Raise ValueError if a spec, which may come from anybody, would delete a run outside the current folder."""
    from .store.location import is_url, local_path

    if is_url(store) or not local_path(store).is_relative_to(Path.cwd()):
        raise ValueError(
            f"The spec would overwrite `{store}`, which is outside the current folder {Path.cwd()}. If you want that, "
            "add --overwrite to the command."
        )


def _tune(options: Options) -> None:
    from .ranks.world import World
    from .running.tune import tune_run

    world = World.here()
    with world.rank_0_first("rank 0 to read the spec"):
        spec = _read_spec(options.spec)
    tuning = tune_run(spec, world, options.trial_s)
    if world.rank == 0:
        print(tuning)


def _list(options: Options) -> None:
    from .analysis.collection import list_runs

    table = list_runs(options.folder)
    if table.empty:
        _show(f"There is no run in {options.folder}.")
        return
    is_broken = table["step"].isna()
    reasons = dict(table.loc[is_broken, "state"])
    table.loc[is_broken, "state"] = "cannot be opened"
    # A run that cannot be opened has no counts, and for its sake pandas keeps those of the others as floats.
    counts: dict[str | int, Any] = dict.fromkeys(("ranks", "members", "seed", "step", "n_steps"), "{:.0f}".format)
    _show(table.to_string(float_format="%.2f", formatters=counts, na_rep="-"))
    for name, reason in reasons.items():
        _show(f"\n{name}: {reason}")


def _show(*texts: object) -> None:
    """Print texts that may come from a store, which somebody else may have made: without control characters."""
    from ._text import printable

    print(*map(printable, texts), sep="\n")


def _describe(options: Options) -> None:
    from .analysis import describe
    from .store.reader import open_run

    description = describe(open_run(options.store))
    _show(description)
    _print_summary(options.store, description)


def _verify(options: Options) -> int:
    from .store.verify import verify

    found = verify(options.store)
    _show(found)
    return 0 if found.is_whole else 1


def _print_summary(path: str, known: str = "") -> None:
    """Print the verdict, unless it is in the text `known`, and estimates of a finished run."""
    from .analysis import summary, verdict
    from .store.reader import open_run
    from .store.status import read_status

    if read_status(path).is_finished:
        run = open_run(path)
        lines = [line for line in str(verdict(run)).splitlines() if line not in known]
        _show(*lines, summary(run).to_string(float_format="%.4g"))


def _report(options: Options) -> None:
    from .report.html import html_report
    from .store.reader import open_run

    text = html_report(open_run(options.store))
    path = _beside(options.store, options.output, ".html")
    path.write_text(text, encoding="utf-8")
    print(path)


def _export(options: Options) -> None:
    from .report import export
    from .store.reader import open_run

    run = open_run(options.store)
    if options.to == "netcdf":
        print(export.to_netcdf(run, _beside(options.store, options.output, ".nc")))
    elif options.to == "trace":
        print(export.to_trace(run, _beside(options.store, options.output, ".trace.json")))
    elif options.to == "hepdata":
        from .report.hepdata import to_hepdata

        print(to_hepdata(run, _beside(options.store, options.output, "_hepdata")))
    else:
        print(*export.to_csv(run, _beside(options.store, options.output, "_csv")), sep="\n")


def _beside(store: str, output: str | None, ending: str) -> Path:
    """The given output, or a path named like the store: beside it, or in the current folder if the store is a URL."""
    from .store.location import is_url

    if output:
        return Path(output)
    place = Path(str(store).rstrip("/").rpartition("/")[2]) if is_url(store) else Path(store)
    return place.with_name(place.name.removesuffix(".zarr") + ending)

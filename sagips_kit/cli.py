"""The command `sagips`: run a spec or a notebook as a batch job, look into a store, prepare a cluster's profile."""

import argparse
import dataclasses
import math
import os
import sys
from pathlib import Path


def main(arguments=None):
    """Entry point of the command; returns the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not hasattr(options, "settings"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a problem's module may lie there; last, so that it hides no other
    try:
        if rest:
            options.settings = _settings(rest)
        return options.command(options) or 0
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, MemoryError, ArithmeticError) as error:
        # A rank that ends because of another one stays silent: the other one tells why.
        if type(error).__name__ != "PeerError" or error.rank is None:
            print(f"sagips: {str(error) or type(error).__name__}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("sagips: interrupted; what is in the store stays there.", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="sagips", description="Solve inverse problems with GANs on many ranks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train the run of a JSON spec; under mpiexec, on all its ranks")
    run.add_argument("spec", help="JSON file; `sagips spec` writes one")
    run.add_argument("--store", help="write here instead of the spec's store")
    run.add_argument("--overwrite", action="store_true", help="replace a run that is there already")
    run.add_argument("--resume", action="store_true", help="go on with this run if it has been begun, else begin it")
    run.set_defaults(command=_run)
    check = commands.add_parser("check", help="try whether a spec's problem and events go together, before training")
    check.add_argument("spec", help="JSON file; `sagips spec` writes one")
    check.set_defaults(command=_check)
    tune = commands.add_parser("tune", help="try modes of exchange for a spec, on the ranks of this mpiexec")
    tune.add_argument("spec", help="JSON file; `sagips spec` writes one")
    tune.add_argument("--seconds", type=float, default=2.0, help="for each mode (default 2)")
    tune.set_defaults(command=_tune)
    info = commands.add_parser("info", help="show what a store holds: run, progress, estimates")
    info.add_argument("store")
    info.set_defaults(command=_info)
    spec = commands.add_parser("spec", help="print a JSON spec to start from")
    spec.add_argument("problem", help="a ready one such as Proxy, or your own as module:Class")
    spec.add_argument(
        "--exchange", default="Ring", help="Ring (default), AllReduce or Independent; the file can nest others"
    )
    spec.add_argument("--store", required=True)
    spec.set_defaults(command=_spec)
    _add_profiles(commands)
    _add_batch(commands)
    _add_reading_commands(commands)
    return parser


def _add_profiles(commands):
    parser = commands.add_parser("profiles", help="list, install or show the ways to start engines on a cluster")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="show all profiles").set_defaults(command=_list_profiles)
    install = actions.add_parser(
        "install",
        allow_abbrev=False,
        help="copy a profile to where ipcluster and connect() find it",
        epilog="Options of the profile follow its name, for instance --account PROJECT --walltime 01:00:00.",
    )
    install.add_argument("name")
    install.add_argument("--overwrite", action="store_true", help="replace changed files and forget earlier options")
    install.set_defaults(command=_install_profile, settings={})
    show = actions.add_parser(
        "show",
        allow_abbrev=False,
        help="print the exact job script",
        epilog="Options of the profile follow its name, for this time only.",
    )
    show.add_argument("name")
    show.add_argument("-n", type=int, default=4, help="engines (default: 4)")
    show.set_defaults(command=_show_profile, settings={})


def _add_batch(commands):
    batch = commands.add_parser(
        "batch",
        allow_abbrev=False,
        help="write the job script that runs a notebook on a cluster",
        epilog="Options of the profile follow, for instance --walltime 01:00:00.",
    )
    batch.add_argument("notebook")
    batch.add_argument("--profile", required=True, help="one that submits jobs, see `sagips profiles list`")
    batch.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebook; n is the number of ranks",
    )
    batch.add_argument("--folder", default="runs", help="where everything goes (default: runs)")
    batch.add_argument("--submit", action="store_true", help="submit the script too")
    batch.set_defaults(command=_batch, settings={})


def _settings(words):
    """Options of a profile: `--name value` or `--name=value`."""
    settings, words = {}, list(words)
    while words:
        name, equals, text = words.pop(0).partition("=")
        if not name.startswith("--") or not (equals or words):
            raise ValueError(f"{name!r}: options of a profile are given as --name value, '' for none.")
        settings[name.removeprefix("--").replace("-", "_")] = text if equals else words.pop(0)
    return settings


def _list_profiles(options):
    from .cluster import profiles

    for name in profiles.profiles():
        state = f"installed in {profiles.installed(name)}" if profiles.is_installed(name) else "not installed"
        print(f"{name:12}{profiles.describe(name)}\n{'':12}{state}")


def _install_profile(options):
    from .cluster import profiles

    folder = profiles.install_profile(options.name, options.overwrite, **options.settings)
    print(f"{folder}: {profiles.CONFIG} explains each option, {profiles.GIVEN} holds those that you have given")
    profile = profiles.find(options.name)
    if profile.missing:
        print(f"Still to be given: {', '.join(profile.missing)}. Type `{profile.install_line}`.")


def _show_profile(options):
    from .cluster.profiles import show_profile

    print(show_profile(options.name, options.n, **options.settings), end="")


def _batch(options):
    from .cluster.notebook_job import write_batch

    batch = write_batch(options.notebook, options.profile, dict(options.p), options.folder, **options.settings)
    print(f"script    {batch.path}")
    if not options.submit:
        print(f"submit    {batch.submit_line}")
        return
    job_id = batch.submit()
    files = {"notebook": f"{batch.outputs}.ipynb", "store": batch.store, "log": f"{batch.outputs}.log"}
    print(f"job       {job_id}")
    for name, path in files.items():
        if path:
            print(f"{name:10}{path.replace('{id}', job_id.partition('.')[0])}")


def _add_reading_commands(commands):
    """Commands that read stores; no torch, no MPI."""
    ls = commands.add_parser("ls", help="list the runs in a folder")
    ls.add_argument("folder", nargs="?", default=".")
    ls.set_defaults(command=_ls)
    report = commands.add_parser("report", help="write a run as one HTML page, figures inside")
    report.add_argument("store")
    report.add_argument("--output", help="file to write; by default beside the store, with the ending .html")
    report.set_defaults(command=_report)
    export = commands.add_parser("export", help="write a run as netCDF, tables of text or a timeline")
    export.add_argument("store")
    export.add_argument("--to", choices=["netcdf", "csv", "trace"], required=True)
    export.add_argument("--output", help="file, or folder for csv; by default beside the store")
    export.set_defaults(command=_export)


def _run(options):
    from ._text import counted
    from .ranks.world import World
    from .running.launch import run
    from .running.signals import Signals
    from .running.spec import RunSpec
    from .store.status import read_status

    world = World.here()
    # A mistake in the spec is reported once, not by every rank.
    with world.rank_0_first("rank 0 to read the spec"):
        spec = RunSpec.from_file(options.spec)
        if spec.overwrite and not (options.store or options.overwrite):
            _check_here(spec.store)
        changes = {"store": options.store, "overwrite": options.overwrite or None}
        spec = dataclasses.replace(spec, **{name: change for name, change in changes.items() if change is not None})
    with Signals():  # those that end this rank would end the others, which may need time for their checkpoints
        result = run(spec, world, options.resume)
        # Ranks that exchange nothing may end hours apart.
        world.barrier("the other ranks to finish", math.inf)
    if world.rank == 0:
        how = f" from step {result['first_step']} on" if 0 < result["first_step"] < spec.n_steps else ""
        how = ", finished already" if result["first_step"] == spec.n_steps else how
        ranks = counted(world.size, "rank")
        print(f"{result['steps']} steps on {ranks} in {result['elapsed_s']:.0f} s{how}: {spec.store}")
        if not read_status(spec.store).is_finished:
            print(f"Stopped before step {spec.n_steps}. The same command with --resume goes on.")
        _print_summary(spec.store)


def _check(options):
    from .check.suite import check_problem
    from .running.launch import observed_events
    from .running.spec import RunSpec

    spec = RunSpec.from_file(options.spec)
    events = observed_events(spec)[0] if spec.events is not None else None
    report = check_problem(spec.problem, events, spec.n_observed, spec.seed)
    print(report)
    return 0 if report.is_ok else 1


def _check_here(store):
    """Raise ValueError if a spec's file, which may come from anybody, would delete a run somewhere else."""
    from .store.location import is_url, local_path

    if is_url(store) or not local_path(store).is_relative_to(Path.cwd()):
        raise ValueError(
            f"The spec wants to overwrite `{store}`, which is not in this folder, {Path.cwd()}. If that is meant, add "
            "--overwrite to the command."
        )


def _tune(options):
    from .ranks.world import World
    from .running.spec import RunSpec
    from .running.tune import tune_run

    world = World.here()
    with world.rank_0_first("rank 0 to read the spec"):
        spec = RunSpec.from_file(options.spec)
    tuning = tune_run(spec, world, options.seconds)
    if world.rank == 0:
        print(tuning)


def _info(options):
    from .analysis import describe
    from .store.reader import open_run

    print(describe(open_run(options.store)))
    _print_summary(options.store)


def _print_summary(path):
    from .analysis import summary, warnings_of
    from .store.reader import open_run
    from .store.status import read_status

    if read_status(path).is_finished:
        run = open_run(path)
        print(*warnings_of(run), summary(run).to_string(float_format="%.4g"), sep="\n")


def _spec(options):
    from .running.spec import RunSpec

    given = {"problem": {"type": options.problem}, "exchange": {"type": options.exchange}, "store": options.store}
    print(RunSpec.from_dict(given).to_json(), end="")


def _ls(options):
    from .analysis.collection import list_runs

    table = list_runs(options.folder)
    if table.empty:
        print(f"There is no run in {options.folder}.")
        return
    reasons = table["state"][table["step"].isna()]
    table.loc[reasons.index, "state"] = "cannot be opened"
    # Beside a run that cannot be opened, which has no counts, pandas keeps them as floats.
    counts = dict.fromkeys(("ranks", "members", "seed", "step", "n_steps"), "{:.0f}".format)
    print(table.to_string(float_format="%.2f", formatters=counts, na_rep="-"))
    for name, reason in reasons.items():
        print(f"\n{name}: {reason}")


def _report(options):
    from .report.html import page
    from .store.reader import open_run

    text = page(open_run(options.store))
    path = _beside(options.store, options.output, ".html")
    path.write_text(text, encoding="utf-8")
    print(path)


def _export(options):
    from .report import export
    from .store.reader import open_run

    run = open_run(options.store)
    if options.to == "netcdf":
        print(export.to_netcdf(run, _beside(options.store, options.output, ".nc")))
    elif options.to == "trace":
        print(export.to_trace(run, _beside(options.store, options.output, ".trace.json")))
    else:
        print(*export.to_csv(run, _beside(options.store, options.output, "_csv")), sep="\n")


def _beside(store, output, ending):
    """The given output, or a name made of the store's: in its folder, or here if the store is a URL."""
    from .store.location import is_url

    if output:
        return Path(output)
    place = Path(str(store).rstrip("/").rpartition("/")[2]) if is_url(store) else Path(store)
    return place.with_name(place.name.removesuffix(".zarr") + ending)

"""The command `sagips`: run a spec in a batch job or a single process, look into a store, write a first spec."""

import argparse
import dataclasses
import math
import sys
from pathlib import Path


def main(arguments=None):
    """Entry point of the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        # A rank that ends because of another one stays silent: the other one tells why.
        if type(error).__name__ != "PeerError" or error.rank is None:
            print(f"sagips: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("sagips: interrupted; what is in the store stays there.", file=sys.stderr)
        return 130
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="sagips", description="Solve inverse problems with GANs on many ranks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train the run of a JSON spec; under mpiexec, on all its ranks")
    run.add_argument("spec", help="JSON file; `sagips spec` writes one")
    run.add_argument("--store", help="write here instead of the spec's store")
    run.add_argument("--overwrite", action="store_true", help="replace a run that is there already")
    run.set_defaults(command=_run)
    info = commands.add_parser("info", help="show what a store holds: run, progress, estimates")
    info.add_argument("store")
    info.set_defaults(command=_info)
    spec = commands.add_parser("spec", help="print a JSON spec to start from")
    spec.add_argument("problem", help="Proxy, DayaBay, or your own as module:Class")
    spec.add_argument(
        "--exchange", default="Ring", help="Ring (default), AllReduce or Independent; the file can nest others"
    )
    spec.add_argument("--store", required=True)
    spec.set_defaults(command=_spec)
    _add_reading_commands(commands)
    return parser


def _add_reading_commands(commands):
    """Commands that read stores; no torch, no MPI."""
    ls = commands.add_parser("ls", help="list the runs in a folder")
    ls.add_argument("folder", nargs="?", default=".")
    ls.set_defaults(command=_ls)
    report = commands.add_parser("report", help="write a run as one HTML page, figures inside")
    report.add_argument("store")
    report.add_argument("--output", help="file to write; by default beside the store, with the ending .html")
    report.set_defaults(command=_report)
    export = commands.add_parser("export", help="write a run as netCDF or as tables of text")
    export.add_argument("store")
    export.add_argument("--to", choices=["netcdf", "csv"], required=True)
    export.add_argument("--output", help="file, or folder for csv; by default beside the store")
    export.set_defaults(command=_export)


def _run(options):
    from .launch import run
    from .spec import RunSpec
    from .world import World

    world = World.here()
    # A mistake in the spec is reported once, not by every rank.
    with world.rank_0_first("rank 0 to read the spec"):
        spec = RunSpec.from_file(options.spec)
        changes = {"store": options.store, "overwrite": options.overwrite or None}
        spec = dataclasses.replace(spec, **{name: change for name, change in changes.items() if change is not None})
    result = run(spec, world)
    # Ranks that exchange nothing may end hours apart.
    world.barrier("the other ranks to finish", math.inf)
    if world.rank == 0:
        print(f"{result['steps']} steps on {world.size} ranks in {result['elapsed_s']:.0f} s: {spec.store}")
        _print_summary(spec.store)


def _info(options):
    from .analysis import describe
    from .store import open_run

    print(describe(open_run(options.store)))
    _print_summary(options.store)


def _print_summary(path):
    from .analysis import summary
    from .store import open_run, read_progress

    progress = read_progress(path)
    if progress.step == progress.n_steps:
        print(summary(open_run(path)).to_string(float_format="%.4g"))


def _spec(options):
    from .spec import RunSpec

    given = {"problem": {"type": options.problem}, "exchange": {"type": options.exchange}, "store": options.store}
    print(RunSpec.from_dict(given).to_json(), end="")


def _ls(options):
    from .runs import list_runs

    table = list_runs(options.folder)
    if table.empty:
        print(f"There is no run in {options.folder}.")
        return
    print(table.to_string(float_format="%.2f", na_rep="-", max_colwidth=60))


def _report(options):
    from .page import page
    from .store import open_run

    text = page(open_run(options.store))
    path = _beside(options.store, options.output, ".html")
    path.write_text(text, encoding="utf-8")
    print(path)


def _export(options):
    from . import export
    from .store import open_run

    run = open_run(options.store)
    if options.to == "netcdf":
        print(export.to_netcdf(run, _beside(options.store, options.output, ".nc")))
    else:
        print(*export.to_csv(run, _beside(options.store, options.output, "_csv")), sep="\n")


def _beside(store, output, ending):
    """The given output, or a name made of the store's: in its folder, or here if the store is a URL."""
    from .place import is_url

    if output:
        return Path(output)
    place = Path(str(store).rstrip("/").rpartition("/")[2]) if is_url(store) else Path(store)
    return place.with_name(place.name.removesuffix(".zarr") + ending)

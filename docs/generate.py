"""Pages of the documentation that are made from the code and from measured results, and are never typed by hand.

    python docs/generate.py

writes them into docs/generated, which git ignores; `make docs` does so, too.
"""

import argparse
import json
import tomllib
from pathlib import Path

import numpy as np
from numpydoc.docscrape import NumpyDocString

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs" / "generated"
RESULTS = ROOT / "benchmarks" / "results"
_SPACE = "\N{NO-BREAK SPACE}"


def write_all():
    """Write all pages, and the notebooks, which Sphinx reads only from its own folder."""
    pages = {"schema": schema(), "cli": commands(), "settings": settings(), "profiles": profiles(), "figures": claims()}
    pages |= {"schedulers": schedulers(), "verdict": verdicts()}
    GENERATED.mkdir(exist_ok=True)
    for name, text in pages.items():
        _write(GENERATED / f"{name}.md", text)
    notebooks = GENERATED / "notebooks"
    notebooks.mkdir(exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        _write(notebooks / path.name, _as_page(path))


def _as_page(path):
    """The text of a notebook in which pictures have the width that they have in JupyterLab."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        sizes = [output.get("metadata", {}).get("image/png", {}) for output in cell.get("outputs", [])]
        if widths := [size["width"] for size in sizes if "width" in size]:
            cell["metadata"]["mystnb"] = {"image": {"width": f"{max(widths)}px"}}
    return json.dumps(notebook, ensure_ascii=False)


def _write(path, text):
    """Write a file if its text is new, so that Sphinx reads it again only then."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _table(header, rows):
    """A table of Markdown; text may contain vertical bars."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def schema():
    """The variables of a store, from the table that writes them."""
    from sagips_kit.store import schema

    names = {"<parameter>": "the parameter", "<observable>": "the observable"}
    table = schema.variables(("<parameter>",), ("<observable>",), dict.fromkeys(names, "as declared"), names)
    parts = [
        "# Variables of a store",
        f"Version {schema.SCHEMA_VERSION} of the schema, as written by `sagips_kit/store/schema.py`. How to read it is "
        "in [](../howto/read_a_store.md).",
        "`<parameter>` and `<observable>` stand for the names that the problem declares. *Written by*: the process "
        "that creates the run, rank 0 alone, each rank (its own chunk), the first rank of each replica (the chunk of "
        "its chains), or any process. Before it is written, a variable reads as its *fill*. *Since*: the "
        "version of the schema that introduced it.",
    ]
    for group, found in table.items():
        rows = [
            [
                f"`{one.name}`",
                ", ".join(one.dims) or "-",
                one.dtype,
                one.unit or "-",
                one.long_name,
                one.owner,
                "NaN" if one.fill != one.fill else repr(one.fill),
                one.since,
            ]
            for one in found.values()
        ]
        header = ["variable", "dimensions", "type", "unit", "content", "written by", "fill", "since"]
        names = ", ".join(f"`{name}`" for name in schema.coordinates(group))
        parts += [f"## {group}", f"Coordinates: {names or 'none'}.", _table(header, rows)]
    return "\n\n".join(parts) + "\n"


def commands():
    """The help of every command, from the parser itself."""
    from sagips_kit import cli

    parts = [
        "# Commands",
        "The text that `sagips COMMAND --help` prints. [](../howto/index.md) shows commands at work; each of them does "
        "what a Python name does:",
        "```text\n" + cli.__doc__.split("\n\n")[2] + "\n```",
    ]
    for parser in _parsers(cli._parser()):
        if parser.get_default("command"):
            width = argparse.HelpFormatter(parser.prog, width=100)
            parser.formatter_class = lambda prog, width=width._width: argparse.HelpFormatter(prog, width=width)
            parts.append(f"## `{parser.prog}`\n\n```text\n{parser.format_help().strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _parsers(parser):
    """A parser and the parsers of its sub-commands."""
    yield parser
    for action in parser._actions:
        for one in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from _parsers(one)


def settings():
    """Fields, defaults and meaning of the values that determine a run, from their docstrings."""
    import dataclasses

    from sagips_kit import Observed, RunSpec, Settings

    parts = [
        "# Settings",
        "All fields are given by name. In the JSON file of a spec they have the same names; unknown names, wrong types "
        "and numbers out of range are refused with what is allowed.",
    ]
    for kind in (RunSpec, Settings, Observed):
        fields = {field.name: field for field in dataclasses.fields(kind)}
        rows = []
        for name, type_, text in NumpyDocString(kind.__doc__)["Parameters"]:
            default = fields[name].default if name in fields else dataclasses.MISSING
            if default is dataclasses.MISSING:
                factory = fields[name].default_factory if name in fields else dataclasses.MISSING
                default = "required" if factory is dataclasses.MISSING else f"`{factory()!r}`"
            else:
                default = f"`{default!r}`"
            rows.append([f"`{name}`", type_, default, " ".join(text)])
        parts += [f"## {kind.__name__}", _table(["field", "type", "default", "meaning"], rows)]
    return "\n\n".join(parts) + "\n"


def profiles():
    """The profiles, each with the file that explains its options."""
    from sagips_kit.cluster import profiles

    rows = [[f"[`{name}`](#{name})", profiles.describe(name)] for name in profiles.profiles()]
    parts = [
        "# Profiles",
        "A profile says how engines are started. `sagips profiles install NAME` copies it, with your options; see "
        "[](../howto/slurm.md) and [](../howto/pbs.md).",
        _table(["profile", "engines"], rows),
    ]
    for name in profiles.profiles():
        path = f"../../cluster_profiles/{name}/{profiles.CONFIG}"
        parts.append(f"## {name}\n\n```{{literalinclude}} {path}\n:language: python\n```")
    return "\n\n".join(parts) + "\n"


_DOORS = {
    "notebook": "notebook: `connect`, `submit`, `wait`",
    "command": "terminal: `sagips run`, `sagips engines`",
    "batch": "`sagips batch`",
}
_SCHEDULERS = {"slurm": "Slurm", "pbs": "PBS", "local": "Engines of this machine"}


def schedulers():
    """What happens to runs when something happens to their jobs, from the results of benchmarks/schedulers.py."""
    found = json.loads((RESULTS / "schedulers.json").read_text(encoding="utf-8"))
    cells = {(cell["scheduler"], cell["event"], cell["door"]): cell for cell in found["cells"]}
    excluded = {tuple(cell): reason for *cell, reason in found["excluded"]}
    parts = [
        "# When something happens to a job",
        f"Each cell was tried, by `benchmarks/schedulers.py`: Slurm is a real one of one node ({found['slurm']}), with "
        "its defaults; PBS is simulated, with the answers that a server of OpenPBS gives, and has not been tried on a "
        "real one; `--clusters` is imitated on one cluster. *Reported* gives the time from when the scheduler, or "
        "mpiexec, knows of the event until the user does: the message has the reason and the last lines of the job's "
        "output, and its advice was followed and worked. *Continued*: the run reached its last step without help, a "
        "job that was queued again from its newest checkpoint. *Refused*: the scheduler, or the kit, declines. No run "
        "was deleted.",
    ]
    for scheduler, title in _SCHEDULERS.items():
        rows = [
            [event, *(_outcome(cells.get(key := (scheduler, event, door)), excluded.get(key)) for door in _DOORS)]
            for event in found["events"]
            if any((scheduler, event, door) in cells for door in _DOORS)
        ]
        parts += [f"## {title}", _table(["event", *_DOORS.values()], rows)]
    return "\n\n".join(parts) + "\n"


def _outcome(cell, reason):
    """The text of one cell; `reason` says why an event cannot happen there."""
    if cell is None:
        return f"- ({reason})" if reason else "not tried"
    return f"reported, {cell['seconds']:.0f} s" if cell["outcome"] == "reported" else cell["outcome"]


_STATES = ("no fault found", "not tested", "doubtful", "not reliable", "refused")


def verdicts():
    """What the verdict said of runs that were right and of runs that were not, from benchmarks/verdict.py."""
    found = json.loads((RESULTS / "verdict.json").read_text(encoding="utf-8"))
    facts, runs = found["facts"], found["runs"]
    right = [run for run in runs if run["kind"] == "regular" and not run["fault"]]
    wrong = {"Nothing is wrong": right} | {
        f"Method: {fault}": [run for run in runs if run["fault"] == fault]
        for fault in dict.fromkeys(run["fault"] for run in runs if run["fault"])
    }
    wrong |= {
        f"Data or model: {text}": [run for run in runs if run["problem"] == name and run["kind"] == "sabotaged"]
        for name, text in _sabotages().items()
    }
    rows = [[text, len(some), *(_share(some, state) for state in _STATES)] for text, some in wrong.items() if some]
    alarms = ", ".join(f"{run['problem']} ({run['state']})" for run in right if run["state"] in _STATES[2:4])
    parts = [
        "# What verdicts have seen",
        f"Runs of {facts['steps']} steps with 4 chains and otherwise default settings, on {facts['events']} events of "
        "independent generators, by `benchmarks/verdict.py`; the numbers are runs. *Nothing is wrong* are the regular "
        "problems of the zoo, whose likelihood is known; *method* are "
        "such problems with a fault in the training; in *data or model* the events are not those of the model, or do "
        "not determine its parameters. *Refused*: a run does not begin. What to do about each state is in "
        "[](../howto/act_on_a_verdict.md).",
        _table(["what is wrong", "runs", *_STATES], rows),
        f"Right runs that were reported: {alarms or 'none'}.",
    ]
    return "\n\n".join(parts) + "\n"


def _share(runs, state):
    return sum(run["state"] == state for run in runs) or "-"


def _sabotages():
    """What is wrong with each sabotaged problem of the zoo, by its name."""
    import ast

    text = (ROOT / "benchmarks" / "problems" / "sabotaged.py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    return {node.name: (ast.get_docstring(node) or "").rstrip(".") for node in classes[1:]}


def claimed():
    """The claims of claims.toml, each with its measured number: name -> claim."""
    found = tomllib.loads((ROOT / "docs" / "claims.toml").read_text(encoding="utf-8"))
    return {name: claim | {"number": measured(claim)} for name, claim in found.items()}


def measured(claim):
    """The number of a claim: an entry of a stored result, the median if it is a list, the mean if it has names."""
    found = json.loads((RESULTS / f"{claim['script']}.json").read_text(encoding="utf-8"))
    for name in claim["entry"].split(" / "):
        found = found[name]
    number = float(np.mean([*found.values()]) if isinstance(found, dict) else np.median(found))
    return float(f"{number:.{claim['digits']}g}") if "digits" in claim else number


def figures():
    """The measured numbers as text, for {{name}} in pages."""
    texts = {name: claim["format"].format(claim["number"]) for name, claim in claimed().items()}
    return {name: text.replace(",", _SPACE).replace("%", f"{_SPACE}%") for name, text in texts.items()}


def claims():
    """All claims with their numbers, by the script that measured them."""
    found, numbers = claimed(), figures()
    parts = [
        "# Figures",
        "What is claimed about speed and accuracy, and the script in `benchmarks` that measured it. The numbers are "
        "read from `benchmarks/results` when these pages are built; an entry that is a list is given by its median. "
        "They depend on the machine, most of them on its 2 cores: run the script on yours.",
    ]
    for script in dict.fromkeys(claim["script"] for claim in found.values()):
        rows = [
            [claim["what"], numbers[name], f"`{claim['entry']}`"]
            for name, claim in found.items()
            if claim["script"] == script
        ]
        parts += [f"## `{script}.py`", _summary(script), _table(["what", "figure", "entry"], rows)]
    return "\n\n".join(parts) + "\n"


def _summary(script):
    """The first paragraph of a script's docstring."""
    import ast

    text = ast.get_docstring(ast.parse((ROOT / "benchmarks" / f"{script}.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


if __name__ == "__main__":
    write_all()
    print(*sorted(path.relative_to(ROOT) for path in GENERATED.rglob("*") if path.is_file()), sep="\n")

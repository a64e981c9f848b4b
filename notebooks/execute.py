"""Execute the notebooks on this machine and store their outputs in them: `make notebooks`.

    python notebooks/execute.py                             # all, with the parameters that stand in them
    python notebooks/execute.py 05_explore --keep           # this one, without repeating its finished runs

A notebook that fails is left as it was. The metadata of an executed notebook have the hash of its code cells, so that a
later change of the code is seen (tests/test_stored_notebooks.py).
"""

import argparse
import base64
import hashlib
import io
import json
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
WORK = HERE.parent / "build" / "notebooks"  # each notebook is executed in a folder of its own in it
# All other parameters are those of the notebook as it stands.
PARAMETERS = {"03_how_good_is_it": {"results": "../../../benchmarks/results"}}
KEY = "sagips_kit"  # of the metadata
WIDTH, N_COLOURS = 1300, 128  # of stored pictures: points at most, and colours
_UNSTORED = ("application/vnd.jupyter.widget-view+json", "application/javascript")  # need the kernel that made them


def code_hash(notebook):
    """The hash of the code cells of a notebook: 16 hexadecimal digits."""
    sources = [cell.source for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_fresh(notebook):
    """Whether the outputs of a notebook are those of its code."""
    return notebook.metadata.get(KEY, {}).get("code") == code_hash(notebook)


def private(text):
    """What in a text is of the machine that made it: paths, numbers of processes."""
    folders = "home|root|tmp|work|Users|var|usr|opt|scratch|proc"
    return re.findall(rf"(?<![\w.])/(?:{folders})/[^\s\"'<>]*|\bpids?\b[ =:]*\d*", text)


def general(text):
    """A text without names of this machine; paths begin at the folder of the notebook or of the repository."""
    text = re.sub(rf"{re.escape(str(WORK))}/\w+", ".", text)
    names = {str(HERE.parent): "sagips_kit", str(Path.home()): "~", socket.gethostname(): "localhost"}
    for name, instead in names.items():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", instead, text) if len(name) > 1 else text
    return re.sub(r"\S*/ipykernel_\d+/\d+\.py:\d+: ", "", text)  # before a warning


def small(picture):
    """A picture (base64 of a PNG) of fewer points and colours, which is enough for lines and text."""
    from PIL import Image

    image, packed = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), io.BytesIO()
    image.thumbnail((WIDTH, 10 * WIDTH))
    image.quantize(N_COLOURS, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return min(base64.b64encode(packed.getvalue()).decode(), picture.replace("\n", ""), key=len)


def stored(outputs):
    """The outputs of a cell as they are kept: no widgets, small pictures, no paths of this machine."""
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = general(output.text)
        elif not output.get("data") or output.data.keys() & set(_UNSTORED):
            continue
        else:
            texts = {kind: general(text) for kind, text in output.data.items() if kind.startswith("text/")}
            pictures = {kind: small(text) for kind, text in output.data.items() if kind == "image/png"}
            output.data = type(output.data)(texts | pictures)
        kept.append(output)
    return kept


def execute(path):
    """Execute one notebook, and store its outputs in it."""
    import papermill

    folder = WORK / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    executed, quiet = folder / path.name, {"progress_bar": False, "extra_arguments": ["--log-level=40"]}
    papermill.execute_notebook(path, executed, PARAMETERS.get(path.stem, {}), cwd=folder, **quiet)
    notebook = nbformat.read(path, as_version=4)  # its text may have been edited in the meantime
    made = [cell for cell in code_cells(nbformat.read(executed, as_version=4)) if not is_injected(cell)]
    if [cell.source for cell in code_cells(notebook)] != [cell.source for cell in made]:
        raise RuntimeError("Its code was changed while it was executed.")
    for number, (cell, one) in enumerate(zip(code_cells(notebook), made, strict=True), 1):
        cell.outputs, cell.execution_count = stored(one.outputs), number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    if found := private(json.dumps([cell.outputs for cell in code_cells(notebook)])):
        raise RuntimeError(
            f"Its outputs are not stored, because they tell of this machine: {', '.join(sorted(set(found)))}"
        )
    notebook.metadata[KEY] = {"code": code_hash(notebook)}
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def is_injected(cell):
    """Whether papermill wrote this cell, with the parameters that it was given."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def main():
    known = {path.stem: path for path in sorted(HERE.glob("*.ipynb"))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(known)}")
    parser.add_argument("--keep", action="store_true", help="keep the runs of an earlier execution")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"no notebook {', '.join(sorted(unknown))}. Allowed: {', '.join(known)}")
    failed = []
    for name in options.names or known:
        start, path = time.monotonic(), known[name]
        print(f"{name}: executing", flush=True)
        if not options.keep:
            shutil.rmtree(WORK / name, ignore_errors=True)
        try:
            execute(path)
        except Exception as error:
            failed.append(name)
            print(f"{name}: failed. {error}", file=sys.stderr)
        else:
            print(f"{name}: {(time.monotonic() - start) / 60:.1f} min, {path.stat().st_size / 1e3:.0f} kB", flush=True)
    if failed:
        sys.exit(f"Not executed: {', '.join(failed)}")


if __name__ == "__main__":
    # On SIGTERM, exit normally, so that the kernel shuts down and ends its engines.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()

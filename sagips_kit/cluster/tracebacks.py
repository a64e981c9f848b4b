"""Tracebacks of engines, which arrive as text: the frames that mean something to the user.

Errors that are raised in the notebook's own process belong to `report.exceptions`.
"""

import linecache
import os
import re
from pathlib import Path

_CARRIER = "run_in"  # the function that carries a call to an engine, in `remote`
_NOT_OF_USERS = (f"{Path(__file__).parents[1]}{os.sep}", "site-packages", "dist-packages", "/lib/python3")


def own_frames(traceback: str) -> str:
    """The frames of a remote traceback that are of the user's code, with lines of cells; all if there are none."""
    own = []
    for block in traceback.split("\n\n"):
        found = re.match(r"File (.+?):(\d+), in ", block)
        if found and not any(folder in found[1] for folder in _NOT_OF_USERS):
            line = linecache.getline(found[1], int(found[2])).strip()  # engines do not know the text of a cell
            own.append(f"{block.splitlines()[0]}\n---> {found[2]} {line}" if line else block)
    return "\n\n".join(own) or traceback


def without_carriers(traceback: str) -> str:
    """A remote traceback without colours and without the frames that carried the call to the engine."""
    blocks = re.sub(r"\x1b\[[0-9;]*m", "", traceback).split("\n\n")
    carriers = [i for i, block in enumerate(blocks) if f" in {_CARRIER}(" in block]
    return "\n\n".join(blocks[carriers[-1] + 1 :] if carriers else blocks)

"""Make docs/answer.png, the picture of an answer in README.md and on the first page: a real run, about 4 minutes.

python docs/picture.py
"""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

from sagips_kit import Proxy, RunSpec, Settings, open_run, plot, run

PICTURE = Path(__file__).with_name("answer.png")


def main():
    matplotlib.use("Agg")
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/proxy.zarr"
        run(RunSpec(problem=Proxy(n_observed=20_000), settings=Settings(n_members=8), store=store, n_steps=1500))
        finished = open_run(store)
        verdict = finished.sagips.verdict()
        print(verdict)
        print(finished.sagips.summary().to_string())
        if verdict.state != "no fault found":
            sys.exit("The picture has not been changed.")
        np.ravel(plot.fit(finished))[0].figure.savefig(PICTURE, dpi=90, bbox_inches="tight")


if __name__ == "__main__":
    main()

"""A finished run that is continued: the same store, with room for the rows and snapshots of further steps.

On disk the longer store is made beside the run and takes its place when it is complete, so a failure changes nothing.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from . import schema
from .create import compressors, provenance, take_place
from .integrity import WRITE_ALL, CheckedStore
from .location import Location, beside, explained, is_on_disk, local_path, located


def extend_run(path: Location, spec: Mapping[str, Any]) -> None:
    """Make room in a finished run for more steps; what it holds stays, but for its verdict.

    Parameters
    ----------
    path : path, URL or zarr Store
        The run.
    spec : dict
        Its spec as JSON values, with the new number of steps.

    Raises
    ------
    OSError
        If the store cannot be written.
    """
    if is_on_disk(path) and not isinstance(path, Store):
        folder = local_path(path)
        advice = "The run is as it was. It needs a folder that you may write to, and space for a second copy of it."
        with explained(f"Cannot extend the run `{path}`", advice), beside(folder) as partial:
            shutil.copytree(folder, partial, dirs_exist_ok=True)
            _extend(LocalStore(partial), spec)
            if not take_place(partial, folder, overwrite=True):
                raise FileExistsError(f"`{path}` has just been replaced by another process. Open it again.")
        return
    with explained(f"Cannot extend the run `{path}`", "Restore it from a copy before you try again."):
        _extend(located(path), spec)


def _extend(store: Store, spec: Mapping[str, Any]) -> None:
    root = zarr.open_group(CheckedStore(store), mode="r+", use_consolidated=False)
    old = schema.layout_of(root.attrs)
    layout = replace(old, n_steps=spec["n_steps"], earlier=(*old.earlier, old.n_steps))
    for group, arrays in schema.empty_arrays(schema.variables(*schema.names_of(root.attrs)), layout).items():
        longer = {name: array for name, array in arrays.items() if schema.STEP in array.variable.dims}
        if not longer:
            continue
        steps = layout.snapshot_steps if group == schema.SNAPSHOTS else layout.steps
        _replace(root, f"{group}/{schema.STEP}", (len(steps),), (len(steps),), steps)
        for name, array in longer.items():
            _replace(root, f"{group}/{name}", array.shape, array.chunks)
    facts = provenance()
    run_id = facts.pop(schema.RUN_KEY)  # a tree that is open would mix what it has read with the new draws
    facts |= {"from_step": old.n_steps, schema.VERDICT_KEY: root.attrs.get(schema.VERDICT_KEY)}
    earlier: Any = root.attrs.get(schema.CONTINUED_KEY, [])
    kept = {name: item for name, item in root.attrs.items() if name != schema.VERDICT_KEY}
    changed = {
        schema.SPEC_KEY: json.dumps(spec),
        schema.LAYOUT_KEY: asdict(layout),
        schema.RUN_KEY: run_id,
        schema.VERSION_KEY: schema.SCHEMA_VERSION,
        schema.CONTINUED_KEY: [*earlier, facts],
    }
    root.attrs.put(kept | changed)


def _replace(root: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], values: Any = None) -> None:
    """Put a larger array in the place of one, with the same beginning unless its values are given."""
    old: Any = root[name]
    attributes, beginning = dict(old.attrs), old[...]
    new = root.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=old.dtype,
        fill_value=old.fill_value,
        compressors=compressors(is_text=False),
        dimension_names=old.metadata.dimension_names,
        attributes=attributes,
        config=WRITE_ALL,
        overwrite=True,
    )
    if values is not None:
        new[...] = values
    else:
        new[tuple(map(slice, beginning.shape))] = beginning

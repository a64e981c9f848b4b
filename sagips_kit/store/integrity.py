"""What a run must have and what its files must say, checked whenever they are read.

Each chunk of numbers ends with a checksum, which zarr tests.  `CheckedStore` adds what zarr lacks: every metadata file
carries a digest of its contents, and a chunk that must have been written by now is missed if it is not there, where
zarr would read fill values.  Which chunks those are follows from the progress of the ranks.
"""

import contextlib
import functools
import hashlib
import json
import reprlib
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import Crc32cCodec
from zarr.core.array_spec import ArrayConfigParams
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from . import schema

CHECKSUM = Crc32cCodec()
# Every chunk is written, so that one that is not there is known to be lost.
WRITE_ALL: ArrayConfigParams = {"write_empty_chunks": True}
_METADATA = "zarr.json"
_CHUNKS = "/c"  # between the path of an array and the indices of a chunk


def due_step(variable: schema.Variable, layout: schema.RunLayout, first_row: int = 0) -> int:
    """Steps after which the owner of a variable has written it, int: 0 if it is written with the template.

    For rows of the history, `first_row` is the first row of the chunk in question.
    """
    if variable.owner not in ("rank", "replica"):
        return 0
    if variable.group == schema.HISTORY and variable.name in schema.ROWS:
        return layout.step_of(first_row)
    if variable.group == schema.SNAPSHOTS:
        return layout.snapshot_steps[0]
    return layout.n_steps if variable.group in (schema.POSTERIOR, schema.PREDICTIVE, schema.SCORES) else 0


class Expected:
    """Which chunks of a run must be there.

    Parameters
    ----------
    layout : RunLayout
        Sizes of the run.
    progress : ndarray (rank,)
        Steps that the ranks have completed at least.
    """

    def __init__(self, layout: schema.RunLayout, progress: Iterable[int] = ()) -> None:
        self.layout = layout
        self.progress: NDArray[np.int64] = np.zeros(layout.n_ranks, np.int64)
        self.progress[:] = [*progress] or 0

    def has(self, array: str, index: tuple[int, ...], chunks: tuple[int, ...]) -> bool:
        """Whether the chunk at `index` of an array, such as "history/theta", with chunks of this shape, is there."""
        group, _, name = array.partition("/")
        try:
            variable = schema.variable(group, name)
        except KeyError:  # somebody else's array
            return False
        first_row = 0
        if variable.name in schema.ROWS and variable.group == schema.HISTORY:
            axis = variable.dims.index(schema.STEP)
            first_row = index[axis] * chunks[axis]
        due = due_step(variable, self.layout, first_row)
        return due == 0 or self._reached(variable, index[0]) >= due

    def _reached(self, variable: schema.Variable, owner: int) -> int:
        """Steps that the owner of a variable has completed, of which `owner` is the number as a rank or a replica."""
        if variable.owner == "rank":
            return int(self.progress[owner])
        leaders = self.layout.leaders
        return int(self.progress[leaders[owner]] if leaders else self.progress.min())


class CheckedStore(WrapperStore[Store]):
    """A zarr Store whose metadata files carry digests, and which misses chunks that must be there.

    Digests are written and tested in passing: those who use the store do not see them.

    Parameters
    ----------
    store : Store
        The store of the run.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.expected: Expected | None = None
        self.is_damaged = False  # as far as has been read
        self._chunks: dict[str, tuple[int, ...]] = {}  # of the arrays whose metadata have been read

    def with_read_only(self, read_only: bool = False) -> Self:
        """The same store, but read-only or writable."""
        return type(self)(self._store.with_read_only(read_only))

    def expect(self, expected: Expected) -> None:
        """Miss what is expected, and digests, from now on."""
        self.expected = expected

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a file; ValueError if it is damaged or has been lost."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None:
            self._miss(key)
        elif _is_metadata(key) and byte_range is None:
            document, chunks = self._opened(key, found.to_bytes())
            if chunks is not None:
                self._chunks[key.removesuffix(f"/{_METADATA}")] = chunks
            return prototype.buffer.from_bytes(document)
        return found

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file."""
        await self._store.set(key, _sealed(value) if _is_metadata(key) else value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file, unless it exists."""
        await self._store.set_if_not_exists(key, _sealed(value) if _is_metadata(key) else value)

    def _opened(self, key: str, data: bytes) -> tuple[bytes, tuple[int, ...] | None]:
        try:
            return opened(key, data, needs_digest=self.expected is not None)
        except ValueError:
            self.is_damaged = True
            raise

    def _miss(self, key: str) -> None:
        """Raise ValueError if the chunk `key`, which does not exist, must be there."""
        array, is_chunk, index = key.rpartition(_CHUNKS)
        if not is_chunk or self.expected is None or array not in self._chunks:
            return
        numbers = tuple(map(int, filter(None, index.split("/"))))
        if self.expected.has(array, numbers, self._chunks[array]):
            raise ValueError(f"its file {key} has been lost")


def _is_metadata(key: str) -> bool:
    return key == _METADATA or key.endswith(f"/{_METADATA}")


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A metadata document with its digest."""
    attributes = {name: item for name, item in document.get("attributes", {}).items() if name != schema.DIGEST_KEY}
    plain = document | {"attributes": attributes}
    return plain | {"attributes": attributes | {schema.DIGEST_KEY: _digest(plain)}}


@functools.lru_cache(maxsize=1000)
def opened(key: str, data: bytes, needs_digest: bool) -> tuple[bytes, tuple[int, ...] | None]:
    """The metadata in a file without their digest, which must be right, and the shape of an array's chunks or None.

    A process opens its run many times, so what has been tested is kept; ValueError if the digest is wrong.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its file {key} is not JSON: {reprlib.repr(str(error))}") from None
    attributes = document.get("attributes", {}) if isinstance(document, dict) else None
    if not isinstance(attributes, dict):
        raise ValueError(f"its file {key} holds no metadata of zarr")
    stored, version = attributes.pop(schema.DIGEST_KEY, None), attributes.get(schema.VERSION_KEY)
    needs_digest = needs_digest or (isinstance(version, int) and version >= schema.CHECKED_SINCE)
    if stored != _digest(document) and (stored is not None or needs_digest):
        raise ValueError(f"its file {key} was changed after it was written: it differs from its digest")
    chunks = None
    with contextlib.suppress(LookupError, TypeError):  # a group, or what zarr will refuse
        chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    return json.dumps(document).encode(), chunks


def _sealed(value: Buffer) -> Buffer:
    return type(value).from_bytes(json.dumps(sealed(json.loads(value.to_bytes())), indent=2).encode())


def _digest(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

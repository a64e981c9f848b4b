"""Checksums of what describes an RNTuple in a ROOT file, compared before any number in it is believed.

uproot compares them only after it has used the counts: a damaged one makes it ask for more memory than the machine has.
"""

import contextlib
from typing import Any


def check_descriptions(ntuple: Any) -> None:
    """Compare the checksums of header, footer and page lists with their content; trees of the older kind have none.

    Raises
    ------
    ValueError
        If one differs.
    """
    if not hasattr(type(ntuple), "page_list_envelopes"):  # a TTree
        return
    # Private names of uproot: where another version has others, or xxhash is missing, nothing is checked.
    with contextlib.suppress(AttributeError, ImportError):
        ntuple._prepare_header_chunk()
        _check_sum(ntuple._header_chunk)
        ntuple._prepare_footer_chunk()
        _check_sum(ntuple._footer_chunk)
        for group in ntuple.footer.cluster_group_records:
            link = group.page_list_link
            _check_sum(ntuple.read_locator(link.locator, link.env_uncomp_size)[0])


def _check_sum(chunk: Any) -> None:
    import xxhash

    data = bytes(chunk.raw_data)
    if int.from_bytes(data[-8:], "little") != xxhash.xxh3_64_intdigest(data[:-8]):
        raise ValueError("a checksum does not match")

"""The first bytes of a ROOT file, and the uuid in them."""

from __future__ import annotations

HEADER = 100  # bytes at the start of a ROOT file, its uuid among them
_LARGE = 1_000_000  # is added to the version in the header where positions have 8 bytes


def uuid_in(header: bytes) -> bytes:
    """The uuid in the first bytes of a ROOT file."""
    start = 59 if int.from_bytes(header[4:8]) >= _LARGE else 47  # positions of 8 or 4 bytes lie before it
    return header[start : start + 16]

"""Which file it is: what tells that it was replaced, or written to."""

from __future__ import annotations

from uuid import UUID

from mlaas4hep_tf.io.faults import blame
from mlaas4hep_tf.io.files import Source, file_status
from mlaas4hep_tf.io.header import HEADER, uuid_in


def file_stamp(source: Source) -> tuple[int, object]:
    """Size, and modification time of a local file or first bytes (with the uuid) of a remote one."""
    with blame(source.url):
        if source.remote:
            from mlaas4hep_tf.io.remote import identity  # here: its libraries take half the start of a reader process

            there = identity(source.url)
            return there.size, there.header
        status = file_status(source.location)
        return status.st_size, status.st_mtime_ns


def file_uuid(source: Source) -> str:
    """The uuid that a file has now, without a look at what else is in it."""
    with blame(source.url):
        if source.remote:
            from mlaas4hep_tf.io.remote import identity

            return str(UUID(bytes=uuid_in(identity(source.url).header)))
        with open(source.location, "rb") as file:
            return str(UUID(bytes=uuid_in(file.read(HEADER))))

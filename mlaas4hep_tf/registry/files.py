"""Which file it is, wherever it lies: its uuid, without reading a tree."""

from __future__ import annotations

import uproot

from mlaas4hep_tf.io.faults import blame
from mlaas4hep_tf.io.files import expand
from mlaas4hep_tf.io.sources import LocalSource, RemoteSource


def uuid_of(name: str) -> str:
    """The uuid that ROOT gave a file when it was made.

    Raises:
        InputFileError: a file that cannot be opened.
    """
    (source, *_) = expand((name,), None)
    with blame(source.url):
        handler = RemoteSource if source.remote else LocalSource
        with uproot.open({source.location: None}, handler=handler, object_cache=None, array_cache=None) as file:
            return str(file.file.uuid)

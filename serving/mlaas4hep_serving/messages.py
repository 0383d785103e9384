"""The protobuf messages of ``proto/*.proto``: files of TF-Serving's that its Python package lacks, and TFaaS's.

Their compiled descriptors lie beside them (``make protos``), in the one form that every release of protobuf reads.
The messages have a descriptor pool of their own: whoever else registers the same names in this process is not met.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import message_factory
from mlaas4hep_client.messages import own_pool

DESCRIPTORS = Path(__file__).parent / "proto" / "descriptors.binpb"


_POOL = own_pool(DESCRIPTORS)


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


BatchingParameters = _message("mlaas4hep.serving.BatchingParameters")
SSLConfig = _message("mlaas4hep.serving.SSLConfig")
MonitoringConfig = _message("mlaas4hep.serving.MonitoringConfig")
Row = _message("tfaaspb.Row")
Predictions = _message("tfaaspb.Predictions")

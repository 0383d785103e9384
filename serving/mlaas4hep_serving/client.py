"""`mlaas4hep_client.Client`, under the name that it has beside the server."""

from mlaas4hep_client.client import Answer, Client
from mlaas4hep_client.events import columns

__all__ = ["Answer", "Client", "columns"]

"""A client of mlaas4hep-serve and of TensorFlow Serving, without TensorFlow and without numpy.

    errors       Code (gRPC's numbers, `.http`) and ServingError(code, message): what the server says, and the client
    arrays       numpy where it is installed, else nested lists
    events       columns(events) -> Column: rectangular values of one input
    messages     the messages of protos/, in a descriptor pool of their own
    tensors      Column -> TensorProto -> array
    over_http    Http: requests to the REST interface
    over_grpc    Grpc: requests to the gRPC interface
    client       Client
    branches     places: what of a ROOT tree an input is
    files        read_events: events from JSON, CSV, Parquet and ROOT files
    predict      mlaas4hep-predict

Each module imports only from those above it; `client` imports `over_http` or `over_grpc` when it needs one.
"""

from mlaas4hep_client.client import Client
from mlaas4hep_client.errors import Code, ServingError

__version__ = "0.1.0"  # that of mlaas4hep_tf
__all__ = ["Client", "Code", "ServingError"]

"""Replay of conformance cases: ``python -m mlaas4hep_serving.conformance --cases FILE.json``.

    compare      Failed, and how expected and received values are compared
    servers      fixture text -> a running server of our own, or the one at a URL
    codec        the layers that need no server: path, json2tensor, json2examples, tensor2json, result2json, metrics
    wire         the layers rest and grpc
    prose        the layers lifecycle and batching, whose steps are sentences: one rule per sentence
    __main__     the command

Nothing here knows a case by its id.
"""

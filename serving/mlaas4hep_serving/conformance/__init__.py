"""Replay of conformance cases: ``python -m mlaas4hep_serving.conformance``; docs/how-to/conformance-cases.md.

    cases.json   the cases
    compare      Failed, NotRun, and how expected and received values are compared
    prose        words -> structure: sentences of a case become steps, checks, fixtures and configs
    steps        steps and checks are validated and followed
    fixtures     the models of the cases
    servers      a fixture -> a running server of our own, or the one at a URL
    codec        the layers that need no server: path, json2tensor, json2examples, tensor2json, result2json, metrics
    wire         the layers rest and grpc
    lifecycle    the layer lifecycle: its steps and checks are the methods of Life
    batching     the layer batching: its steps and checks are the methods of Batching
    replay       all cases, one after the other
    __main__     the command

Nothing here knows a case by its id.
"""

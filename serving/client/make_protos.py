"""Compile ``mlaas4hep_client/protos/*.proto`` into the descriptor set that the client loads: ``make protos``.

Needs grpcio-tools (``pip install grpcio-tools``), which the client itself does without.
"""

from __future__ import annotations

from pathlib import Path

PROTOS = Path(__file__).parent / "mlaas4hep_client" / "protos"


def compile_to(target: Path) -> None:
    """Write the descriptor set of all files, with what they import, to ``target``."""
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    files = sorted(file.name for file in PROTOS.glob("*.proto"))
    arguments = [f"--proto_path={PROTOS}", f"--proto_path={well_known}", "--include_imports"]
    status = protoc.main(["protoc", *arguments, f"--descriptor_set_out={target}", *files])
    if status:
        raise SystemExit(f"protoc ended with {status}; it says above what it does not take")


if __name__ == "__main__":
    compile_to(PROTOS / "messages.binpb")

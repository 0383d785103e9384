"""The files that the servers hand out."""

SIZES = [3000, 2000, 1000]
EVENTS = sum(SIZES)


def urls(scheme: str, port: int) -> list[str]:
    slash = "//" if scheme == "root" else "/"
    return [f"{scheme}://127.0.0.1:{port}{slash}f{number:03d}.root" for number in range(len(SIZES))]

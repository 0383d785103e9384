"""``python -m helpers.steady REST GRPC TOKEN SECONDS``: a client that asks ten times a second, whatever the answers take.

A process of its own, so that what others do in Python costs it nothing.  Half of the requests are JSON, half gRPC.
Prints how long each answer took in seconds, and what was no right answer, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from mlaas4hep_client import Client

RATE = 10  # requests a second


def ask(url: str, token: str, first: float, end: float, times: list[float], wrong: list[str]) -> None:
    """One request a second, from a time on until another."""
    with Client(url, "steady", token=token) as client:
        for due in (first + i for i in range(int(end - first))):
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                answer = client.predict({"x": [2.0]})
                if list(answer) != [3.0]:
                    wrong.append(f"{answer}")
            except Exception as error:  # noqa: BLE001  # whatever it is, it is no right answer
                wrong.append(f"{url}: {type(error).__name__}: {error}")
            times.append(time.monotonic() - due)


def main(rest: str, grpc: str, token: str, seconds: str) -> None:
    start, times, wrong = time.monotonic() + 0.5, [], []  # type: ignore[var-annotated]  # lists of what `ask` says
    threads = []
    for i in range(RATE):
        url = f"http://127.0.0.1:{rest}" if i % 2 else f"grpc://{grpc}"
        first = start + i / RATE
        threads.append(threading.Thread(target=ask, args=(url, token, first, start + float(seconds) + 1, times, wrong)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    print(json.dumps({"times": times, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])

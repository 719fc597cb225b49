# SPDX-License-Identifier: Apache-2.0
"""An HTTP client for inside tb-client: a new connection for each request, one JSON line for each.

A program of its own, because it has to run in another network namespace.  Times are CLOCK_BOOTTIME
nanoseconds, as everywhere in the lab.
"""

import argparse
import http.client
import json
import sys
import time


def fetch(address: str, port: int, timeout_s: float) -> dict[str, object]:
    """One request: when it began and ended, and what came of it."""
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    body, error = "", ""
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read(4096).decode(errors="replace").strip()
        if response.status != http.HTTPStatus.OK:
            error = f"status {response.status}"
    except (OSError, http.client.HTTPException) as problem:
        error = str(problem) or type(problem).__name__
    finally:
        connection.close()
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return {"began_ns": began, "ended_ns": ended, "body": body, "error": error}


def main() -> None:
    """Fetch until the count is reached, or until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--count", type=int, default=0, help="requests to make; 0 = no end")
    parser.add_argument("--interval-ms", type=int, default=20)
    parser.add_argument("--timeout-s", type=float, default=1.0)
    arguments = parser.parse_args()
    made = 0
    while True:
        print(json.dumps(fetch(arguments.address, arguments.port, arguments.timeout_s)))
        sys.stdout.flush()
        made += 1
        if arguments.count and made >= arguments.count:
            return
        time.sleep(arguments.interval_ms / 1000)


if __name__ == "__main__":
    main()

"""What a judge adds to a step: N calls that each take so long, at a concurrency.

    python benchmarks/judge.py [--calls 64] [--seconds 0.5] [--concurrency 16]

A server on 127.0.0.1 waits and answers; nothing is sampled, so nothing overlaps. The shortest time possible
is calls * seconds / concurrency. Prints one JSON line.
"""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from foveal.rewards.grading import Grader
from foveal.rewards.judge import Judge
from foveal.types import Completion, Problem

REPLY = json.dumps({"choices": [{"message": {"content": "Verdict: yes"}}]}).encode()


def server(seconds: float) -> ThreadingHTTPServer:
    """A judge that takes its time."""

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            self.send_response(200)
            self.send_header("Content-Length", str(len(REPLY)))
            self.end_headers()
            self.wfile.write(REPLY)

        def log_message(self, *given: Any) -> None:
            return

    found = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    return found


def main() -> None:
    """Time one step's grading."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=64)
    options.add_argument("--seconds", type=float, default=0.5)
    options.add_argument("--concurrency", type=int, default=16)
    given = options.parse_args()
    judge = Judge(
        base_url=f"http://127.0.0.1:{server(given.seconds).server_port}/v1",
        model="slow",
        concurrency=given.concurrency,
        cache="off",
    )
    groups = [
        (
            Problem(id=str(n), question="q", images=(), answer="7"),
            [
                Completion(token_ids=(1,), sampled_logprobs=(0.0,), text=f"{n} {g}", finish="stop")
                for g in range(8)
            ],
        )
        for n in range(-(-given.calls // 8))
    ]
    with Grader([judge]) as grader:
        began, cpu = time.perf_counter(), time.process_time()
        found = grader.grade_many(groups)
        wall, used = time.perf_counter() - began, time.process_time() - cpu
    print(
        json.dumps(
            {
                "calls": sum(len(group.rewards) for group in found),
                "seconds_per_call": given.seconds,
                "concurrency": given.concurrency,
                "wall_s": round(wall, 2),
                "least_s": given.calls * given.seconds / given.concurrency,
                "cpu_s": round(used, 2),
                "failed": grader.failures,
            }
        )
    )


if __name__ == "__main__":
    main()

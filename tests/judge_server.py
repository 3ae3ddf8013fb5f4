"""A judge's server on 127.0.0.1 that answers, is slow, fails, lies and dies as a test asks of it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Reply:
    """What a server sends: a status, a body, headers; or what it does with the connection itself."""

    def __init__(
        self,
        text: str | None = None,
        *,
        status: int = 200,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        instead: Callable[[BaseHTTPRequestHandler], None] | None = None,
    ) -> None:
        self.status, self.headers, self.instead = status, headers or {}, instead
        self.body = body if body is not None else chat(text or "")


def chat(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Server:
    """Counts what it was asked, and at how many calls at a time."""

    def __init__(self, answer: Callable[[int, dict[str, Any]], Reply]) -> None:
        """`answer` gets the number of the call, from 1, and the request."""
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most = self.now = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *given: Any) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.requests.append(request)
            self.keys.append(handler.headers.get("Authorization"))
            number = len(self.requests)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            reply = self.answer(number, request)
            with self.lock:
                self.now -= 1  # before the caller knows: its next request may come at once
            if reply.instead is not None:
                reply.instead(handler)
                return
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(reply.body)))
            handler.end_headers()
            handler.wfile.write(reply.body)
        except OSError:
            return  # the client has gone


@contextmanager
def serving(answer: Callable[[int, dict[str, Any]], Reply]) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()

"""An object store that misbehaves as it is told: a proxy before one that does not."""

import http.client
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

Fault = Callable[[str, str], str]
"""From the method and path of a request to what goes wrong: '' nothing, '503' or another status, 'half' of the answer,
'reset' of the connection in the middle of the request."""


class Faulty:
    """Serves at `address` what is at another, in the way `fault` says. `close` ends it."""

    def __init__(self, address: str):
        self.fault: Fault = lambda method, path: ""
        there = urlsplit(address)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            proxy: ClassVar[Faulty] = self

            def answer(self) -> None:
                self.close_connection = False
                length, fault = int(self.headers.get("Content-Length") or 0), self.proxy.fault(self.command, self.path)
                if fault == "reset":
                    self.rfile.read(length // 2)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                body = self.rfile.read(length)
                if fault.isdigit():
                    text = b"<Error><Code>SlowDown</Code><Message>not now</Message></Error>"
                    self.say(int(fault), {"Content-Type": "application/xml"}, text, len(text))
                    return
                upstream = http.client.HTTPConnection(str(there.hostname), there.port)
                upstream.request(self.command, self.path, body, dict(self.headers))
                found = upstream.getresponse()
                data = found.read()
                told = {
                    name: value
                    for name, value in found.getheaders()
                    if name.lower() not in ("connection", "date", "server")
                }
                length = int(told.pop("Content-Length", len(data)))
                if fault == "half":
                    data, self.close_connection = data[: len(data) // 2], True
                self.say(found.status, told, data, length)
                upstream.close()

            def say(self, status: int, headers: dict[str, str], data: bytes, length: int) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(length)}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Nothing: clients leave when they have had enough."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

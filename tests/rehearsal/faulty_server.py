"""A small HTTP server that fails on demand, for the unit tests of the load generator."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TAG = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """A server with one release. `server.fault` returns the fault for a request, by its number and method."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.connections += 1

    def respond(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.received.append((self.command, self.path))
            fault = self.server.fault(len(self.server.received), self.command)
            if self.command == "POST" and fault != "no response":
                self.server.stored.append(json.loads(body)["text"])
        if fault == "no response":
            self.close_connection = True
            return
        status = 500 if fault == "500" else 201 if self.command == "POST" else 200
        response = json.dumps({"tag": TAG}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(response) + (fault == "incomplete")))
        if fault in ("connection close", "incomplete"):
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response)

    do_GET = do_POST = respond

    def log_message(self, *_):
        pass


class FaultyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # more than the connections of the load generator

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.received, self.stored, self.connections = threading.Lock(), [], [], 0
        self.fault = lambda number, method: None

    def handle_error(self, *_):
        pass  # the client resets connections when the load generator stops

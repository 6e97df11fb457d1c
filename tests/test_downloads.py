"""Files at an address, from a server in the test: fetched once, gone on with, checked, refused in one line."""

import errno
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading

import pytest

from ddrnet_jax import downloads
from ddrnet_jax.downloads import DownloadError, fetched
from ddrnet_jax.runtime import cache_folder

CONTENT = bytes(range(256)) * 4000  # a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT.

    faults  what happens to the next requests, in their order: a status, a number of bytes after which it hangs up, or
            what it sends in the place of an answer
    seen    (method, path, Range, If-None-Match) of every request
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.faults, self.seen, self.length_known = CONTENT, '"first"', [], [], True
        self.revisions = {"main": "a" * 40, "v1": "b" * 40}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, headers = self.server, self.headers
        server.seen.append((self.command, self.path, headers.get("Range"), headers.get("If-None-Match")))
        fault = server.faults.pop(0) if server.faults and self.command == "GET" else None
        commit = None
        if "/resolve/" in self.path:  # as the hub has it: /OWNER/REPO/resolve/REVISION/FILE
            revision, _, file = self.path.partition("/resolve/")[2].partition("/")
            commit = server.revisions.get(revision, revision if len(revision) == 40 else None)
            if "owner/private" in self.path:
                return self.refuse(401, "RepoNotFound")
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            if file != "model.safetensors":
                return self.refuse(404, "EntryNotFound", commit)
        elif "/absent" in self.path:
            return self.refuse(404)
        elif "/moved" in self.path:
            self.send_response(302)
            self.send_header("Location", f"http://example.invalid:{server.server_address[1]}/w")
            return self.end_headers()
        if isinstance(fault, bytes):
            return self.wfile.write(fault)
        if fault and fault in range(400, 600):
            return self.refuse(fault)
        if headers.get("If-None-Match") == server.tag:
            self.send_response(304)
            return self.end_headers()
        begin, body = 0, server.content
        if headers.get("Range") and headers.get("If-Range", server.tag) == server.tag:
            begin = int(headers["Range"].removeprefix("bytes=").rstrip("-").partition("-")[0])
            if begin >= len(body):
                return self.refuse(416)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if server.length_known:
            self.send_header("Content-Length", str(len(body) - begin))
        self.send_header("ETag", server.tag)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[begin : begin + fault if fault else None])
        return None

    def refuse(self, code, error="", commit=""):
        self.send_response(code)
        self.send_header("Content-Length", "0")
        if error:
            self.send_header("X-Error-Code", error)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Of what is kept; no test waits for a server."""
    monkeypatch.setenv(cache_folder.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "_PAUSE_S", 0.0)
    return tmp_path / "cache" / "weights"


def refused(address, *parts):
    with pytest.raises(DownloadError) as caught:
        fetched(address)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(address.partition("#")[0].partition("?")[0]), line
    for part in parts:
        assert part in line, line


def test_a_file_is_fetched_once_and_looked_for_again(server, folder, said):
    address = f"{server.address}/w.safetensors?token=secret"
    path = fetched(address)
    assert path.parent == folder
    assert path.name.endswith("-w.safetensors")
    assert path.read_bytes() == CONTENT
    assert said == [f"{server.address}/w.safetensors: sha256 {SHA256}"]  # to pin it by, and without what is secret
    assert fetched(address) == path
    assert [seen[-1] for seen in server.seen] == [None, '"first"']
    server.content, server.tag = CONTENT[:-1], '"second"'
    assert fetched(address).read_bytes() == CONTENT[:-1]
    assert not list(folder.glob("*.part*"))


def test_with_its_hash_nothing_is_asked_again(server, folder):
    address = f"{server.address}/w#sha256={SHA256.upper()}"
    path = fetched(address)
    assert fetched(address) == path
    assert len(server.seen) == 1
    path.write_bytes(CONTENT[1:])  # damaged on the disk
    path.with_name(f"{path.name}.etag").unlink()
    assert fetched(address).read_bytes() == CONTENT


@pytest.mark.parametrize("knows_length", [True, False])
def test_another_hash_is_refused_and_nothing_kept(server, folder, knows_length):
    server.length_known = knows_length
    wrong = "0" * 64
    refused(f"{server.address}/w#sha256={wrong}", f"its sha256 is {SHA256}, not {wrong}; it is another file")
    assert not list(folder.glob("*-w"))


def test_a_mistyped_hash_costs_nothing_that_was_kept(server, folder):
    kept = fetched(f"{server.address}/w")
    refused(f"{server.address}/w#sha256={'0' * 64}", f"its sha256 is {SHA256}")
    assert kept.read_bytes() == CONTENT


def test_a_password_is_not_shown():
    with pytest.raises(DownloadError, match=r"^https://nowhere\.invalid/w: expected hf://"):
        fetched("https://me:secret@nowhere.invalid/w")


@pytest.mark.parametrize("fragment", ["sha256=abc", "md5=" + "0" * 32, "", "sha256=" + "g" * 64])
def test_a_hash_that_is_none_is_refused_before_anything_is_fetched(server, fragment):
    refused(f"{server.address}/w#{fragment}", "expected #sha256= and 64 hexadecimal digits")
    assert not server.seen


def test_a_connection_that_breaks_is_gone_on_with(server):
    server.faults = [1000, 503, 300_000]
    assert fetched(f"{server.address}/w").read_bytes() == CONTENT
    assert [seen[2] for seen in server.seen] == [None, "bytes=1000-", "bytes=1000-", "bytes=301000-"]


def test_the_next_command_goes_on_too_unless_the_file_is_another_by_then(server, folder):
    server.faults = [5000, 502, 502, 502]
    refused(f"{server.address}/w", "the server says 502 Bad Gateway; look at the network and run it again: it goes on")
    assert [path.stat().st_size for path in folder.glob("*.part")] == [5000]
    assert fetched(f"{server.address}/w").read_bytes() == CONTENT
    assert server.seen[-1][2] == "bytes=5000-"
    server.faults = [6000, 502, 502, 502]
    refused(f"{server.address}/v", "502")
    server.content, server.tag = CONTENT[::-1], '"second"'
    assert fetched(f"{server.address}/v").read_bytes() == CONTENT[::-1]


def test_a_part_that_was_all_of_it_is_fetched_again(server, folder):
    path = fetched(f"{server.address}/w")
    for name in (path.name, f"{path.name}.etag"):
        (folder / name).rename(folder / name.replace(path.name, f"{path.name}.part"))
    assert fetched(f"{server.address}/w").read_bytes() == CONTENT
    assert [seen[2] for seen in server.seen] == [None, f"bytes={len(CONTENT)}-", None]


def test_what_is_not_there_or_not_open_is_named_at_once(server):
    refused(f"{server.address}/absent.pth?token=secret", "there is no such file; look at the address")
    for code, part in ((401, "needs a login"), (403, "is not open to you"), (418, "the server says 418")):
        server.faults = [code]
        refused(f"{server.address}/w", part)
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff nonsense\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.0 206 Partial\r\nContent-Range: bytes 7-9/10\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\nETag: W/x\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_an_answer_that_is_none_is_asked_for_again(server, answer):
    server.faults = [answer]
    assert fetched(f"{server.address}/w").read_bytes() == CONTENT
    server.faults = [answer] * 4
    refused(f"{server.address}/v", "look at the network and run it again")


def test_redirections_end(server):
    around = f"HTTP/1.0 302 Found\r\nLocation: {server.address}/w\r\n\r\n".encode()
    server.faults = [around] * 100
    refused(f"{server.address}/w", "the server says 302")
    server.faults = [b"HTTP/1.0 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"]
    refused(f"{server.address}/w", "the server says 302")


def test_offline_what_was_fetched_before_is_used_and_else_one_line_ends_it(server, said):
    address = f"{server.address}/w"
    path = fetched(address)
    server.shutdown()
    server.server_close()
    assert fetched(address) == path
    assert any("cannot be reached" in line and "what was fetched before is used" in line for line in said)
    refused(f"{server.address}/other", "cannot be reached (", "look at the network")


def test_a_full_disk_is_said_before_and_while_it_fills(server, folder, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(
        f"{server.address}/w",
        "needs 1 MB, the disk of",
        "has 0 MB free; free some of the disk, or set",
    )
    monkeypatch.undo()
    monkeypatch.setenv(cache_folder.VARIABLE, "/proc/nowhere")
    refused(f"{server.address}/w", "there is no cache folder to keep it in; free some of the disk, or set")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv(cache_folder.VARIABLE, str(folder.parent))
    monkeypatch.setattr(downloads.regular_files, "opened", full)
    refused(f"{server.address}/w", "cannot be kept (No space left on device)")


def test_what_is_too_large_for_weights_is_not_fetched(server, monkeypatch):
    monkeypatch.setattr(downloads, "_MOST_BYTES", 1000)
    refused(f"{server.address}/w", "has 0.0 GB; no file of weights is as large")
    server.length_known = False
    refused(f"{server.address}/w", "the server does not stop sending")


@pytest.mark.parametrize(
    "address",
    ["ftp://host/w", "gs://bucket/w", "https://", "https://host/a b", "https://[1/w"],
)
def test_what_is_no_address_is_refused(address):
    refused(address, "expected hf://OWNER/REPO/FILE or https://")


def test_http_from_elsewhere_needs_a_hash_and_redirections_count(server):
    refused(
        "http://example.invalid/w", "http:// keeps nobody from changing it on the way; give https://, or its #sha256="
    )
    refused(f"http://example.invalid/w#sha256={SHA256}", "cannot be reached")
    refused(f"{server.address}/moved", "cannot be reached")


def test_a_name_leads_nowhere_else(server, folder):
    for name in ("..%2f..%2fetc%2fpasswd", "a/../../b", "x" * 300, ""):
        assert fetched(f"{server.address}/{name}").parent == folder


HUB = "hf://owner/repo/model.safetensors"


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The library of the hub with our server in the place of the hub."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return server


def test_a_file_of_the_hub_by_its_revision_and_hash(hub, said):
    assert fetched(HUB).read_bytes() == CONTENT
    assert said == [f"{HUB}: asking the hub", f"{HUB}: sha256 {SHA256}"]
    at_v1 = HUB.replace("repo/", "repo@v1/")
    assert "b" * 40 in fetched(f"{at_v1}#sha256={SHA256}").parts
    refused(f"{HUB}#sha256={'0' * 64}", f"its sha256 is {SHA256}")


def test_the_hub_goes_on_after_a_broken_connection(hub, monkeypatch):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.faults = [1000]
    assert fetched(HUB).read_bytes() == CONTENT
    assert [seen[0] for seen in hub.seen] == ["HEAD", "GET", "GET"]


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("owner/repo/absent.pth", ["no such file in the repository"]),
        ("owner/repo@v9/model.safetensors", ["no such revision of the repository"]),
        ("owner/private/model.safetensors", ["no such repository, or a private one", "hf auth login"]),
        ("owner/../model.safetensors", ["the hub: "]),
        ("owner/repo/../../../model.safetensors", ["expected hf://OWNER/REPO/FILE"]),
        ("owner/repo/a//b", ["expected hf://OWNER/REPO/FILE"]),
        ("owner/repo", ["expected hf://OWNER/REPO/FILE"]),
        ("model.safetensors", ["expected hf://OWNER/REPO/FILE"]),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub, place, parts):
    refused(f"hf://{place}", *parts)


def test_offline_the_hubs_file_of_before_is_used(hub, monkeypatch):
    from huggingface_hub import constants

    path = fetched(HUB)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetched(HUB) == path
    refused(HUB.replace("repo", "other"), "the hub cannot be reached, and the file was not fetched before")


def test_without_the_library_of_the_hub_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(HUB, "needs the library huggingface_hub; pip install")


def test_the_hub_is_where_hf_endpoint_says(server, tmp_path, repo):
    pytest.importorskip("huggingface_hub")
    program = f"from ddrnet_jax.downloads import fetched; print(fetched({HUB!r}))"
    environment = os.environ | {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path), "PYTHONPATH": str(repo)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path))
    assert server.seen

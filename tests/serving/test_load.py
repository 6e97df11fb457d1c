"""A thousand requests, eight at a time, a third of them hostile: no crash, no leak, each image gets its own mask."""

import contextlib
import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from http_server import asked
from onnx_files import write_red_channel

from ddrnet_jax.serving.app import MOST_BYTES

REQUESTS, AT_A_TIME = 1000, 8
MOST_GROWTH, MOST_PEAK = 64 * 2**20, 2**30  # bytes of memory: after the first third, and ever
SIDES = (17, 64, 333, 640)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="needs Linux: the memory of a process is in /proc"
    ),
]


@pytest.fixture(scope="module")
def bomb():
    """A whole PNG of 30000x30000 pixels in four megabytes."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(30001 * 1000)) for _ in range(30)) + packer.flush()
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


@pytest.fixture
def server(tmp_path, repo):
    """(process, port) of the command itself."""
    network = write_red_channel(tmp_path / "network.onnx")
    command = [sys.executable, "-m", "ddrnet_jax.main", "--mode", "serve", "--port", "0", "--checkpoint", str(network)]
    with open(tmp_path / "errors", "wb") as errors:
        process = subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield process, int(re.search(r":(\d+) ", process.stdout.readline())[1])
    finally:
        process.kill()
        process.communicate()


def memory(process, what="VmRSS"):
    """Bytes that the process holds; VmHWM: that it ever held."""
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])


def good(port, number):
    """Status of a request whose mask is its own image's; another mask is a failure."""
    rng = np.random.default_rng(number)
    height, width = rng.choice(SIDES, 2)
    image = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = cv2.resize(image, (int(width), int(height)), interpolation=cv2.INTER_NEAREST)
    kind = (".png", ".bmp", ".tif")[number % 3]
    data = cv2.imencode(kind, image)[1].tobytes()
    while (answer := asked(port, "POST", body=data))[0] == 503:  # a slow one that has left may still be counted
        time.sleep(0.05)
    mask = cv2.imdecode(np.frombuffer(answer[2], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, image[..., 2])
    return answer[0]


def raw(port, *parts, wait_s=0.0):
    """The first word of the answer to bytes that are no good request; "" where the connection ended."""
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(wait_s)
        if not wait_s:
            return client.recv(100).split()[1].decode()
    return ""


def hostile(port, number, bomb):
    """Status of a request that deserves no mask."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    whole = cv2.imencode(".png", np.full((40, 50, 3), number % 256, np.uint8))[1].tobytes()
    tries = {
        "empty": lambda: asked(port, "POST", body=b"")[0],
        "truncated": lambda: asked(port, "POST", body=whole[: len(whole) // 2])[0],
        "noise": lambda: asked(port, "POST", body=random.Random(number).randbytes(50_000))[0],
        "damaged": lambda: asked(port, "POST", body=whole[:60] + b"???" + whole[63:])[0],
        "bomb": lambda: asked(port, "POST", body=bomb)[0],
        "method": lambda: asked(port, "PUT", body=whole)[0],
        "rebound": lambda: asked(port, "POST", body=whole, Host="evil.example")[0],
        "no http": lambda: raw(port, b"\x16\x03\x01 hello\r\n\r\n"),
        "leaves": lambda: raw(port, head, b"abc", wait_s=0.01),
        "slow": lambda: raw(port, head, *[b"a"] * 10, wait_s=0.05),
        "oversized": lambda: asked(port, "POST", body=bytes(MOST_BYTES + 1))[0],
    }
    names = list(tries)
    name = "oversized" if number % 60 == 0 else names[number // 3 % (len(names) - 1)]
    while (status := tries[name]()) == 503:
        time.sleep(0.05)
    return name, status


def test_a_thousand_requests(server, bomb, tmp_path):
    process, port = server
    expected = {
        "empty": 400, "truncated": 400, "noise": 415, "damaged": 400, "bomb": 413, "method": 405, "rebound": 403,
        "no http": "400", "leaves": "", "slow": "", "oversized": 413,
    }  # fmt: skip

    def one(number):
        return hostile(port, number, bomb) if number % 3 == 0 else ("good", good(port, number))

    with ThreadPoolExecutor(AT_A_TIME) as clients:
        found = Counter(clients.map(one, range(REQUESTS // 3)))
        before = memory(process)
        found += Counter(clients.map(one, range(REQUESTS // 3, REQUESTS)))
    assert dict(found.keys()) == expected | {"good": 200}
    assert len(found) == len(expected) + 1, found
    after, most = memory(process), memory(process, "VmHWM")
    print(f"MiB after a third, at the end, ever: {before >> 20}, {after >> 20}, {most >> 20}")
    assert after - before < MOST_GROWTH
    assert most < MOST_PEAK
    health = json.loads(asked(port, "GET", "/health")[2])
    assert health["requests"] == 0
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    lines = (tmp_path / "errors").read_text().split("\n")
    assert [line.partition(":")[0] for line in lines if line] == ["engine", "stopped"]

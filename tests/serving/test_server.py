"""The server over HTTP: masks as `predict` writes them, and one clear answer for everything else."""

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
import zlib

import cv2
import numpy as np
import pytest
from http_server import SPEC, asked, by_red, png, served
from onnx_files import write_red_channel

from ddrnet_jax.data import decode
from ddrnet_jax.prediction import engines, predict
from ddrnet_jax.serving import answers, app, connections

PICTURE = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)


@pytest.fixture
def port():
    with served() as port:
        yield port


def reason(answer):
    """The line of an answer that is no mask."""
    return json.loads(answer[2])["error"]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(height, width, content=b""):
    """A PNG whose header says so."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def turned_jpeg():
    """With the EXIF orientation of a telephone held upright."""
    data = cv2.imencode(".jpg", PICTURE)[1].tobytes()
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 6, 0)
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_masks_are_those_of_predict_byte_by_byte(tmp_path):
    (tmp_path / "in").mkdir()
    deep = PICTURE.astype(np.uint16) * 257
    for name, picture in (("a.png", PICTURE), ("deep.png", deep), ("a.webp", PICTURE), ("grey.tif", PICTURE[..., 0])):
        cv2.imwrite(str(tmp_path / "in" / f"{name.replace('.', '_')}.{name.split('.')[1]}"), picture)
    (tmp_path / "in" / "turned.jpg").write_bytes(turned_jpeg())
    network = write_red_channel(tmp_path / "network.onnx")
    assert predict.predict_files(network, tmp_path / "in", tmp_path / "out") == 5
    with served(segmenter=engines.load(network)) as port:
        for path in sorted((tmp_path / "in").iterdir()):
            status, headers, body = asked(port, "POST", body=path.read_bytes())
            assert (status, headers["content-type"]) == (200, "image/png")
            assert body == (tmp_path / "out" / "masks" / f"{path.stem}.png").read_bytes(), path
            if path.stem == "turned":
                assert cv2.imdecode(np.frombuffer(body, np.uint8), 0).shape == (50, 37)


def test_for_programs_there_is_json(port):
    data = cv2.imencode(".png", PICTURE)[1].tobytes()
    status, _, body = asked(port, "POST", body=data, Accept="application/json")
    found, expected = json.loads(body), by_red(PICTURE[..., ::-1])
    assert (status, found["height"], found["width"], found["engine"]) == (200, 37, 50, "by hand")
    mask = cv2.imdecode(np.frombuffer(base64.b64decode(found["mask"]), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, expected)
    assert found["shares"] == {name: (expected == i).mean() for i, name in enumerate(SPEC.classes)}
    assert found["milliseconds"].keys() == {"decode", "network", "encode"}
    times = asked(port, "POST", body=data)[1]["server-timing"]
    assert re.fullmatch(r"decode;dur=[\d.]+, network;dur=[\d.]+, encode;dur=[\d.]+", times)


def test_health_says_what_runs(port):
    status, headers, body = asked(port, "GET", "/health")
    found = json.loads(body)
    assert (status, found["status"], found["engine"], found["checkpoint"]) == (200, "ok", "by hand", "a network")
    assert [found["classes"], found["colors"]] == json.loads(json.dumps([SPEC.classes, SPEC.colors]))
    assert headers["cache-control"] == "no-store"


def test_the_page_is_one_file_that_runs_its_own_script_alone(port):
    status, headers, body = asked(port, "GET", "/")
    page, policy = body.decode(), headers["content-security-policy"]
    assert status == 200
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    addresses = set(re.findall(r"\w+://[\w./]+", page)) - {"http://www.w3.org/2000/svg", "http://127.0.0.1."}
    assert not addresses, "it works without a network"


LARGE = png_of_size(30000, 30000)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "nothing was sent, expected an image file"),
        (b"hello", 415, "no image file that is read, or cut short; PNG, JPEG"),
        (png()[:40], 400, "image: truncated PNG (its end is missing)"),
        (png()[:20], 415, "cut short"),
        (png_of_size(9, 9, b"few"), 400, "image: not a readable image"),
        (LARGE, 413, "the image has 30000x30000 pixels (WxH), at most 33,554,432 are taken; shrink it"),
        (b"\0" * 4 + b"ftypavif", 415, "no image file that is read"),
    ],
    ids=["empty", "text", "truncated", "cut_short", "damaged", "large", "avif"],
)
def test_what_is_no_image_gets_one_line_before_it_is_decoded(port, body, status, words, monkeypatch):
    if status == 413:
        monkeypatch.setattr(decode, "decode_image", None)
    answer = asked(port, "POST", body=body)
    assert (answer[0], words in reason(answer)) == (status, True), answer
    monkeypatch.undo()
    assert asked(port, "POST", body=png())[0] == 200


def test_other_addresses_methods_and_forms(port):
    for method, path, status in (
        ("GET", "/predict", 405),
        ("POST", "/", 405),
        ("GET", "/page.html", 404),
        ("POST", "/predict/", 404),
    ):
        answer = asked(port, method, path)
        assert (answer[0], reason(answer)) == (
            status,
            f"{method} {path}: GET / is the page, POST /predict takes an image file, GET /health says what runs",
        )
    assert asked(port, "GET", "/predict")[1]["allow"] == "POST"
    answer = asked(port, "POST", body=png(), Content_Type="multipart/form-data; boundary=a")
    assert (answer[0], "curl --data-binary @FILE" in reason(answer)) == (415, True)


def test_a_body_that_is_too_long_is_answered_after_it_was_sent(port, monkeypatch):
    """Else who sends would read that the connection broke."""
    monkeypatch.setattr(app, "MOST_BYTES", 1000)
    for body in (bytes(30_000_000), (bytes(10_000_000) for _ in range(3))):  # of a length that is said, and in chunks
        answer = asked(port, "POST", body=body)
        assert answer[0] == 413
        assert reason(answer) == "the body is too long, at most 1,000 bytes are taken; shrink the image"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413 "), "who asks before sending need not send"


def test_more_requests_than_are_taken_are_told_to_come_back(monkeypatch):
    monkeypatch.setattr(app, "MOST_REQUESTS", 2)
    may_end = threading.Event()

    def waiting(image):
        assert may_end.wait(60)
        return by_red(image)

    with served(waiting) as port:
        found = []
        clients = [
            threading.Thread(target=lambda i=i: found.append((i, asked(port, "POST", body=png(i))))) for i in range(2)
        ]
        for client in clients:
            client.start()
        wait_for_requests(port, 2)
        answer = asked(port, "POST", body=png())
        assert (answer[0], answer[1]["retry-after"]) == (503, "1")
        assert reason(answer) == "2 requests are being answered, and more are not taken; ask again in 1 s"
        may_end.set()
        for client in clients:
            client.join()
        for red, (status, _, body) in found:
            assert status == 200
            assert (cv2.imdecode(np.frombuffer(body, np.uint8), 0) == red).all()
        assert asked(port, "POST", body=png())[0] == 200


def test_slow_clients_are_not_waited_for(port, monkeypatch):
    monkeypatch.setattr(app, "BODY_S", 0.1)
    monkeypatch.setattr("ddrnet_jax.serving.guard._DRAIN_S", 0.1)
    monkeypatch.setattr(connections, "_HEAD_S", 0.1)
    with contextlib.ExitStack() as stack:
        heads = [
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\nabc",
            b"GET / HTTP/1.1\r\nHo",
            b"",
        ]
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in heads]
        for client, head in zip(slow, heads, strict=True):
            client.sendall(head)
        assert b"the body did not arrive in 0.1 s" in everything(slow[0])
        assert [everything(client) for client in slow[1:]] == [b"", b""]


def test_no_connection_lasts_for_ever(port, monkeypatch):
    monkeypatch.setattr(connections, "_MOST_S", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\nabc")
        assert everything(client) == b""
    wait_for_requests(port, 0)


def wait_for_requests(port, count):
    """Until so many are being answered; who asks for the health of the server does not wait for its network."""
    while json.loads(asked(port, "GET", "/health")[2])["requests"] != count:
        time.sleep(0.001)


def everything(client):
    """What is sent until the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(10_000):
            found += part
    return found


def test_who_goes_away_leaves_its_place(port, monkeypatch, caplog):
    monkeypatch.setattr(app, "MOST_REQUESTS", 1)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\nabc")
            wait_for_requests(port, 1)
            assert asked(port, "POST", body=png())[0] == 503
        wait_for_requests(port, 0)
    assert asked(port, "POST", body=png())[0] == 200
    assert not caplog.records


def test_a_fault_is_told_and_the_server_goes_on(said):
    def faulty(image):
        if image[0, 0, 0] == 7:
            raise RuntimeError("the network broke")
        if image[0, 0, 0] == 8:
            raise MemoryError
        return by_red(image)

    with served(faulty) as port:
        answer = asked(port, "POST", body=png(7))
        assert (answer[0], reason(answer)) == (500, "a fault of the server, which its log has; it goes on")
        answer = asked(port, "POST", body=png(8))
        assert (answer[0], "does not fit into the server's memory" in reason(answer)) == (413, True)
        assert asked(port, "POST", body=png(1))[0] == 200
    assert said[0].startswith("warning: a fault of ours: Traceback")
    assert said[0].endswith("RuntimeError: the network broke")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_this_machine_may_be_called_so(port, name):
    for host in (name, f"{name}:{port}", f"{name}:9"):
        assert asked(port, "GET", "/", Host=host)[0] == 200
        assert asked(port, "POST", body=png(), Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "[::2]:80", ""]
)
def test_a_page_that_gave_this_machine_a_name_of_its_own_gets_nothing(port, host):
    for method, path in (("GET", "/"), ("GET", "/health"), ("POST", "/predict")):
        answer = asked(port, method, path, png(), Host=host, Origin=f"http://{host}")
        assert (answer[0], f"asked for as {host!r}, but bound to this machine" in reason(answer)) == (403, True)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])
def test_pages_of_other_origins_may_not_ask(port, origin):
    answer = asked(port, "POST", body=png(), Host=f"127.0.0.1:{port}", Origin=origin)
    assert (answer[0], reason(answer)) == (403, f"a page of {origin} may not ask here")
    assert not [name for name in answer[1] if name.lower().startswith("access-control")]


def test_pixels_are_counted_before_they_are_decoded(port, monkeypatch):
    monkeypatch.setattr(answers, "MOST_PIXELS", 48)
    assert asked(port, "POST", body=png(size_hw=(6, 8)))[0] == 200
    assert asked(port, "POST", body=png(size_hw=(7, 7)))[0] == 413

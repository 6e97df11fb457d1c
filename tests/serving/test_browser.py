"""The page in a real headless Chromium: pictures, a video, its fake camera; laid out at every width."""

import base64
import dataclasses
import http.server
import struct
import threading
import time
import zlib

import chromium
import cv2
import numpy as np
import pytest
from http_server import SPEC, by_red, served

from ddrnet_jax.data import pictures
from ddrnet_jax.data.sets.specs import distinct_colors
from ddrnet_jax.prediction.segmenter import Segmenter

SIZE_HW = (48, 64)
LONG = 25  # classes, some with names without a place to break

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium.PATH is None, reason=chromium.WHY_SKIPPED)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium.tab(tmp_path_factory.mktemp("chromium"), *camera) as tab:
        yield tab


def opened(browser, port):
    """The page, ready to be used."""
    browser.console.clear()
    browser.asked.clear()
    browser.look(1280, 900)
    browser.open(f"http://127.0.0.1:{port}/")
    browser.until("document.body.dataset.ready")
    return browser


def by_brightness(image):
    """A class for 28 levels of grey, which survive JPEG."""
    return (image[..., 0] // 28).clip(max=SPEC.num_classes - 1)


def halves(folder, left, right, name="a.png"):
    """The path of a picture of two colours."""
    picture = np.full((*SIZE_HW, 3), left, np.uint8)
    picture[:, SIZE_HW[1] // 2 :] = right
    (folder / name).write_bytes(pictures.png(picture))
    return folder / name


def pixel(canvas, column, row):
    """JavaScript for (red, green, blue, alpha), of a copy: a canvas that is read is kept in another way."""
    context = "new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true})"
    return f"(c => (c.drawImage($('{canvas}'), {-column}, {-row}), [...c.getImageData(0, 0, 1, 1).data]))({context})"


def color_at(page, canvas, column, row=5):
    return page.run(pixel(canvas, column, row))


def shares(page):
    """What the legend says of each class."""
    return page.run("[...document.querySelectorAll('#legend output')].map(o => o.textContent)")


def test_a_picture_is_dropped_and_classes_are_switched(browser, tmp_path):
    left, right = 14, 50
    with served() as port:
        page = opened(browser, port)
        page.drop(halves(tmp_path, 2, 5))
        page.until("frame")
        assert [color_at(page, "classes", x) for x in (left, right)] == [[*SPEC.colors[i], 255] for i in (2, 5)]
        assert [color_at(page, "picture", x)[:3] for x in (left, right)] == [[2, 2, 2], [5, 5, 5]]
        assert shares(page) == ["50.0 %" if i in (2, 5) else "" for i in range(SPEC.num_classes)]
        page.click("#legend li:nth-child(3) button")
        assert [color_at(page, "classes", x)[3] for x in (left, right)] == [0, 255]
        assert (
            page.run("document.querySelector('#legend li:nth-child(3) button').getAttribute('aria-pressed')") == "false"
        )
        page.click("[data-do=none]")
        assert [color_at(page, "classes", x)[3] for x in (left, right)] == [0, 0]
        page.click("[data-do=all]")
        assert [color_at(page, "classes", x)[3] for x in (left, right)] == [255, 255]
        page.run("$('opacity').value = 20; $('opacity').dispatchEvent(new Event('input'))")
        assert page.run("getComputedStyle($('classes')).opacity") == "0.2"
        assert "by hand" in page.run("$('by').textContent")
        assert float(page.run("parseFloat($('ms').textContent)")) > 0
        assert not page.console
        assert {*page.asked} <= {f"http://127.0.0.1:{port}/{path}" for path in ("", "health", "predict")}


def filtered_png(mask):
    """A grey PNG whose rows are filtered by each of the five ways in turn: u8[H,W]."""
    rows = []
    for y, row in enumerate(mask.astype(int)):
        up = mask[y - 1].astype(int) if y else np.zeros_like(row)
        left, both = np.roll(row, 1), np.roll(up, 1)
        left[0] = both[0] = 0
        p = left + up - both
        distances = np.abs(np.stack([p - left, p - up, p - both]))
        paeth = np.choose(distances.argmin(axis=0), [left, up, both])  # the first of equals, as PNG wants it
        guess = [np.zeros_like(row), left, up, (left + up) // 2, paeth][y % 5]
        rows.append(bytes([y % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes())
    height, width = mask.shape
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(rows))),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (*chunks, (b"IEND", b""))
    )


def test_the_page_reads_masks_of_every_form(browser):
    mask = np.random.default_rng(0).integers(0, 256, (23, 17), np.uint8)
    mask[8:16] //= 64
    data = filtered_png(mask)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), mask)
    with served() as port:
        page = opened(browser, port)
        for file in (data, pictures.png(mask), cv2.imencode(".png", mask)[1].tobytes()):
            text = base64.b64encode(file).decode()
            bytes_ = f"Uint8Array.from(atob('{text}'), c => c.charCodeAt(0))"
            found = page.run(f"idsOf(new Blob([{bytes_}])).then(m => [m.height, m.width, [...m.ids]])")
            assert found == [*mask.shape, mask.ravel().tolist()]


def test_several_pictures_one_of_them_broken(browser, tmp_path):
    (tmp_path / "b.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "d.tif"), np.full((*SIZE_HW, 3), 7, np.uint8))  # which Chromium does not show
    with served() as port:
        page = opened(browser, port)
        page.drop(halves(tmp_path, 1, 1), tmp_path / "b.png", halves(tmp_path, 3, 3, "c.png"), tmp_path / "d.tif")
        page.until("items.length === 4 && items.every(item => item.answer || item.error)")
        page.until("frame && frame.name === 'a'")
        found = []
        for _ in range(4):
            found.append((page.run("current.file.name"), page.run("$('said').firstChild.textContent"), shares(page)[7]))
            page.do("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
            page.until("current.error ? !frame : frame?.name === current.file.name.split('.')[0]")
        assert found[0][:2] == ("a.png", "")
        assert found[1][0] == "b.png"
        assert found[1][1].startswith("b.png: no image file that is read")
        assert found[2][:2] == ("c.png", "")
        assert found[3] == ("d.tif", "This browser does not show d.tif; its classes alone are shown.", "100.0 %")


def test_a_picture_lies_as_its_mask_does(browser, tmp_path):
    """Turned as its EXIF orientation says, in the page and for the network."""
    data = halves(tmp_path, 0, 200).read_bytes()
    jpeg = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(data, np.uint8), 1))[1].tobytes()
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 6, 0)
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    with served(by_brightness) as port:
        page = opened(browser, port)
        page.drop(tmp_path / "turned.jpg")
        page.until("frame")
        assert page.run("[frame.width, frame.height]") == [*SIZE_HW]
        for row, brightness in ((5, 0), (58, 200)):
            assert abs(color_at(page, "picture", 20, row)[0] - brightness) < 5
            assert color_at(page, "classes", 20, row) == [*SPEC.colors[brightness // 28], 255]


def test_the_camera(browser):
    with served(by_brightness) as port:
        page = opened(browser, port)
        page.click("#welcome [data-do=camera]")
        page.until("frame && frame.name === 'camera' && frame.times.rate > 0")
        first = page.run("window.first = frame.ids.length")
        page.run("window.before = frame")
        page.until("frame !== before")
        assert first == page.run("frame.width * frame.height")
        assert page.run("Math.max(frame.width, frame.height)") == 640
        page.run("$('side').value = 0")
        page.until("Math.max(frame.width, frame.height) > 640")
        page.run("window.tracks = $('video').srcObject.getTracks()")
        page.click("#stop")
        assert page.run("source === null && tracks.every(track => track.readyState === 'ended')")
        assert not page.console


def test_a_video_is_shown_with_the_classes_of_its_own_frames(browser, tmp_path):
    path = tmp_path / "drive.webm"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 10, SIZE_HW[::-1])
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no VP8")
    for i in range(30):
        writer.write(np.full((*SIZE_HW, 3), 14 + 28 * (i // 5), np.uint8))
    writer.release()
    with served(by_brightness) as port:
        page = opened(browser, port)
        page.drop(path)
        seen, end_s = set(), time.monotonic() + 60
        while len(seen) < 4 and time.monotonic() < end_s:
            page.until("frame && frame.name === 'drive'")
            red, id_ = page.run(f"[{pixel('picture', 9, 9)}[0], frame.ids[9]]")
            assert abs(14 + 28 * id_ - red) < 14, "the classes are of the frame below them"
            seen.add(id_)
        assert len(seen) == 4
        page.click("#play")
        page.run("$('seek').value = 0.9; $('seek').dispatchEvent(new Event('input'))")
        page.until("frame.ids[9] === 5")
        assert page.run("$('play').textContent") == "Play"
        assert page.run("$('clock').textContent") == "0:02 / 0:03"
        assert not page.console


def test_a_server_that_has_ended_is_told(browser, tmp_path):
    with served() as port:
        page = opened(browser, port)
    page.drop(halves(tmp_path, 1, 1))
    page.until("$('said').textContent.includes('the server does not answer; was it stopped?')")


def test_a_page_of_another_origin_reaches_no_network(browser):
    seen = []

    class Hostile(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with served(lambda image: seen.append(image) or by_red(image)) as port:
        hostile = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
        threading.Thread(target=hostile.serve_forever, daemon=True).start()
        try:
            browser.open(f"http://127.0.0.1:{hostile.server_address[1]}/")
            body = f"Uint8Array.from({[*pictures.png(np.zeros((8, 8, 3), np.uint8))]})"
            for mode in ("cors", "no-cors"):
                asked = f"fetch('http://127.0.0.1:{port}/predict', {{method: 'POST', mode: '{mode}', body: {body}}})"
                found = browser.run(f"{asked}.then(r => r.type, e => e.name)")
                assert found in ("TypeError", "opaque")
        finally:
            hostile.shutdown()
            hostile.server_close()
    assert not seen


@pytest.mark.parametrize("is_dark", [False, True])
def test_laid_out_at_every_width_without_overflow(browser, tmp_path, is_dark):
    names = tuple(f"{'a_class_of_a_long_name' if i % 9 == 0 else 'class'}_{i}" for i in range(LONG))
    spec = dataclasses.replace(SPEC, classes=names, colors=distinct_colors(LONG))
    with served(segmenter=Segmenter(by_red, spec, engine="an engine that has a name of many words, " * 3)) as port:
        page = opened(browser, port)
        for is_welcome in (True, False):
            for width in (360, 768, 1280):
                page.look(width, 800, is_dark=is_dark, is_phone=width < 500)
                assert page.run("document.documentElement.scrollWidth <= innerWidth"), width
                paper, ink = (
                    sum(map(int, page.run(f"getComputedStyle(document.body).{key}").strip("rgb()").split(",")))
                    for key in ("backgroundColor", "color")
                )
                assert (paper < ink) == is_dark
                if not is_welcome:
                    shown = page.run("(r => [r.width, r.height])($('stage').getBoundingClientRect())")
                    assert min(shown) > 150
                    assert abs(shown[0] / shown[1] - SIZE_HW[1] / SIZE_HW[0]) < 0.02
            page.drop(*(halves(tmp_path, i, 8 - i, f"{i}.png") for i in range(9)))
            page.until("items.length === 9 && items.every(item => item.answer) && frame")

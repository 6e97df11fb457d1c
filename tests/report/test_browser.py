"""The page in a real headless Chromium: laid out at several widths, light and dark, no error, no request."""

import dataclasses
import json
import re
import subprocess

import chromium
import numpy as np
import pytest

from ddrnet_jax.evaluation.gallery import Gallery, short_name
from ddrnet_jax.report import page

MANY = 25
_WIDTHS = (360, 768, 1280)
# What the page's own policy forbids: a script that tells how it was laid out.
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_MEASURE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const broken = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = new Range();
  while (walk.nextNode())
    for (const word of walk.currentNode.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
      range.setStart(walk.currentNode, word.index);
      range.setEnd(walk.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) broken.push(word[0]);
    }
  const size = e => e.getBoundingClientRect(), all = selector => [...document.querySelectorAll(selector)];
  parent.postMessage({
    broken, width: innerWidth, content: document.documentElement.scrollWidth,
    shown: all("img").filter(i => i.naturalWidth > 0 && size(i).width > 100).length,
    drawn: all("svg").filter(s => size(s).width > 20 && size(s).height > 5).length,
    cells: all(".heat rect[fill-opacity]").length,
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color }, "*");
});</script>"""
_FRAMES = """<!DOCTYPE html><html><head><meta name="color-scheme" content="light dark"><script>const all = [];
addEventListener("message", e => { all.push(e.data); document.documentElement.dataset.all = JSON.stringify(all); });
</script></head><body>FRAMES</body></html>"""

pytestmark = pytest.mark.skipif(chromium.PATH is None, reason=chromium.WHY_SKIPPED)


def opened(path, folder, *flags):
    """(the page's elements as text after it was laid out, the console's lines, addresses that the page asked for)"""
    command = [
        chromium.PATH,
        *chromium.FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={folder / 'net.json'}",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        *flags,
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    events = (e.get("params", {}) for e in json.loads((folder / "net.json").read_text())["events"])
    # Chromium's own have no origin; a page of a file has the origin "null".
    asked = {e["url"] for e in events if "url" in e and e.get("initiator", "not an origin") != "not an origin"}
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console, {url for url in asked if not url.startswith("data:")}


def test_no_console_message_and_no_request(run, tmp_path):
    path = page.write([run], tmp_path)
    dom, console, asked = opened(path, tmp_path)
    assert not console
    assert not asked
    for name in ("summary", "classes", "curves", "confusions", "images", "config", "made"):
        assert f'id="{name}"' in dom
    assert dom.count("<img") == 32

    # Were there a request, this test would know; and the page's policy would not let it out.
    source = path.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>')
    path.write_text(source)
    _, console, asked = opened(path, tmp_path)
    assert "Content Security Policy" in " ".join(console)
    assert not asked
    path.write_text(_POLICY.sub("", source))
    _, console, asked = opened(path, tmp_path)
    assert asked == {"http://127.0.0.1:9/x.png"}


def with_many_classes(run):
    """The run with a heat map wider than a telephone, and names without a place to break."""
    classes = tuple(f"{'a_class_of_a_long_name' if i % 9 == 0 else 'class'}_{i}" for i in range(MANY))
    spec = dataclasses.replace(run.spec, classes=classes, colors=tuple((9 * i, 0, 99) for i in range(MANY)))
    values = {"val/miou": 0.5} | {f"val/iou/{name}": i / MANY for i, name in enumerate(classes)}
    confusion = np.random.default_rng(0).integers(0, 1000, (MANY, MANY))
    config = run.config | {"init_from": "/a/path/" + 300 * "x"}
    settings = run.evaluation.settings | {"data.eval_split": 80 * "e"}
    evaluation = dataclasses.replace(run.evaluation, values=values, confusion=confusion, settings=settings)
    seen = {s.name: s for s in (*run.gallery.worst, *run.gallery.best, *run.gallery.by_name.values())}
    gallery = Gallery(also=[short_name(name, "/data") for name in seen], root="/data")
    for s in seen.values():
        gallery({"name": s.name, "image": s.image, "label": s.label}, confusion, s.prediction)
    changed = {"name": f"/runs/{100 * 'y'}", "spec": spec, "config": config, "notes": [90 * "z"]}
    return dataclasses.replace(run, evaluation=evaluation, gallery=gallery, **changed)


@pytest.mark.parametrize("is_dark", [False, True])
def test_laid_out_at_every_width_without_overflow(run, other, tmp_path, is_dark):
    runs = [with_many_classes(r) for r in ([run, other] if is_dark else [run])]
    source = page.write(runs, tmp_path).read_text()
    assert len(_POLICY.findall(source)) == 1
    (tmp_path / "measured.html").write_text(_POLICY.sub("", source).replace("</body>", f"{_MEASURE}</body>"))
    frames = (f'<iframe src="measured.html" width="{width}" height="900"></iframe>' for width in _WIDTHS)
    (tmp_path / "frames.html").write_text(_FRAMES.replace("FRAMES", "".join(frames)))
    scheme = f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"
    dom, console, _ = opened(tmp_path / "frames.html", tmp_path, "--window-size=1400,1000", scheme)
    assert not console
    found = json.loads(re.search(r'data-all="([^"]*)"', dom).group(1).replace("&quot;", '"'))
    assert sorted(f["width"] for f in found) == [*_WIDTHS]
    curves, bars, maps = 3, MANY * len(runs), len(runs)
    for frame in found:
        assert frame["content"] <= frame["width"]
        assert frame["shown"] == (48 if len(runs) > 1 else 32)
        assert frame["drawn"] == curves + bars + maps
        assert not [word for word in frame["broken"] if len(set(word)) > 1]  # a letter 80 times has to break
        assert frame["cells"] == sum((r.evaluation.confusion > 0).sum() for r in runs)
        paper, ink = (sum(map(int, re.findall(r"\d+", frame[key]))) for key in ("paper", "ink"))
        assert (paper < ink) == is_dark

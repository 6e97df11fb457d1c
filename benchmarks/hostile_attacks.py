"""The attacks of hostile.py: what is prepared in the copied folder, the command over it, and how it has to end.

A folder has data/ (images and labels of two splits, 3 classes), mine.py (its config) and run/ (trained with it).
"""

import json
import os
import shutil
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

DONE, REFUSED, EITHER = (0,), (1,), (0, 1)
# What a run, and the modes, write of their own.
RUN = r"run/(\.ddrnet_jax|metrics\.jsonl|config\.json|report\.html|\.lock|tensorboard/|checkpoints/)"
TRAIN = ("--config", "mine.py", "--workdir", "run")
CHECK = ("--config", "mine.py", "--mode", "check_data", "--output", "checked")
REPORT = ("--mode", "report", "--workdir", "run", "--output", "out.html")
PREDICT = ("--mode", "predict", "--checkpoint", "run", "--output", "out")
HEADER = "from ddrnet_jax.config import base\ndef get_config():\n    config = base()\n"
CONFIG = f"""{HEADER}    config.data.name = "folder"
    config.data.root = "data"
    config.data.classes = ("background", "road", "car")
    config.batch_size = 2
    config.total_steps = 4
    config.log_every_steps = 1
    config.checkpoint.every_steps = 1
    config.data.crop_hw = (64, 64)
    config.loss.name = "cross_entropy"
    config.eval.every_steps = 0
    config.optimizer.warmup_steps = 0
"""


def _nothing(folder: Path) -> None:
    """No preparation."""


def _no_reason(folder: Path, said: str) -> str:
    """Nothing more to look at."""
    return ""


class Attack(NamedTuple):
    """One attack.

    argv     of the command line; or `script`, a line of bash with $CLI
    codes    exit codes that are right
    ours     pattern of the files that the command may change
    after    looks at the folder and at what was said: what is wrong, "" if nothing
    """

    kind: str
    name: str
    argv: tuple[str, ...] = ()
    prepare: Callable[[Path], object] = _nothing
    codes: tuple[int, ...] = REFUSED
    ours: str = RUN
    script: str = ""
    after: Callable[[Path, str], str] = _no_reason


def write_data(folder: Path) -> None:
    """The data set and the config."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / "data" / kind / split).mkdir(parents=True)
        for i in range(count):
            label = rng.integers(0, 3, (4, 6), np.uint8).repeat(16, 0).repeat(16, 1)
            image = (label[..., None] * 80 + rng.integers(0, 40, (64, 96, 3))).astype(np.uint8)
            cv2.imwrite(str(folder / "data" / "images" / split / f"{i}.png"), image)
            cv2.imwrite(str(folder / "data" / "labels" / split / f"{i}.png"), label)
    (folder / "mine.py").write_text(CONFIG + "    return config\n", "utf-8")


def all_attacks() -> Iterator[Attack]:
    """Every attack, those of a kind after one another."""
    for kind in (
        _config_code,
        _config_encodings,
        _numbers,
        _flags,
        _special_files,
        _pictures,
        _names,
        _metrics_lines,
        _steps,
        _workdirs,
        _outputs,
        _weights,
        _records,
        _streams,
        _signals,
        _surroundings,
    ):
        yield from kind()


# --- the config ---


def _config(*lines: str, encoding: str = "utf-8", head: str = "") -> Callable[[Path], object]:
    text = head + CONFIG + "".join(f"    {line}\n" for line in lines) + "    return config\n"
    return lambda folder: (folder / "mine.py").write_bytes(text.encode(encoding))


def _config_code() -> Iterator[Attack]:
    """Whatever the user's own code does."""
    lines = [
        *("raise BaseException('enough')", "raise GeneratorExit", "raise KeyError('a')", "raise SystemExit"),
        *("import sys; sys.exit(0)", "import sys; sys.exit('no')", "raise StopIteration", "raise MemoryError"),
        "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})",
        "raise type('E', (Exception,), {'__str__': lambda self: exit()})",
        "raise type('E', (BaseException,), {'__repr__': None, '__str__': None})",
        *(
            "f = lambda: f(); f()",
            "raise ExceptionGroup('a', [ValueError('b')])",
            "raise UnicodeDecodeError('a', b'b', 0, 1, 'c')",
        ),
        *("return None", "return 3", "return {}", "config.no_such_key = 1", "config = config.lock(); config.x = 1"),
        *("config.data = 3", "config.batch_size = '2'", "config.batch_size = None", "config.batch_size = [2]"),
        *("config.data.root = 'a' + chr(0)", "config.data.root = 'x' * 10**6", "config.data.root = chr(0xdcff)"),
        *("config.data.classes = (chr(0xdcff), 'b', 'c', 'd', 'e' * 10**5) * 60", "config.data.classes = ()"),
        *("config.data.scale_range = (0.5, float('nan'))", "config.data.images = '{'", "config.data.images = '{0.x}'"),
        *("import os; os.chdir('/'); raise OSError", "print('a' * 10**6); 1 / 0", "yield config", "1 +", "\0"),
    ]
    for line in lines:
        yield Attack("config: its code", line[:60], (*TRAIN[:2], "--workdir", "new"), _config(line))
    yield Attack("config: its code", "no get_config", TRAIN, lambda f: (f / "mine.py").write_text("x = 1\n", "utf-8"))
    yield Attack("config: its code", "empty", TRAIN, lambda f: (f / "mine.py").write_text("", "utf-8"))


def _config_encodings() -> Iterator[Attack]:
    """Python's own rules hold."""
    name = 'config.data.classes = ("straße", "grün", "c")'
    for encoding, head in (
        ("utf-8", "\ufeff"),
        ("utf-8", ""),
        ("latin-1", "# -*- coding: latin-1 -*-\n"),
        ("cp1252", "# vim: set fileencoding=cp1252 :\n"),
        ("utf-8", "\ufeff# coding: utf-8\n"),
        ("shift-jis", "# coding: shift-jis\n"),
    ):
        given = name if encoding != "shift-jis" else 'config.data.classes = ("日本", "b", "c")'
        yield Attack(
            "config: encodings", f"{encoding}, {head!r}", CHECK, _config(given, encoding=encoding, head=head), DONE
        )
    for encoding in ("latin-1", "utf-16", "utf-32"):
        yield Attack("config: encodings", f"{encoding}, not declared", CHECK, _config(name, encoding=encoding))
    declared = _config(name, head="# coding: klingon\n")
    yield Attack("config: encodings", "of no such encoding", CHECK, declared)
    ascii_locale = "env LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0 $CLI " + " ".join(CHECK)
    yield Attack("config: encodings", "UTF-8 under an ASCII locale", (), _config(name), DONE, script=ascii_locale)
    crlf = lambda f: (f / "mine.py").write_bytes((CONFIG + "    return config\n").replace("\n", "\r\n").encode())  # noqa: E731
    yield Attack("config: encodings", "lines of Windows", CHECK, crlf, DONE)


def _numbers() -> Iterator[Attack]:
    """Numbers that nothing holds, for every key."""
    from ddrnet_jax.config import base
    from ddrnet_jax.config.files import flatten

    for key, value in flatten(base().to_dict()).items():
        if isinstance(value, bool | str):
            continue
        for digits in (30, 400):
            number = "9" * digits
            text = f"({number}, {number})" if isinstance(value, tuple) or value is None else number
            argv = (*TRAIN[:2], "--workdir", "new", f"--config.{key}={text}")
            yield Attack(f"numbers of {digits} digits in an override", key, argv)
    for text in (
        "1e999",
        "-1e999",
        "nan",
        "0x" + "f" * 400,
        "1" * 5000,
        "(" * 200,
        "[" * 5000,
        "1j",
        "None",
        "''",
    ):
        argv = (*TRAIN[:2], "--workdir", "new", f"--config.batch_size={text}")
        yield Attack("odd numbers in an override", text[:30], argv)
    for key in ("data.scenes_hw", "data.crop_hw", "eval.size_hw", "eval.tile_hw"):
        argv = (*TRAIN[:2], "--workdir", "new", f"--config.{key}=(1000000000, 1000000000)")
        yield Attack("sizes that no machine holds", key, argv)
    export = ("--mode", "export", "--checkpoint", "run", "--format", "onnx", "--output", "a.onnx", "--size")
    for size in ("1000000000000x8", "100000x100000", "9" * 5000 + "x8", "0x8", "-8x8", "²x8", "8", "x", "8x8x8"):
        yield Attack("sizes that no machine holds", f"--size {size[:20]}", (*export, size))
    benchmark = ("--mode", "benchmark", "--output", "b")
    for flag, value in (
        ("sizes", "1000000000x1000000000"),
        ("batch_sizes", "9" * 400),
        ("seconds", "1e999"),
        ("seconds", "9" * 400),
        ("variants", "²"),
        ("engines", "none"),
    ):
        yield Attack("sizes that no machine holds", f"--{flag} {value[:20]}", (*benchmark, f"--{flag}", value))


# --- flags ---


def _flags() -> Iterator[Attack]:
    """Flags that say nothing, or name what is not there."""
    for flag in ("config", "workdir", "checkpoint", "input", "output", "compare", "size", "topology", "engines"):
        yield Attack("empty flags", f"--{flag} ''", (*PREDICT, f"--{flag}", ""))
    missing = "no/such/place"
    for name, argv in {
        "train": ("--config", missing),
        "evaluate": ("--config", "mine.py", "--mode", "evaluate", "--checkpoint", missing),
        "predict": (*PREDICT, "--input", missing),
        "predict by": ("--mode", "predict", "--checkpoint", missing, "--input", "data"),
        "report": ("--mode", "report", "--workdir", missing),
        "export": ("--mode", "export", "--checkpoint", missing, "--format", "pth", "--output", "a.pth"),
        "import": ("--mode", "import_weights", "--input", missing, "--output", "a"),
        "doctor": ("--config", "mine.py", "--mode", "doctor", "--checkpoint", missing),
        "a bucket": ("--mode", "predict", "--checkpoint", "gs://a/b", "--input", "data"),
        "a name too long": (*PREDICT, "--input", "x" * 5000),
        "no text": (*PREDICT, "--input", os.fsdecode(b"\xff")),
        "distributed": (*TRAIN, "--distributed", "localhost:99999999999,2,0"),
        "topology": ("--config", "mine.py", "--mode", "plan", "--topology", "²:9x9"),
    }.items():
        yield Attack("what is not there", name, argv)


# --- files that are no files ---


def _fifo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    here = os.getcwd()
    os.chdir(path.parent)  # the whole path may be longer than a socket's may
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)
    os.chdir(here)


def _device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


_KINDS = {"FIFO": _fifo, "socket": _socket, "device": _device, "link to itself": _loop, "folder": _folder}


def _special_files() -> Iterator[Attack]:
    """A FIFO, socket, device, loop or folder in the place of every file that is read."""
    for what, make in _KINDS.items():
        kind = f"{what} in the place of a file"
        for path, argv in {
            "data/images/train/0.png": CHECK,
            "data/labels/train/0.png": CHECK,
            "data/images/val/1.png": (*TRAIN[:2], "--workdir", "new"),
            "mine.py": CHECK,
            "run/metrics.jsonl": TRAIN,
            "run/config.json": TRAIN,
            "weights.pth": ("--mode", "import_weights", "--input", "weights.pth", "--output", "imported"),
            "weights.safetensors": (
                "--config",
                "mine.py",
                "--workdir",
                "new",
                "--config.init_from=weights.safetensors",
            ),
            "a.onnx": (
                "--mode",
                "predict",
                "--engine",
                "onnxruntime",
                "--checkpoint",
                "a.onnx",
                "--input",
                "data/images/val",
            ),
            "one.png": (*PREDICT, "--input", "one.png"),
            "film.mp4": (*PREDICT, "--input", "film.mp4"),
        }.items():
            is_passed_over = path.startswith("run/") or (what == "folder" and path.startswith("data/images"))
            codes = EITHER if is_passed_over else REFUSED
            yield Attack(kind, path, argv, lambda f, make=make, path=path: make(f / path), codes)
        yield Attack(
            kind, "run/metrics.jsonl in a report", REPORT, lambda f, make=make: make(f / "run/metrics.jsonl"), EITHER
        )
        images = (*PREDICT, "--input", "data/images/train")
        yield Attack(
            kind, "one of a folder to predict", images, lambda f, make=make: make(f / "data/images/train/0.png"), EITHER
        )


# --- pictures ---


def _large_png(width: int, height: int) -> bytes:
    """A PNG of one grey, which no more than its rows' number makes large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _pictures() -> Iterator[Attack]:
    """Damaged, foreign and enormous pictures, for the check, training and prediction."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    png, jpeg, tiff = (cv2.imencode(f".{kind}", image)[1].tobytes() for kind in ("png", "jpg", "tif"))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 16
    bad = {
        "empty": b"",
        "truncated PNG": png[:-30],
        "a bit flipped": bytes(flipped),
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "a page of HTML": b"<html>404</html>",
        "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "zeros": bytes(5000),
        "truncated TIFF": tiff[:200],
        "PNG of 2^31 x 2^31": png[:16] + b"\x7f\xff\xff\xff\x7f\xff\xff\xff" + png[24:],
        "header of a JPEG alone": jpeg[:4],
        "signature of a PNG alone": png[:8],
    }
    for name, data in bad.items():
        damage = lambda f, data=data: (f / "data/images/train/0.png").write_bytes(data)  # noqa: E731
        for mode, argv in (
            ("check", CHECK),
            ("train", (*TRAIN[:2], "--workdir", "new")),
            ("predict", (*PREDICT, "--input", "data/images/train")),
        ):
            yield Attack("damaged pictures", f"{name}, {mode}", argv, damage)
        label = lambda f, data=data: (f / "data/labels/train/0.png").write_bytes(data)  # noqa: E731
        yield Attack("damaged pictures", f"{name}, as a label", CHECK, label)
    enormous = lambda f: (f / "data/images/val/0.png").write_bytes(_large_png(30000, 30000))  # noqa: E731
    limited = f"ulimit -v {12 * 2**20}; $CLI "
    for mode, argv in (("check", CHECK), ("predict", (*PREDICT, "--input", "data/images/val"))):
        script = limited + " ".join(argv)
        yield Attack("pictures larger than the memory", f"30000x30000, {mode}", (), enormous, script=script)


# --- names ---


def _named(name: bytes) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for split in ("train", "val"):
            for kind in ("images", "labels"):
                place = os.fsencode(folder / "data" / kind / split)
                os.rename(place + b"/0.png", place + b"/" + name + b".png")

    return prepare


def _names() -> Iterator[Attack]:
    """Names in other encodings, that turn around, with controls, like flags."""
    names = {
        "latin-1": b"gr\xfcn",
        "shift-jis": "日本".encode("shift-jis"),
        "no text": b"\xff\xfe",
        "turned around": "\u202egnp.live".encode(),
        "decomposed": b"mu\xcc\x88nchen",
        "a new line": b"a\nb",
        "colours of a terminal": b"\x1b[31mred",
        "HTML": b"<script>alert(1)<",
        "a flag": b"--help",
        "a pattern": b"[a]*?{}%s",
        "long": b"n" * 200,
    }
    for name, raw in names.items():
        for mode, argv in (
            ("check", CHECK),
            ("train", (*TRAIN[:2], "--workdir", "new")),
            ("predict", (*PREDICT, "--input", "data/images/val")),
            ("report", REPORT),
        ):
            yield Attack("names", f"{name}, {mode}", argv, _named(raw), DONE)
    for name, raw in names.items():
        if raw[0:1] != b"-" and b"<" not in raw:
            workdir = os.fsdecode(raw)
            yield Attack(
                "names of a workdir",
                name,
                (*TRAIN[:2], "--workdir", f"in/{workdir}"),
                codes=EITHER,
                after=_readable(workdir),
            )
    film = lambda f: os.rename(_film(f), os.fsencode(f) + b"/\xff.mp4")  # noqa: E731
    yield Attack("names", "no text, film", (*PREDICT, "--input", os.fsdecode(b"\xff.mp4")), film)


def _film(folder: Path) -> bytes:
    path = folder / "film.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (96, 64), True)
    for _ in range(3):
        writer.write(np.zeros((64, 96, 3), np.uint8))
    writer.release()
    return os.fsencode(path)


def _readable(workdir: str) -> Callable[[Path, str], str]:
    """Whoever says that it has trained has a manifest in its last step."""

    def look(folder: Path, said: str) -> str:
        step = folder / "in" / workdir / "checkpoints" / "4"
        if "checkpoints" in said and "error: " not in said:
            manifests = len(list(step.rglob("manifest.ocdbt")))  # one of the whole beside those of its parts
            return "" if manifests > 1 else f"its last step has {manifests} manifest(s)"
        return ""

    return look


# --- what a run has on disk ---


def _metrics_lines() -> Iterator[Attack]:
    """Lines of metrics.jsonl that no run has written."""
    lines = {
        "deep nesting": "[" * 100_000,
        "nesting in a line": '{"step": 1, "a": ' + "[" * 5000 + "]" * 5000 + "}",
        "a step of 400 digits": '{"step": ' + "1" * 400 + ', "loss": 1}',
        "a step of 5000 digits": '{"step": ' + "1" * 5000 + "}",
        "a loss of 400 digits": '{"step": 1, "loss": ' + "1" * 400 + "}",
        "a loss of -1e999": '{"step": 1, "loss": -1e999}',
        "a score of 1e999": '{"step": 4, "val/miou": 1e999}',
        "a score of text": '{"step": 4, "val/miou": "high"}',
        "a step of -1e999": '{"step": -1e999, "loss": 1}',
        "a step below 0": '{"step": -5, "loss": 1}',
        "no step": '{"loss": 1}',
        "a list": "[1, 2]",
        "half a line": '{"step": 3, "lo',
        "zeros": "\0" * 4096,
        "keys of every kind": '{"step": 2, "": 1, "val/": 2, "val/iou/": 3, "val/iou/\\u202e": 0.5, "loss": {}}',
        "a loss that cannot be drawn": '{"step": 2, "loss": 1e308, "learning_rate": -1e308, "images_per_s": 0}',
    }
    for name, line in lines.items():

        def add(folder: Path, line: str = line) -> None:
            with (folder / "run/metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")

        yield Attack("lines of metrics.jsonl", f"{name}, resumed", TRAIN, add, DONE, after=_metrics_kept)
        yield Attack("lines of metrics.jsonl", f"{name}, reported", REPORT, add, DONE)


def _metrics_kept(folder: Path, said: str) -> str:
    found = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text("utf-8").splitlines()]
    steps = {line["step"] for line in found if "loss" in line}
    return "" if {1, 2, 3, 4} <= steps else f"metrics.jsonl has lost lines: {sorted(steps)}"


def _steps() -> Iterator[Attack]:
    """Folders in checkpoints/ that are no steps, and steps that are not whole."""
    for name in (
        "²",
        "٣",
        "007",
        "1-old.replaced",
        "x.replaced",
        "9" * 200,
        "-1",
        "1.0",
        "4 (copy)",
        "5.orbax-checkpoint-tm",
    ):

        def copy(folder: Path, name: str = name) -> None:
            shutil.copytree(folder / "run/checkpoints/4", folder / "run/checkpoints" / name)

        theirs = rf"run/(?!checkpoints/{name.replace('.', '.')}/)"
        for mode, argv in (("resumed", TRAIN), ("predicted", (*PREDICT, "--input", "data/images/val"))):
            yield Attack("folders that are no steps", f"{name[:30]}, {mode}", argv, copy, DONE, ours=theirs)
    damages = {
        "no metadata": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
        "metadata of nothing": lambda step: (step / "_CHECKPOINT_METADATA").write_text("{}", "utf-8"),
        "metadata nested deep": lambda step: (step / "_CHECKPOINT_METADATA").write_text("[" * 10**5, "utf-8"),
        "metadata a FIFO": lambda step: _fifo(step / "_CHECKPOINT_METADATA"),
        "empty": lambda step: [shutil.rmtree(step), step.mkdir()],
        "a file": lambda step: [shutil.rmtree(step), step.write_text("", "utf-8")],
        "largest file empty": lambda step: os.truncate(_largest(step), 0),
        "largest file cut": lambda step: os.truncate(_largest(step), _largest(step).stat().st_size // 2),
        "largest file a FIFO": lambda step: _fifo(_largest(step)),
        "largest file a folder": lambda step: _folder(_largest(step)),
    }
    for name, damage in damages.items():
        prepare = lambda f, damage=damage: damage(f / "run/checkpoints/4")  # noqa: E731
        yield Attack("damaged steps", f"{name}, resumed", TRAIN, prepare, EITHER)
        yield Attack("damaged steps", f"{name}, predicted", (*PREDICT, "--input", "data/images/val"), prepare, EITHER)


def _largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _workdirs() -> Iterator[Attack]:
    """Workdirs that are somebody else's, or have lost a part of themselves."""

    def foreign(folder: Path) -> None:
        (folder / "theirs").mkdir()
        for name in ("config.json", "metrics.jsonl", "report.html"):
            (folder / "theirs" / name).write_text('{"theirs": 1}\n', "utf-8")

    kind = "workdirs of others"
    yield Attack(kind, "their config.json, metrics.jsonl, report.html", (*TRAIN[:2], "--workdir", "theirs"), foreign)
    yield Attack(kind, "the data set", (*TRAIN[:2], "--workdir", "data"), codes=EITHER, ours="$^")
    yield Attack(kind, "a file", (*TRAIN[:2], "--workdir", "mine.py"))
    yield Attack(kind, "a step", (*TRAIN[:2], "--workdir", "run/checkpoints/4"))
    yield Attack(kind, "below a file", (*TRAIN[:2], "--workdir", "mine.py/run"))
    gone = lambda f: shutil.rmtree(f / "run/checkpoints")  # noqa: E731
    yield Attack(kind, "a run without its checkpoints, another seed", (*TRAIN, "--config.seed=5"), gone, ours="$^")
    yield Attack(kind, "a run without its config", TRAIN, lambda f: (f / "run/config.json").unlink())
    yield Attack(kind, "a run of another config", (*TRAIN, "--config.seed=5"))

    def swapped(folder: Path) -> None:
        for step in (folder / "run/checkpoints").iterdir():
            path = step / "_CHECKPOINT_METADATA"
            path.write_text(path.read_text("utf-8").replace('"seed": 0', '"seed": 7'), "utf-8")

    yield Attack(kind, "steps of another config", TRAIN, swapped)


def _outputs() -> Iterator[Attack]:
    """Outputs over inputs and over files that are not ours."""
    kind = "outputs over the user's files"
    yield Attack(kind, "masks/ of the input", (*PREDICT[:-1], "data2", "--input", "data2/images"), _with_masks)
    yield Attack(kind, "the input itself", (*PREDICT[:-1], "data2", "--input", "data2/masks"), _with_masks)
    yield Attack(kind, "a legend.png", (*PREDICT[:-1], "data2/images", "--input", "data2/images"), _with_masks, EITHER)
    yield Attack(kind, "a file", (*PREDICT[:-1], "mine.py", "--input", "data/images/val"))
    yield Attack(kind, "held out, masks/", (*PREDICT[:-1], "data2"), _with_masks)
    report = ("--mode", "report", "--workdir", "run", "--output")
    yield Attack(kind, "a page", (*report, "page.html"), lambda f: (f / "page.html").write_text("mine", "utf-8"))
    yield Attack(kind, "a config", (*report, "mine.py"))
    export = ("--mode", "export", "--checkpoint", "run", "--format", "pth", "--output")
    yield Attack(kind, "weights", (*export, "a.pth"), lambda f: (f / "a.pth").write_text("mine", "utf-8"))
    yield Attack(kind, "their card", (*export, "a.pth"), lambda f: (f / "a.pth.json").write_text("mine", "utf-8"))
    prepare = ("--config", "mine.py", "--mode", "prepare_data", "--output")
    yield Attack(kind, "records into the data", (*prepare, "data"), codes=EITHER)
    yield Attack(kind, "records into a file", (*prepare, "mine.py"))
    findings = lambda f: [(f / "notes").mkdir(), (f / "notes/findings.txt").write_text("mine", "utf-8")]  # noqa: E731
    yield Attack(kind, "findings.txt", (*CHECK[:-1], "notes"), findings)


def _with_masks(folder: Path) -> None:
    shutil.copytree(folder / "data/images/val", folder / "data2/images")
    shutil.copytree(folder / "data/labels/val", folder / "data2/masks")
    (folder / "data2/images/legend.png").write_bytes((folder / "data/images/val/0.png").read_bytes())
    (folder / "data2/legend.png").write_bytes(b"mine")


# --- weights and records ---


def _weights() -> Iterator[Attack]:
    """Files that are no weights, or say that they are more than they are."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    bad = {
        "empty": b"",
        "HTML": b"<html>",
        "a pickle that runs code": b"\x80\x02cos\nsystem\nX\x06\0\0\0touch xq\0\x85R.",
        "a pickle without end": b"\x80\x02" + b"(" * 10**5,
        "safetensors of 10^12": struct.pack("<Q", len(header)) + header,
        "safetensors with a header of 2^60": struct.pack("<Q", 2**60) + b"{" + bytes(100),
        "safetensors nested deep": struct.pack("<Q", 10**5) + b'{"a":' + b"[" * (10**5 - 5),
        "zip without entries": b"PK\x05\x06" + bytes(18),
        "half a zip": b"PK\x03\x04" + bytes(50),
        "text": b"1 2 3\n" * 100,
        "numpy": b"\x93NUMPY\x01\0" + bytes(100),
    }
    argv = ("--mode", "import_weights", "--input", "a.pth", "--output", "imported")
    for name, data in bad.items():
        yield Attack("files that are no weights", name, argv, lambda f, data=data: (f / "a.pth").write_bytes(data))

    def bomb(folder: Path) -> None:
        with zipfile.ZipFile(folder / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**8))

    yield Attack("files that are no weights", "a zip that grows to 100 MB", argv, bomb)
    start = ("--config", "mine.py", "--workdir", "new", "--config.init_from=a.pth")
    for name in ("empty", "HTML", "a pickle that runs code"):
        yield Attack(
            "files that are no weights",
            f"{name}, init_from",
            start,
            lambda f, d=bad[name]: (f / "a.pth").write_bytes(d),
        )


def _records() -> Iterator[Attack]:
    """Folders of ArrayRecords that are none."""
    argv = (*TRAIN[:2], "--workdir", "new", "--config.data.storage=array_record", "--config.data.root=records")
    for name, files in {
        "empty": {},
        "a manifest alone": {"manifest.json": "{}"},
        "a manifest nested deep": {"manifest.json": "[" * 10**5, "dataset_info.json": "{}"},
        "metadata of nothing": {"dataset_info.json": "{}", "features.json": "{}"},
        "metadata nested deep": {"dataset_info.json": "[" * 10**5, "features.json": "["},
        "metadata that is none": {"dataset_info.json": "\0", "features.json": "\0"},
    }.items():

        def write(folder: Path, files: dict = files) -> None:
            (folder / "records").mkdir()
            for file, text in files.items():
                (folder / "records" / file).write_text(text, "utf-8")

        yield Attack("records that are none", name, argv, write)

    def pipes(folder: Path) -> None:
        (folder / "records").mkdir()
        (folder / "records/dataset_info.json").write_text("{}", "utf-8")
        _fifo(folder / "records/features.json")

    yield Attack("records that are none", "a FIFO", argv, pipes)


# --- the process and what is around it ---


def _finished(folder: Path, said: str) -> str:
    return "" if (folder / "new/checkpoints/4").is_dir() else "the last step is not saved"


def _streams() -> Iterator[Attack]:
    """Readers of the output that go away."""
    train = "$CLI --config mine.py --workdir new"
    for redirection in (
        *("2>&1 | head -1", "2>&1 >/dev/null | head -1", ">/dev/full 2>&1", "2>/dev/full", "2>&-", ">&- 2>&-"),
        *("<&- >&- 2>&-", "2>&1 | true"),
    ):
        yield Attack(
            "output that nobody reads",
            f"train {redirection}",
            codes=DONE,
            script=f"{train} {redirection}",
            after=_finished,
        )
    check = f"$CLI {' '.join(CHECK)}"
    yield Attack("output that nobody reads", "check_data | head -1", codes=DONE, script=f"{check} | head -1")
    yield Attack("output that nobody reads", "check_data >/dev/full", script=f"{check} >/dev/full")


def _signals() -> Iterator[Attack]:
    """SIGTERM and Ctrl-C, and both twice."""
    start = "$CLI --config mine.py --workdir new --config.total_steps=100000 --config.checkpoint.every_steps=100 & "
    wait = "while ! grep -q '\"step\": 30,' new/metrics.jsonl 2>/dev/null; do sleep 0.2; done; "
    for signals, code in (
        (("TERM",), 75),
        (("INT",), 130),
        (("TERM", "TERM"), 75),
        (("INT", "INT"), 130),
        (("TERM", "INT"), 130),
    ):
        kills = "; ".join(f"kill -{name} $!" for name in signals)
        # Of a job in the background bash has Ctrl-C ignored, unless it controls jobs.
        script = f"set -m; {start} {wait} {kills}; wait $!"
        yield Attack("signals", " ".join(signals), codes=(code,), script=script)
    again = f"{start} {wait} kill -KILL $!; wait $!; {start} sleep 15; kill -TERM $!; wait $!"
    yield Attack("signals", "KILL, started again, TERM", codes=(75,), script=again)


def _surroundings() -> Iterator[Attack]:
    """Users without a name or a home, locales, backends that are not there, limits."""
    kind = "surroundings"
    train = "$CLI --config mine.py --workdir new"
    unknown = "unshare --user --map-user=12345 --map-group=12345 env -u USER -u HOME DDRNET_JAX_CACHE_DIR=$PWD/cache "
    yield Attack(kind, "a user without a name", codes=DONE, script=unknown + train, after=_kept)
    yield Attack(kind, "no home", codes=DONE, script=f"env -u HOME -u DDRNET_JAX_CACHE_DIR {train}")
    yield Attack(kind, "an ASCII locale", codes=DONE, script=f"env LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {train}")
    yield Attack(kind, "a cache that is a file", codes=DONE, script=f"env DDRNET_JAX_CACHE_DIR=mine.py {train}")
    predict = f"$CLI {' '.join(PREDICT)} --input data/images/val"
    for mode, command in (("train", train), ("predict", predict)):
        yield Attack(kind, f"no GPU, {mode}", script=f"env JAX_PLATFORMS=cuda {command}")
        yield Attack(kind, f"64 bits, {mode}", codes=EITHER, script=f"env JAX_ENABLE_X64=1 {command}")
    yield Attack(kind, "files of at most 100 KB", codes=EITHER, script=f"ulimit -f 100; {train}")
    yield Attack(kind, "20 open files", codes=EITHER, script=f"ulimit -n 20; {train}")
    away = train.replace("mine.py", "../mine.py")
    yield Attack(kind, "a folder that goes away", codes=EITHER, script=f"mkdir gone; cd gone; rmdir ../gone; {away}")


def _kept(folder: Path, said: str) -> str:
    is_kept = list(folder.glob("cache/*/*-cache")) and "Error writing" not in said
    return "" if is_kept else "no program is kept"

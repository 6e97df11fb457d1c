"""The flags of the command line: what there is, what each mode takes, --help."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Collection
from typing import Literal, NoReturn

from ddrnet_jax import downloads
from ddrnet_jax.bucket import BucketError, is_address, parts
from ddrnet_jax.errors import UserError
from ddrnet_jax.prediction.sources import is_stream
from ddrnet_jax.runtime.processes import AGAIN_EXIT_CODE
from ddrnet_jax.text import cut

_DESCRIPTION = "DDRNet: train, evaluate, predict; weights and data in and out."
_EXIT_CODES = f"""
exit codes:
  0    done
  1    an error, said in one line
  {AGAIN_EXIT_CODE}   training was told to stop (SIGTERM) and has saved its last step, or lost
       another process of its run, or a bucket does not answer: the same
       command goes on from the last checkpoint, as a loop around it or a
       scheduler may do
  130  stopped by Ctrl-C; training saves its last step first, a second Ctrl-C
       stops at once
"""
_EPILOG = """\
modes:
  train     train, evaluate and checkpoint in --workdir; run again, it resumes;
            --workdir, --checkpoint and --compare also take gs://BUCKET/RUN
  evaluate  mIoU and per-class IoU of --checkpoint on the config's eval split;
            of a classifier top-1 and top-5 accuracy; by --engine, or of an
            exported .onnx or .stablehlo file, by the same images and counter;
            --compare ENGINE or FILE: the pixels that differ, and where
  predict   --input (an image, a folder of images, or a video) -> OUTPUT/masks/
            <stem>.png (train ids) and OUTPUT/overlays/<stem>.png, of a video
            .mkv (lossless) and .mp4; --side_by_side shows the image beside;
            --input 0: a camera, rtsp:// and http://: streams, until Ctrl-C;
            without --input, the held-out images of the run (or of --config),
            and OUTPUT/samples.png;
            --checkpoint may be an exported .onnx or .stablehlo file; left out,
            camvid_23_slim predicts --input, which comes with the project
  serve     a page in the browser, for pictures, videos and the camera, and
            POST /predict for programs, at http://127.0.0.1:8000 (--port; 0:
            any that is free) until Ctrl-C; --host 0.0.0.0: for other machines;
            without --checkpoint by camvid_23_slim too
  pseudo_label  --input (frames without labels) -> OUTPUT/images/pseudo and
            OUTPUT/labels/pseudo, masks of --checkpoint to train on, 255 where
            it gives its class less than --confidence; it looks as the config's
            evaluation does (eval.scales, eval.flip), else the checkpoint's
  import_weights  --input (.pth, .pt, .safetensors) -> a checkpoint in --output,
            with a report; --config says for which data set, where the file
            does not tell
  export    --checkpoint -> --output as --format safetensors or pth, by the
            names of --naming, or as a program from u8 image to u8 mask with the
            weights inside: stablehlo (any size, runs with jax alone) or onnx
            (--size any, or of one size, HxW); and a card OUTPUT.json; --int8
            quantises an onnx file by --calibrate training images and says what
            it loses on the eval split (of --config, else the checkpoint's),
            and gains in time; beyond --max_loss points nothing is written
  benchmark  latency and FPS of the three networks (of --checkpoint's alone) at
            the paper's sizes by four protocols, beside --engines, as a table,
            JSON and a page in --output (default: runs/benchmark); it says first
            how long it will take
  check_data  what is wrong with the config's data set, every file by name,
            and a picture of samples, in --output; exit code 1 if training
            would fail
  report    --workdir (or --checkpoint) -> report.html in it, or --output: one
            self-contained page with scores, curves, confusions, the worst and
            best images and the config; --compare another workdir side by side
  submit    --checkpoint -> the zip of its Cityscapes test predictions that the
            test server takes, checked, in --output
  plan      memory, operations and estimated hours of the config on --topology
            (v5e:2x2, ...), compiled but not run; --output takes them as JSON
  doctor    why is my mIoU low? looks for the known causes in the config, its
            data and, if given, --checkpoint; exit code 1 if it found an error
  prepare_data  the config's data set -> ArrayRecords in --output, a folder or
            gs://BUCKET/FOLDER; run again, it completes what is missing

examples:
  python -m ddrnet_jax.main --config configs/demo.py --workdir runs/demo
  python -m ddrnet_jax.main --config configs/demo.py --config.total_steps=50
  python -m ddrnet_jax.main --config configs/demo.py --workdir runs/demo \\
      --distributed localhost:4321,2,0     (and in a second shell ...,2,1)
  python -m ddrnet_jax.main --mode evaluate --config configs/demo.py \\
      --checkpoint runs/demo
  python -m ddrnet_jax.main --mode predict --checkpoint runs/demo \\
      --input street.jpg --output out
  python -m ddrnet_jax.main --mode serve --checkpoint runs/demo
  python -m ddrnet_jax.main --mode report --workdir runs/demo \\
      --compare runs/other --output compared.html
  python -m ddrnet_jax.main --mode import_weights --input best_val.pth \\
      --output runs/official
  python -m ddrnet_jax.main --mode export --checkpoint runs/demo \\
      --format onnx --size 1024x2048 --output ddrnet.onnx
  python -m ddrnet_jax.main --mode benchmark --engines onnxruntime
"""


_MOST_PIXELS = 2**26  # of an image that a network sees at once
_MOST = 1e9  # of any other number


ENGINES = ("auto", "jax", "onnxruntime", "openvino")


class UsageError(UserError):
    """The flags do not make a command."""


# The flag that names trained weights, and so takes an address, where it is another than --checkpoint.
_WEIGHTS = {"import_weights": "input", "report": ""}

# The flags that name a run, which may be in a bucket.
_OF_RUNS = ("workdir", "checkpoint", "compare")

# The flags beside --config that a mode takes.
FLAGS = {
    "train": {"workdir", "distributed"},
    "evaluate": {"workdir", "checkpoint", "distributed", "engine", "compare"},
    "predict": {"workdir", "checkpoint", "input", "output", "engine", "side_by_side", "live"},
    "serve": {"workdir", "checkpoint", "engine", "host", "port"},
    "pseudo_label": {"workdir", "checkpoint", "input", "output", "confidence"},
    "import_weights": {"input", "output"},
    "export": {"workdir", "checkpoint", "output", "format", "naming", "dtype", "size", "int8", "calibrate", "max_loss"},
    "benchmark": {"checkpoint", "output", "engines", "variants", "sizes", "protocols", "batch_sizes", "seconds"},
    "submit": {"workdir", "checkpoint", "output"},
    "check_data": {"output"},
    "doctor": {"workdir", "checkpoint"},
    "prepare_data": {"output"},
    "report": {"workdir", "checkpoint", "compare", "output"},
    "plan": {"topology", "output"},
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists what there is")


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the KEY=VALUE texts of --config.KEY=VALUE in their order."""
    parser = _Parser(
        prog="python -m ddrnet_jax.main",
        usage="%(prog)s --config FILE [--mode MODE] [flags]",
        description=_DESCRIPTION,
        epilog=_EPILOG + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="config file, FILE or FILE:ARGUMENT")
    parser.add_argument("--mode", metavar="MODE", choices=FLAGS, default="train", help="see below (default: train)")
    parser.add_argument("--workdir", metavar="DIR", help="where a run lives (default: runs/<config name>)")
    parser.add_argument("--checkpoint", metavar="PATH", help="a workdir (its best, else latest step), a step, a file")
    parser.add_argument(
        "--distributed",
        metavar="HOW",
        help="train, evaluate: off (default); auto (TPU pod, SLURM); host:port,processes,index",
    )
    parser.add_argument(
        "--compare", metavar="DIR", help="report: a second workdir or step; evaluate: an engine or a file"
    )
    parser.add_argument("--input", metavar="PATH", help="image, folder, video, camera or stream; weights file")
    parser.add_argument("--output", metavar="PATH", help="where results go (predict: default predictions)")
    parser.add_argument("--format", choices=("safetensors", "pth", "stablehlo", "onnx"), help="of the exported file")
    parser.add_argument("--dtype", choices=("float32", "float16"), help="of exported kernels (default: float32)")
    parser.add_argument("--size", metavar="HxW", help="export: of the images a program takes, as 1024x2048, or any")
    parser.add_argument(
        "--engine", choices=ENGINES, help="predict, serve: default auto, the fastest here; evaluate: default jax"
    )
    parser.add_argument("--int8", action="store_true", help="export: quantise an onnx file")
    parser.add_argument("--calibrate", metavar="N", help="export: training images that calibrate int8 (default: 64)")
    parser.add_argument("--max_loss", metavar="POINTS", help="export: of mIoU, that int8 may cost (default: 1)")
    parser.add_argument("--confidence", metavar="P", help="pseudo_label: least probability, up to 1 (default: 0.9)")
    parser.add_argument("--side_by_side", action="store_true", help="predict: image and overlay in one picture")
    parser.add_argument("--live", action="store_true", help="predict: drop frames of a stream rather than delay them")
    parser.add_argument("--host", metavar="NAME", help="serve: address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", metavar="N", help="serve: default 8000; 0: any that is free")
    parser.add_argument("--verbose", action="store_true", help="what the libraries log too")
    parser.add_argument("--topology", metavar="NAME", help="accelerators to plan for; cpu: this machine")
    parser.add_argument(
        "--naming",
        choices=("official", "mmsegmentation", "super-gradients"),
        help="whose tensor names (default: official)",
    )
    benchmark = parser.add_argument_group("of benchmark; lists are separated by commas")
    benchmark.add_argument("--engines", metavar="LIST", help="beside ours: onnxruntime, int8, openvino, torch")
    benchmark.add_argument("--variants", metavar="LIST", help="default: 23_slim,23,39")
    benchmark.add_argument("--sizes", metavar="LIST", help="HxW each; default: 1024x2048,720x960,640x640")
    benchmark.add_argument("--protocols", metavar="LIST", help="default: paper,logits,mask,file")
    benchmark.add_argument(
        "--batch_sizes", metavar="LIST", help="images at a time; default: 1, of paper on GPUs 1 to 16"
    )
    benchmark.add_argument("--seconds", metavar="S", help="of forwards a row; default: 6")
    arguments, rest = parser.parse_known_args(argv)
    arguments.command = f"python -m ddrnet_jax.main {shlex.join(sys.argv[1:] if argv is None else argv)}"
    for name, value in vars(arguments).items():  # a shell leaves the ~ of --flag=~/folder as it is
        if isinstance(value, str) and value.startswith("~"):
            setattr(arguments, name, os.path.expanduser(value))
    for name in ("workdir", "checkpoint", "compare", "input", "output"):
        value = getattr(arguments, name) or ""
        is_of_weights = name == _WEIGHTS.get(arguments.mode, "checkpoint") and downloads.is_fetched(value)
        may_stream = name == "input" and arguments.mode == "predict" and is_stream(value)
        may_be_in_bucket = name in _OF_RUNS or (name, arguments.mode) == ("output", "prepare_data")
        is_in_bucket = may_be_in_bucket and is_address(value)
        if is_in_bucket:
            setattr(arguments, name, _address(name, value))
        if downloads.is_address(value) and not (is_of_weights or may_stream or is_in_bucket):
            raise UsageError(
                f"--{name} {value}: an address cannot be used here; download it, or mount the bucket (gcsfuse, "
                "Filestore), and give the path"
            )
    for name, value in vars(arguments).items():
        if value == "":  # as of a shell's variable that is not set
            raise UsageError(f"--{name}: an empty text given, expected a value; leave the flag out where none is meant")
    overrides = []
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--config."):
            raise UsageError(f"unknown argument {flag!r}; --help lists what there is")
        text = flag.removeprefix("--config.")
        if "=" not in text and rest and not rest[0].startswith("--"):
            text = f"{text}={rest.pop(0)}"
        overrides.append(text)
    for name in set().union(*FLAGS.values()) - FLAGS[arguments.mode]:
        if getattr(arguments, name):
            raise UsageError(f"--mode {arguments.mode} does not take --{name}; --help lists the modes and flags")
    return arguments, overrides


def _address(name: str, given: str) -> str:
    """gs://BUCKET/FOLDER, also of gs:/BUCKET/FOLDER/. Raises UsageError."""
    try:
        return "gs://" + "/".join(parts(given))
    except BucketError as e:
        raise UsageError(f"--{name} {e}") from e


def listed(arguments: argparse.Namespace, name: str, allowed: Collection[str] | None = None) -> list[str]:
    """The entries of a flag that takes a list, each once; none where it was not given. Raises UsageError."""
    text = getattr(arguments, name)
    entries = list(dict.fromkeys(entry.strip() for entry in text.split(","))) if text else []
    for entry in entries:
        if not entry or (allowed is not None and entry not in allowed):
            choices = f" of {', '.join(allowed)}" if allowed else ""
            raise UsageError(f"--{name} {text}: expected a list{choices}, separated by commas, found {entry!r}")
    return entries


def positive(text: str, name: str, kind: type[int] | type[float]) -> int | float:
    """The number of a flag. Raises UsageError."""
    with contextlib.suppress(ValueError):
        if 0 < (value := kind(text)) < _MOST:
            return value
    expected = "whole numbers" if kind is int else "a number"
    raise UsageError(f"--{name} {cut(text, 80)}: expected {expected} above 0 and below {_MOST:g}")


def probability(text: str, name: str) -> float:
    """The number of a flag, above 0 and at most 1. Raises UsageError."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) <= 1:
            return value
    raise UsageError(f"--{name} {cut(text, 80)}: expected a probability, above 0 and at most 1")


def port(text: str) -> int:
    """A number to listen at. Raises UsageError."""
    if text.isdecimal() and len(text) < 6 and int(text) < 2**16:
        return int(text)
    raise UsageError(f"--port {cut(text, 80)}: expected a whole number from 1 to 65535, or 0 for any that is free")


def size_or_any(text: str | None) -> tuple[int, int] | Literal["any"] | None:
    """As `size_hw`, or the word "any". Raises UsageError."""
    return "any" if text == "any" else size_hw(text)


def size_hw(text: str | None, name: str = "size") -> tuple[int, int] | None:
    """(height, width) of "1024x2048", None where the flag was not given. Raises UsageError."""
    parts = (text or "").lower().split("x")
    if not text:
        return None
    if not (len(parts) == 2 and all(p.isdecimal() and len(p) < 10 and int(p) > 0 for p in parts)):
        raise UsageError(f"--{name} {cut(text, 80)}: expected HEIGHTxWIDTH in pixels, as in 1024x2048")
    height, width = map(int, parts)
    if height * width > _MOST_PIXELS:
        raise UsageError(f"--{name} {text}: expected at most {_MOST_PIXELS:,} pixels in all")
    return height, width

"""What a user's disk, shell, editor or enemy can put before the command line: none of it loses data, hangs or crashes.

python benchmarks/hostile.py [--kinds KIND,...] [--json FILE] [--scratch DIR]

Each attack gets a copy of a small data set, its config and a trained run, and one command over it. Checked every time:
the command ends within its time; it ends as it has to, done or refused in one line, without a traceback or a signal;
and every file that was there and is not the run's own is as it was. Most attacks are made on one process, which is
started again when it dies or hangs; those on a process itself have one each.
The network is a small one, so that nothing but the attacks takes time.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

from hostile_attacks import Attack, all_attacks, write_data  # noqa: E402

_PATIENCE_S = 120
_ENDS = {0: "done", 1: "refused in one line", 75: "stopped, to go on", 130: "stopped by Ctrl-C"}
_BAD = ("Traceback (most recent call last)", "Segmentation fault", "terminate called", "*** Check failure")


# --- the command line with a small network ---


def with_small_network() -> None:
    """Experiments of one convolution a step: they compile in a second."""
    from flax import nnx

    from ddrnet_jax import build
    from ddrnet_jax.models import blocks
    from ddrnet_jax.models.ddrnet import Output

    of_config = build.experiment

    def experiment(config):
        e = of_config(config)

        class Small(nnx.Module):
            def __init__(self, rngs):
                self.trunk = nnx.Conv(3, 6, (8, 8), strides=8, rngs=rngs)
                self.bn = blocks.BatchNorm(6)
                self.head = nnx.Conv(6, e.spec.num_classes, (1, 1), rngs=rngs)

            def __call__(self, images):
                logits = self.head(self.bn(self.trunk(images)))
                return Output(logits, logits)

        return dataclasses.replace(e, network=Small)

    build.experiment = experiment


def serve() -> None:
    """Run the commands that come as lines of JSON on standard input, and answer each with a line."""
    from ddrnet_jax.cli import main as cli

    with_small_network()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    for line in requests:
        request = json.loads(line)
        os.chdir(os.fsencode(request["folder"]))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(request["argv"])
            except SystemExit as e:  # argparse
                code = e.code
            except BaseException:
                code = 70
                traceback.print_exc()
        print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), file=answers, flush=True)


class Server:
    """A process that runs commands, one after another."""

    def __init__(self, log: Path):
        self._log = log
        self._process: subprocess.Popen | None = None

    def run(self, folder: Path, argv: list[str]) -> tuple[int | None, str]:
        """(exit code, what was said); None where it had to be killed for its time."""
        if self._process is None:
            command = [sys.executable, __file__, "--serve"]
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        line = json.dumps({"folder": str(folder), "argv": argv}) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], _PATIENCE_S)[0]:
            self._end()
            return None, ""
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self._process = None
            return code, self._log.read_text("utf-8", "replace")[-2000:]
        found = json.loads(answer)
        return found["code"], found["out"] + found["err"]

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stdin.close()
            self._end()


def run_alone(folder: Path, script: str) -> tuple[int | None, str]:
    """The same of a line of bash in which $CLI is the command line, as a process of its own."""
    environment = os.environ | {"CLI": f"{sys.executable} {__file__} --cli", "PYTHONPATH": str(REPO)}
    try:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {script}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


# --- an attack and what came of it ---


@dataclasses.dataclass
class Result:
    """One attack: how it ended, and what was wrong with that ("" if nothing)."""

    kind: str
    name: str
    outcome: str
    problem: str
    seconds: float
    said: str


def files_below(folder: Path) -> Iterator[str]:
    """The files below a folder as paths relative to it, no pipes among them."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield os.path.relpath(path, folder)


def snapshot(folder: Path) -> dict[str, str]:
    """{path: hash of what it holds}"""
    found = {}
    for path in files_below(folder):
        with open(folder / path, "rb") as file:
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def attacked(attack: Attack, base: Path, folder: Path, server: Server) -> Result:
    """Prepare, run and judge one attack."""
    shutil.copytree(base, folder, symlinks=True)
    attack.prepare(folder)
    before, start = snapshot(folder), time.perf_counter()
    if attack.script:
        code, said = run_alone(folder, attack.script)
    else:
        code, said = server.run(folder, list(attack.argv))
    seconds = time.perf_counter() - start
    after = snapshot(folder)
    lost = sorted(p for p in before if after.get(p) != before[p] and not re.match(attack.ours, p))
    outcome, problem = judged(attack, code, said)
    if lost:
        outcome, problem = "data lost", f"{len(lost)} file(s) changed or gone: {lost[0]!r}; {problem}"
    if not problem and (reason := attack.after(folder, said)):
        outcome, problem = "not as it has to be", reason
    return Result(attack.kind, attack.name, outcome, problem, seconds, said[-600:])


def judged(attack: Attack, code: int | None, said: str) -> tuple[str, str]:
    """(outcome, what is wrong with it)"""
    last = (said.strip().splitlines() or [""])[-1]
    if code is None:
        return "hang", f"not done after {_PATIENCE_S} s"
    if any(text in said for text in _BAD):
        return "traceback", next((line for line in reversed(said.splitlines()) if line.strip()), "")[:300]
    if code < 0 or code >= 128 + 1 and code not in (130,):
        return "crash", f"ended by signal ({code})"
    outcome = _ENDS.get(code, f"{code}")
    if code == 1 and not re.search(r"^error: |error\(s\), ", said, re.MULTILINE):
        return "refused without a line", last[:300]
    if code == 1 and re.search(r"error\(s\), ", said):
        outcome = "named by the check"
    if attack.codes and code not in attack.codes:
        return outcome, f"exit code {code}, expected {attack.codes}: {last[:300]}"
    return outcome, ""


def main() -> None:
    """Make the attacks, print the table, keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", help="those whose names begin so, separated by commas")
    parser.add_argument("--json", type=Path, help="where the results are kept")
    parser.add_argument("--scratch", type=Path, help="a folder for the attacks; default: a new one, removed at the end")
    options = parser.parse_args()
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="hostile-"))
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    base, server = scratch / "base", Server(scratch / "server.log")
    try:
        write_data(base)
        code, said = server.run(base, ["--config", "mine.py", "--workdir", "run"])
        if code != 0:
            raise SystemExit(f"the run to attack could not be trained:\n{said}")
        wanted = tuple((options.kinds or "").split(","))
        results = []
        for number, attack in enumerate(all_attacks()):
            if attack.kind.startswith(wanted):
                results.append(attacked(attack, base, scratch / f"{number}", server))
                _tell(results[-1])
                shutil.rmtree(scratch / f"{number}", ignore_errors=True)
    finally:
        server.close()
        if options.scratch is None:
            shutil.rmtree(scratch, ignore_errors=True)
    print("\n".join(table(results)))
    if options.json:
        kept = [{**dataclasses.asdict(r), "seconds": round(r.seconds, 1)} for r in results]
        for result in kept:
            del result["said"]
        options.json.write_text(json.dumps({"attacks": len(kept), "results": kept}, indent=1) + "\n", "utf-8")
    sys.exit(any(result.problem for result in results))


def _tell(result: Result) -> None:
    mark = f"PROBLEM {result.problem}" if result.problem else ""
    print(
        f"{result.seconds:5.1f} s  {result.kind}: {ascii(result.name)[1:-1]}: {result.outcome} {ascii(mark)[1:-1]}",
        flush=True,
    )


def table(results: list[Result]) -> list[str]:
    """Kind, count and outcomes, as Markdown."""
    by_kind: dict[str, list[Result]] = {}
    for result in results:
        by_kind.setdefault(result.kind, []).append(result)
    lines = ["", "| attack | count | outcome | problems |", "|---|---|---|---|"]
    for kind, those in by_kind.items():
        outcomes = collections.Counter(result.outcome for result in those)
        text = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        lines.append(f"| {kind} | {len(those)} | {text} | {sum(bool(r.problem) for r in those) or ''} |")
    problems = sum(bool(result.problem) for result in results)
    return [*lines, f"| all | {len(results)} | | {problems} |"]


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    elif sys.argv[1:2] == ["--cli"]:
        del sys.argv[1]
        from ddrnet_jax import main as program

        with_small_network()
        program.run()
    else:
        main()

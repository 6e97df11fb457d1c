"""Training runs that are killed, starved and damaged over and over must end as if nothing had happened.

python benchmarks/fault_injection.py [--config FILE ...] [--faults 105 ...] [--seed 0] [--jobs 2] [--json FILE]
                                     [--scratch DIR]

A trial is one workdir. Its run is started, hit by a fault and started again until it is done; between two starts its
checkpoints are damaged. Checked every time: the fault has landed (exit code, a half-written save, files that differ);
the run goes on from the newest step that was complete and is undamaged, or refuses in one line; and the last
checkpoint and every logged loss equal, bit for bit, those of a run that nobody touched.
Full disks need root (a small tmpfs); without it a limit on the size of files stands in for them.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parent.parent
STEPS = 24
_FLAGS = (
    "--config.batch_size=2",
    f"--config.total_steps={STEPS}",
    "--config.log_every_steps=1",
    "--config.data.crop_hw=(64, 64)",
    "--config.data.scenes_hw=(64, 64)",
    "--config.data.scenes_train=16",
    "--config.data.scenes_eval=4",
    "--config.eval.batch_size=1",
    "--config.eval.every_steps=0",
    "--config.checkpoint.every_steps=2",
    "--config.optimizer.warmup_steps=2",
)
_TMPFS_BYTES = 700 * 2**20
_PATIENCE_S = 600  # of a start or a step on a busy machine
_READING = threading.Lock()


class Fault(NamedTuple):
    """One fault: what it was, what shows that it landed, and how the run took it."""

    kind: str
    evidence: str
    outcome: str
    config: str = ""
    problem: str = ""  # what was not as it has to be, of its trial


class Missed(Exception):
    """The run was over before the fault came."""


class Life:
    """The processes of one start of a run."""

    def __init__(self, trial: "Trial"):
        self.trial, count = trial, trial.processes
        self.log = trial.folder / f"life-{trial.lives}.log"
        trial.lives += 1
        command = [sys.executable, "-m", "ddrnet_jax.main", "--config", trial.config]
        command += ["--workdir", str(trial.workdir), *_FLAGS]
        address = f"localhost:{_free_port()}"
        self.processes = []
        for i in range(count):
            with (self.log if i == 0 else self.log.with_suffix(f".{i}.log")).open("w") as log:
                place = ["--distributed", f"{address},{count},{i}"] if count > 1 else []
                self.processes.append(
                    subprocess.Popen(
                        command + place, cwd=REPO, stdout=log, stderr=subprocess.STDOUT, env=_environment()
                    )
                )

    @property
    def text(self) -> str:
        """What the first process has said."""
        return self.log.read_text(errors="replace")

    @property
    def end(self) -> str:
        """The last of what it has said, for messages."""
        return f"{self.log}: ... {self.text[-1500:]}"

    @property
    def step(self) -> int:
        """The last step in the log, -1 before training."""
        return max((int(n) for n in re.findall(rf"^step (\d+)/{STEPS} ", self.text, re.M)), default=-1)

    @property
    def resumed(self) -> int | None:
        """The step that the run said to go on from, None before it did."""
        found = re.search(r"^resuming after step (\d+)", self.text, re.M)
        return int(found[1]) if found else 0 if "initial weights: random" in self.text else None

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Raises Missed if the first process ends before."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if self.processes[0].poll() is not None:
                raise Missed
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.log}: nothing for {_PATIENCE_S} s")
            time.sleep(0.002)

    def kill(self) -> None:
        """SIGKILL to every process that is left."""
        for p in self.processes:
            p.kill()
        for p in self.processes:
            p.wait()

    def wait(self) -> list[int]:
        """The exit codes of all processes."""
        return [p.wait(timeout=_PATIENCE_S) for p in self.processes]


class Trial:
    """One workdir, what was done to it and what it said."""

    def __init__(self, folder: Path, processes: int = 1, config: str = "configs/demo.py"):
        self.folder, self.workdir, self.processes, self.config = folder, folder / "run", processes, config
        self.lives = 0
        self.faults: list[Fault] = []
        self.suspect: int | None = None  # a step whose files were damaged since the last start
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def steps(self) -> list[Path]:
        """Complete steps, the newest first."""
        found = [p for p in self.workdir.glob("checkpoints/*") if p.name.isdigit()]
        return sorted((p for p in found if (p / "_CHECKPOINT_METADATA").exists()), key=lambda p: -int(p.name))

    def start(self) -> Life:
        """A start that goes on from the newest undamaged step, as its log says; checked here."""
        newest = [int(p.name) for p in self.steps]
        life = Life(self)
        try:
            self._check_start(life, newest)
        except BaseException:
            life.kill()
            raise
        return life

    def _check_start(self, life: Life, newest: list[int]) -> None:
        try:
            life.wait_until(lambda: life.resumed is not None)
        except Missed:
            raise AssertionError(f"the run did not start: {life.end}") from None
        expected = next((n for n in newest if n != self.suspect), 0)
        accepted = {expected, self.suspect} if self.suspect in newest else {expected}  # some files hold no numbers
        assert life.resumed in accepted, f"resumed after {life.resumed}, expected {accepted}: {life.end}"
        if self.suspect is not None:
            passed = life.resumed != self.suspect
            assert passed == (f"kept as {self.suspect}.damaged" in life.text), life.end
            outcome = "passed over" if passed else "needless file, all numbers verified"
            self.faults[-1] = self.faults[-1]._replace(outcome=outcome)
            self.suspect = None

    def interrupt(self, hit: Callable[..., tuple[str, str]], rng: random.Random, **options) -> None:
        """One start, hit by a fault while it runs."""
        life = self.start()
        try:
            kind, evidence = hit(life, rng, **options)
            self.faults.append(Fault(kind, evidence, "resumed"))
        except Missed:
            assert set(life.wait()) == {0}, life.end
        finally:
            life.kill()

    def damage(self, hit: Callable[..., str], rng: random.Random, **options) -> None:
        """Damage the newest of at least two steps."""
        if len(self.steps) > 1:
            newest = self.steps[0]
            before = _contents(newest)
            evidence = hit(newest, rng, **options)
            assert _contents(newest) != before, evidence
            self.faults.append(Fault(hit.__doc__.rstrip("."), f"step {newest.name}: {evidence}", "resumed"))
            self.suspect = int(newest.name) if newest.exists() else None

    def damage_all(self, rng: random.Random) -> None:
        """Damage every step: the run has to refuse in one line; then put copies back."""
        if not self.steps:
            return
        copy = shutil.copytree(self.workdir / "checkpoints", self.folder / "copy")
        evidence = "; ".join(f"{p.name}: {truncate(p, rng, arrays=True)}" for p in self.steps)
        life = Life(self)
        codes = life.wait()
        assert set(codes) == {1}, (codes, life.end)
        assert re.search(r"^error: .*none of its \d+ checkpoint\(s\) can be read.*$", life.text, re.M), life.end
        assert "Traceback" not in life.text, life.end
        shutil.rmtree(self.workdir / "checkpoints")
        shutil.move(copy, self.workdir / "checkpoints")
        self.faults.append(Fault("all steps truncated", evidence, "refused, restored, resumed"))

    def finish(self, reference: dict) -> None:
        """Run to the end, which must be that of the run that nobody touched."""
        life = self.start()
        codes = life.wait()
        assert set(codes) == {0}, (codes, life.end)
        assert outcome_of(self.workdir).items() == reference.items(), f"{self.workdir}: another end"


def sigkill(life: Life, rng: random.Random, after: int | None = None) -> tuple[str, str]:
    """SIGKILL at a random moment after the start."""
    _wait_for_a_moment(life, rng, after)
    return _kill(life)


def sigkill_in_a_save(life: Life, rng: random.Random, after: int | None = None) -> tuple[str, str]:
    """SIGKILL while a checkpoint is being written."""
    after = after or rng.randrange(3, 9)
    life.wait_until(lambda: _is_past(life, after) and _unfinished(life))
    time.sleep(rng.uniform(0, 0.03))
    return _kill(life)


def sigterm(life: Life, rng: random.Random, after: int | None = None) -> tuple[str, str]:
    """SIGTERM at a random moment, half of the time a second one soon after; to any of the processes."""
    _wait_for_a_moment(life, rng, after)
    victim = rng.choice(life.processes)
    victim.terminate()
    is_twice = rng.random() < 0.5 if after is None else False
    if is_twice:
        time.sleep(rng.uniform(0, 0.5))
        with contextlib.suppress(ProcessLookupError):
            victim.terminate()
    codes = life.wait()
    if 0 in codes:  # it came in the last step
        raise Missed
    saved = re.search(rf"^step (\d+) of {STEPS} is saved", life.text, re.M)
    newest = int(life.trial.steps[0].name) if life.trial.steps else 0
    assert newest == (int(saved[1]) if saved else life.resumed), life.end
    assert newest >= life.step
    # Between the handler's end and the process's own, a second SIGTERM has its usual effect: all is saved by then.
    assert set(codes) == {75} or (is_twice and set(codes) <= {75, -signal.SIGTERM}), (codes, life.end)
    kind = "SIGTERM to one of two processes" if len(codes) > 1 else "SIGTERM twice" if is_twice else "SIGTERM"
    return kind, f"exit codes {codes}, step {newest} saved"


def sigterm_in_the_evaluation(life: Life, rng: random.Random) -> tuple[str, str]:
    """SIGTERM during the evaluation after the last step: the step is saved, the next start evaluates it."""
    life.wait_until(lambda: "compiling evaluation" in life.text)
    time.sleep(rng.uniform(0, 0.2))
    life.processes[0].terminate()
    codes = life.wait()
    if 0 in codes:
        raise Missed
    if codes == [-signal.SIGTERM] and _is_evaluated(life.trial.workdir):
        raise Missed  # a run that is complete and evaluated is only shown again: there is nothing to save
    assert codes == [75], (codes, life.end)
    assert life.resumed == STEPS or f"step {STEPS} of {STEPS} is saved" in life.text, life.end
    assert int(life.trial.steps[0].name) == STEPS
    return "SIGTERM in an evaluation", f"exit codes {codes}, step {STEPS} saved without its score"


def _is_evaluated(workdir: Path) -> bool:
    """True if the log has the score of the last step, which is written after it was saved."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return any(line["step"] == STEPS and "val/miou" in line for line in lines)


def lose_one_of_two(life: Life, rng: random.Random, after: int | None = None) -> tuple[str, str]:
    """SIGKILL to one process of two at a random moment; the other must end by itself."""
    _wait_for_a_moment(life, rng, after)
    index = rng.randrange(2)
    life.processes[index].kill()
    start = time.monotonic()
    codes = life.wait()
    if codes[index] != -signal.SIGKILL:
        raise Missed
    assert codes[1 - index] == 75, (codes, life.end)
    seconds = time.monotonic() - start
    return "one process of two killed", f"process {index}, the other ended with {codes[1 - index]} in {seconds:.0f} s"


def fill_the_disk(life: Life, rng: random.Random, after: int | None = None) -> tuple[str, str]:
    """No space left, less of it than a checkpoint needs; freed once the run has ended."""
    after = after or rng.randrange(1, 8)
    life.wait_until(lambda: _is_past(life, after) and life.trial.steps)
    filler = life.trial.workdir / "filler"
    if os.path.ismount(life.trial.workdir):
        kind, left = "disk full (tmpfs)", rng.randrange(0, 50 * 2**20)
        with filler.open("wb") as file:
            while life.processes[0].poll() is None:  # also takes what old steps leave
                with contextlib.suppress(OSError):
                    grown = shutil.disk_usage(life.trial.workdir).free - left
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), max(grown, 1))
                time.sleep(0.01)
        evidence = f"{left / 2**20:.0f} MiB left"
    else:
        largest = _array_file(life.trial.steps[0]).stat().st_size
        kind, left = "disk full (file size limit)", int(rng.uniform(0.1, 0.7) * largest)
        for p in life.processes:
            resource.prlimit(p.pid, resource.RLIMIT_FSIZE, (left, left))
        evidence = f"files end at {left} bytes"
    codes = life.wait()
    filler.unlink(missing_ok=True)
    if 0 in codes:
        raise Missed
    (error,) = re.findall(r"^error: .*$", life.text, re.M)
    assert codes[0] == 1, (codes, life.end)
    assert "Traceback" not in life.text, life.end
    assert re.search("No space left|File too large", error), error
    return kind, f"{evidence}: {error}"


def truncate(step: Path, rng: random.Random, *, arrays: bool = False) -> str:
    """files of the newest step truncated."""
    path = _array_file(step) if arrays or rng.random() < 0.5 else rng.choice(_files(step))
    size = path.stat().st_size
    os.truncate(path, size // 2 if arrays else rng.choice((0, size // 2, size - 1)))
    return f"{path.relative_to(step)} from {size} to {path.stat().st_size} bytes"


def flip_a_bit(step: Path, rng: random.Random, *, arrays: bool = False) -> str:
    """a bit of the newest step flipped."""
    path = _array_file(step) if arrays or rng.random() < 0.6 else rng.choice(_files(step))
    position, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))
    return f"bit {bit} of byte {position} of {path.relative_to(step)}"


def remove(step: Path, rng: random.Random) -> str:
    """newest step removed."""
    shutil.rmtree(step)
    return "directory removed"


def empty(step: Path, rng: random.Random) -> str:
    """files of the newest step removed."""
    missing = _files(step) if rng.random() < 0.5 else [_array_file(step)]
    for path in missing:
        path.unlink()
    return f"{len(missing)} file(s) removed"


IN_A_LIFE = (sigkill_in_a_save, sigterm, sigkill, fill_the_disk, sigterm_in_the_evaluation)
BETWEEN_LIVES = (truncate, flip_a_bit, remove, empty)


def outcome_of(workdir: Path) -> dict:
    """A digest of every array of the last checkpoint by path, and every logged loss by step."""
    import jax  # only reads here; the runs are processes of their own
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    step = workdir / "checkpoints" / str(STEPS)
    with _READING:
        like = jax.tree.map(lambda m: np.broadcast_to(np.zeros((), m.dtype), m.shape), ocp.metadata(step).metadata)
        flat, _ = jax.tree_util.tree_flatten_with_path(ocp.load(step, like))
    arrays = {jax.tree_util.keystr(p): hashlib.sha256(np.ascontiguousarray(a)).hexdigest() for p, a in flat}
    assert all(part in "".join(arrays) for part in ("params", "batch_stats", "opt_state", "ema"))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in losses] == list(range(1, STEPS + 1)), losses
    return arrays | {"losses": losses, "miou": [line.get("val/miou") for line in lines][-1]}


def untouched(folder: Path, **options) -> dict:
    """The outcome of a run that nobody touches; options of Trial."""
    trial = Trial(folder, **options)
    life = trial.start()
    codes = life.wait()
    assert set(codes) == {0}, life.end
    return outcome_of(trial.workdir)


def many_faults(folder: Path, seed: int, reference: dict, **options) -> list[Fault]:
    """One trial of three starts hit by faults, the checkpoints damaged after each; and a last start to the end.

    options  of Trial
    """
    rng = random.Random(seed)
    trial = Trial(folder, **options)
    trial.workdir.mkdir()
    has_tmpfs = trial.processes == 1 and _mount(trial.workdir)
    try:
        hits = [lose_one_of_two, sigterm, lose_one_of_two]
        if trial.processes == 1:  # an evaluation comes at the end only
            hits = sorted(rng.sample(IN_A_LIFE, 3), key=lambda hit: hit is sigterm_in_the_evaluation)
        for hit in hits:
            trial.interrupt(hit, rng)
            if rng.random() < 0.15:
                trial.damage_all(rng)
            else:
                trial.damage(rng.choice(BETWEEN_LIVES), rng)
            for path in trial.workdir.glob("checkpoints/*.damaged*"):
                shutil.rmtree(path)  # evidence by now, and space
        trial.finish(reference)
        return trial.faults
    except Exception as e:
        traceback.print_exc()
        last = [] if trial.faults else [Fault("before the first fault", "", "")]
        return [f._replace(problem=f"{trial.folder}: {e}") for f in trial.faults + last]
    finally:
        if has_tmpfs:
            subprocess.run(["umount", "--lazy", trial.workdir], check=True)


def table(faults: list[Fault]) -> str:
    """Kinds, counts and outcomes."""
    lines = [f"{'config':16} {'fault':36} {'then':38} landed  same end"]
    for row in sorted({(f.config, f.kind, f.outcome) for f in faults}):
        group = [f for f in faults if (f.config, f.kind, f.outcome) == row]
        config, kind, outcome = row
        lines.append(f"{config:16} {kind:36} {outcome:38} {len(group):6}  {sum(not f.problem for f in group):8}")
    return "\n".join([*lines, f"{'all':92} {len(faults):6}  {sum(not f.problem for f in faults):8}"])


def main() -> int:
    """Run trials until enough faults have landed; 1 if a run took any of them wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, nargs="+", default=[105], help="at least so many of each config")
    parser.add_argument("--seed", type=int, default=0)
    os.environ["JAX_PLATFORMS"] = "cpu"
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    parser.add_argument("--json", type=Path, help="every fault with its evidence")
    parser.add_argument("--scratch", type=Path, help="an empty folder for the runs, kept; default: a temporary one")
    parser.add_argument("--config", nargs="+", default=["configs/demo.py"], help="tests/tiny.py is faster")
    arguments = parser.parse_args()
    if len(arguments.faults) != len(arguments.config):
        parser.error("--faults: expected a number for each --config")
    start = time.monotonic()
    faults: list[Fault] = []
    for config, count in zip(arguments.config, arguments.faults, strict=True):
        faults += trials_of(config, count, arguments)
    print(table(faults))
    if arguments.json:
        result = {"seconds": round(time.monotonic() - start), "seed": arguments.seed}
        text = json.dumps(result | {"faults": [f._asdict() for f in faults]}, indent=1)
        arguments.json.write_text(text + "\n")
    return int(any(f.problem for f in faults))


def trials_of(config: str, count: int, arguments: argparse.Namespace) -> list[Fault]:
    """Trials of one config until at least `count` faults have landed; every fourth trial is of two processes."""
    start = time.monotonic()
    faults: list[Fault] = []
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        if arguments.scratch:
            scratch = arguments.scratch / Path(config).stem
        references = {n: untouched(scratch / f"untouched-{n}", processes=n, config=config) for n in (1, 2)}
        print(f"{config}: two untouched runs in {time.monotonic() - start:.0f} s", flush=True)
        pool = stack.enter_context(ThreadPoolExecutor(arguments.jobs))
        number = 0
        while len(faults) < count:
            numbers = range(number, number + arguments.jobs)
            number += arguments.jobs
            trials = {n: 2 if n % 4 == 3 else 1 for n in numbers}
            running = [
                pool.submit(
                    *(many_faults, scratch / f"trial-{n}", arguments.seed * 1000 + n, references[processes]),
                    processes=processes,
                    config=config,
                )
                for n, processes in trials.items()
            ]
            for n, future in zip(trials, running, strict=True):
                faults += [fault._replace(config=config) for fault in future.result()]
                if not arguments.scratch:
                    shutil.rmtree(scratch / f"trial-{n}")
            print(f"{config}: {len(faults)} faults in {time.monotonic() - start:.0f} s", flush=True)
    return faults


def _kill(life: Life) -> tuple[str, str]:
    life.kill()
    codes = life.wait()
    if set(codes) != {-signal.SIGKILL}:
        raise Missed
    halves = sorted(p.name for p in _unfinished(life))
    if halves:
        return "SIGKILL in a save", f"left {', '.join(halves)}"
    return "SIGKILL", f"after step {max(life.step, 0)}"


def _wait_for_a_moment(life: Life, rng: random.Random, after: int | None = None) -> None:
    """Before the first step (compiling), or after one of the next and a part of the one after it."""
    after = after or rng.choice([0, *range(1, 10)])
    if after:
        life.wait_until(lambda: _is_past(life, after))
    time.sleep(rng.uniform(0, 0.5))


def _is_past(life: Life, steps: int) -> bool:
    """Whether this life has made so many steps, and there are checkpoints to damage."""
    return life.step >= life.resumed + steps and len(life.trial.steps) > 1


def _unfinished(life: Life) -> list[Path]:
    return list(life.trial.workdir.glob("checkpoints/*.orbax-checkpoint-tmp*"))


def _files(step: Path) -> list[Path]:
    return sorted(p for p in step.rglob("*") if p.is_file() and p.stat().st_size)


def _array_file(step: Path) -> Path:
    return max(_files(step), key=lambda p: p.stat().st_size)


def _contents(step: Path) -> dict[str, int]:
    return {str(p): hash(p.read_bytes()) for p in _files(step)} if step.exists() else {}


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_BYTES}", "tmpfs", folder]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def _environment() -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu"}


if __name__ == "__main__":
    sys.exit(main())

"""A stand-in for gcloud: queued resources that live in a folder, workers that are folders with a home of their own.

$FAKE_CLOUD/calls.txt    every call, one line each
$FAKE_CLOUD/state        the resource's state; none: there is no resource
$FAKE_CLOUD/coming       the states that the next looks will find, one a line
$FAKE_CLOUD/failing.txt  "PART TIMES" lines: calls that contain PART fail, this many times, with code 1
$FAKE_CLOUD/workers/I    home of worker I; gone with the resource
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
WORKERS = 2


def main(arguments: list[str]) -> int:
    call = " ".join(arguments)
    with (CLOUD / "calls.txt").open("a") as f:
        f.write(call.replace("\n", " ") + "\n")
    if is_failing(call):
        print("ERROR: (gcloud) PERMISSION_DENIED: no", file=sys.stderr)
        return 1
    assert arguments[:2] == ["compute", "tpus"], arguments
    kind, command, name, *flags = arguments[2:]
    options = dict(f.split("=", 1) for f in flags if "=" in f)
    assert options["--zone"] == "a-zone"
    return globals()[f"{kind}_{command}".replace("-", "_")](name, options)


def is_failing(call: str) -> bool:
    path = CLOUD / "failing.txt"
    left = [line.rsplit(" ", 1) for line in path.read_text().splitlines()] if path.exists() else []
    for entry in left:
        if entry[0] in call and int(entry[1]) > 0:
            entry[1] = str(int(entry[1]) - 1)
            path.write_text("".join(f"{a} {b}\n" for a, b in left))
            return True
    return False


def queued_resources_describe(name: str, options: dict) -> int:
    assert options["--format"] == "value(state.state)"
    if not (CLOUD / "state").exists():
        print(f"ERROR: NOT_FOUND: Resource 'queuedResources/{name}' was not found", file=sys.stderr)
        return 1
    state, coming = (CLOUD / "state").read_text(), (CLOUD / "coming").read_text().splitlines()
    if coming:
        state = coming.pop(0)
        (CLOUD / "state").write_text(state)
        (CLOUD / "coming").write_text("\n".join(coming))
    print(state)
    return 0


def queued_resources_create(name: str, options: dict) -> int:
    assert not (CLOUD / "state").exists(), "ALREADY_EXISTS"
    (CLOUD / "state").write_text("CREATING")
    (CLOUD / "coming").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE")
    for i in range(WORKERS):
        (CLOUD / "workers" / str(i)).mkdir(parents=True)
    return 0


def queued_resources_delete(name: str, options: dict) -> int:
    (CLOUD / "state").unlink()
    shutil.rmtree(CLOUD / "workers")
    return 0


def is_active() -> bool:
    return (CLOUD / "state").exists() and (CLOUD / "state").read_text() == "ACTIVE"


def tpu_vm_scp(source: str, options: dict) -> int:
    target = sys.argv[sys.argv.index(source) + 1]
    assert options["--worker"] == "all"
    if not is_active():
        return 1
    for i in range(WORKERS):
        shutil.copy(source, CLOUD / "workers" / str(i) / target.partition(":")[2])
    return 0


def tpu_vm_ssh(name: str, options: dict) -> int:
    """Like gcloud: on all workers at once, and the first worker's code that is not 0."""
    assert options["--worker"] == "all"
    if not is_active():
        return 1
    homes = [CLOUD / "workers" / str(i) for i in range(WORKERS)]
    command = next(a for a in sys.argv if a.startswith("--command=")).partition("=")[2]
    processes = [
        subprocess.Popen(["bash", "-c", command], cwd=home, env={**os.environ, "HOME": str(home)}) for home in homes
    ]
    codes = [process.wait() for process in processes]
    return 255 if not is_active() else next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

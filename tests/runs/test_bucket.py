"""A workdir in a bucket: as one on a disk, though a bucket has no rename, no append and no lock."""

import itertools
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddrnet_jax import bucket
from ddrnet_jax import config as config_lib
from ddrnet_jax.bucket import Bucket, BucketAway, BucketError
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.runs import find, lease, mirror, step_files
from ddrnet_jax.runs.lease import Lease
from ddrnet_jax.runs.save import Checkpoints, OtherRun
from ddrnet_jax.runs.step_files import CheckpointError
from ddrnet_jax.runs.steps import NotSaved
from ddrnet_jax.runs.workdir import WorkdirLost, claimed
from ddrnet_jax.training.interruption import Interruption, Preempted
from ddrnet_jax.weights import loading

_numbers = itertools.count()


@pytest.fixture
def address(storage):
    """Of a workdir that nobody has used."""
    yield f"gs://runs/test/{next(_numbers)}"
    storage.answer = None


def config(**changes):
    values = config_lib.base()
    values.update(changes)
    return config_files.to_json(values)


def state_of(step):
    rng = np.random.default_rng(step)
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jnp.asarray(rng.normal(size=(3, 40, 50)).astype(np.float32)), "bias": jnp.arange(3.0)},
        "opt_state": (jnp.asarray(rng.normal(size=(7,)).astype(np.float32)), ()),
    }


def checkpoints_in(address, **options):
    return Checkpoints(address, config(), keep=3, **options)


@pytest.fixture(scope="module")
def saved(storage):
    """A workdir with steps 1, 2 (the best) and 3."""
    manager = checkpoints_in("gs://runs/test/saved")
    for step, miou in ((1, 0.3), (2, 0.5), (3, None)):
        manager.save(step, state_of(step), miou)
    manager.close()


@pytest.fixture
def run(saved, address):
    """A copy to damage."""
    Bucket("gs://runs/test").copy("saved", address.rpartition("/")[2])
    return address


def resume(address):
    return checkpoints_in(address).resume(like=state_of(0))


def assert_is_step(resumed, step):
    assert resumed.step == step
    for a, b in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(state_of(step)), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def steps_in(address):
    return sorted({name.split("/")[1] for name in Bucket(address).objects("checkpoints/")})


def test_best_and_latest_are_kept_found_and_resumed(run):
    manager = checkpoints_in(run)
    resumed = manager.resume(like=state_of(0))
    assert_is_step(resumed, 3)
    assert resumed.warnings == []
    for step in (4, 5):
        manager.save(step, state_of(step), 0.1)
    manager.close()
    assert steps_in(run) == ["2", "3", "4", "5"]
    assert_is_step(resume(run), 5)
    best = find.find_step(run)
    assert best.name == "2"
    loaded = step_files.read(best, state_of(0))
    np.testing.assert_array_equal(loaded["params"]["kernel"], state_of(2)["params"]["kernel"])
    assert find.find_step(f"{run}/checkpoints/5").name == "5"
    assert find.find_step(f"{run}/checkpoints").name == "2"


def largest(address, step):
    below = Bucket(address).objects(f"checkpoints/{step}/state/ocdbt.process_0/d/")
    return max(below, key=lambda name: below[name].size)


def flip_a_bit(address, step):
    name = largest(address, step)
    data = bytearray(Bucket(address).objects(name)[name].download_as_bytes())
    data[3000] ^= 1
    Bucket(address).write(name, bytes(data))


DAMAGES = {
    "flipped bit": flip_a_bit,
    "missing arrays": lambda address, step: Bucket(address).remove(largest(address, step)),
    "missing description": lambda address, step: Bucket(address).remove(f"checkpoints/{step}/_CHECKPOINT_METADATA"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_passed_over_kept_and_saved_again(run, damage):
    DAMAGES[damage](run, 3)
    manager = checkpoints_in(run)
    resumed = manager.resume(like=state_of(0))
    assert_is_step(resumed, 2)
    (warning,) = resumed.warnings
    assert f"{run}/checkpoints/3: the checkpoint cannot be read" in warning
    assert "kept as 3.damaged, going on from step 2" in warning
    assert steps_in(run) == ["1", "2", "3.damaged"]
    manager.save(3, state_of(3))
    manager.close()
    assert_is_step(resume(run), 3)


def test_a_step_without_its_marker_is_none_and_is_cleared_away(run):
    """A kill in a save leaves the step's final name with all but the marker in it."""
    Bucket(run).remove(f"checkpoints/2/{bucket.MARKER}")
    assert find.find_step(run).name == "1"
    with pytest.raises(CheckpointError, match=f"{run}/checkpoints/2: no checkpoint here"):
        find.find_step(f"{run}/checkpoints/2")
    assert resume(run).warnings == []
    assert steps_in(run) == ["1", "3"]


def test_a_replacement_that_was_cut_short_is_finished(run):
    there = Bucket(run)
    there.copy("checkpoints/3", "checkpoints/3.replaced")
    assert_is_step(resume(run), 3)  # the replacement was not begun
    assert steps_in(run) == ["1", "2", "3"]
    there.copy("checkpoints/3", "checkpoints/3.replaced")
    there.remove(f"checkpoints/3/{bucket.MARKER}")  # it was not complete
    assert_is_step(resume(run), 3)
    assert steps_in(run) == ["1", "2", "3"]
    there.copy("checkpoints/3", "checkpoints/3.replaced")
    there.remove(f"checkpoints/3.replaced/{bucket.MARKER}")  # the copy was not
    assert_is_step(resume(run), 3)
    assert steps_in(run) == ["1", "2", "3"]


def test_a_late_score_replaces_a_step(run):
    manager = checkpoints_in(run)
    manager.save(3, state_of(3), 0.9)
    manager.close()
    assert find.find_step(run).name == "3"
    assert steps_in(run) == ["1", "2", "3"]


def test_a_step_beside_the_best_may_be_of_another_run(run):
    other = Checkpoints(run, config(seed=1))
    with pytest.raises(OtherRun, match=f"{run}/checkpoints/3: is of a run with another config.*: seed: 0 -> 1"):
        other.resume(like=state_of(0))
    assert steps_in(run) == ["1", "2", "3"]


def test_what_is_wrong_with_the_arrays_of_a_step_is_said_of_its_address(run):
    for name, blob in Bucket(run).objects("checkpoints/2/state/").items():
        if "/d/" in name:
            blob.upload_from_string(blob.download_as_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"^{run}/checkpoints/2: the checkpoint cannot be read"):
        loading.load_weights(find.on_this_disk(run))


def test_a_step_is_copied_again_only_where_it_has_changed(run, monkeypatch):
    find.find_step(run)
    fetched = []
    fetch = Bucket.fetch
    monkeypatch.setattr(
        Bucket, "fetch", lambda self, blobs, folder: (fetched.extend(blobs), fetch(self, blobs, folder))
    )
    find.find_step(run)
    assert fetched == []
    manager = checkpoints_in(run)
    manager.save(4, state_of(4), 0.9)
    manager.close()
    fetched.clear()
    assert find.find_step(run).name == "4"
    assert fetched
    assert all(name.startswith("checkpoints/4/") for name in fetched)


def test_a_step_that_was_copied_elsewhere_and_a_single_file_are_taken(run, address):
    there = Bucket("gs://runs/copies")
    for name, blob in Bucket(f"{run}/checkpoints/2").objects().items():
        there.write(f"step/{name}", blob.download_as_bytes())
    assert step_files.read(find.find_step("gs://runs/copies/step"), state_of(0))["step"] == 2
    there.write("w.pth", b"weights")
    assert find.on_this_disk("gs://runs/copies/w.pth").read_bytes() == b"weights"


# The claim.


@pytest.fixture
def quick_lease(monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_S", 0.1)
    monkeypatch.setattr(lease, "OLD_S", 0.6)


def test_what_is_written_beside_the_steps_is_there_again(address):
    with claimed(address, config()) as claim:
        (claim.folder / "metrics.jsonl").write_text('{"step": 1}\n')
        (claim.folder / "tensorboard").mkdir()
        (claim.folder / "tensorboard" / "events").write_bytes(b"1")
        claim.push()
        with (claim.folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2}\n')
        claim.check()
    names = ["config.json", "metrics.jsonl", "tensorboard/events"]
    assert sorted(Bucket(address).objects()) == names
    with claimed(address, config()) as claim:
        assert (claim.folder / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
        assert sorted(Bucket(address).objects()) == [lease.NAME, *names]


def test_a_run_writes_its_lines_to_the_bucket_while_it_goes_on(address, quick_lease):
    with claimed(address, config()) as claim:
        (claim.folder / "metrics.jsonl").write_text('{"step": 1}\n')
        deadline = time.monotonic() + 20
        while "metrics.jsonl" not in Bucket(address).objects():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_trackers_keep_is_there_again_but_pictures(address, monkeypatch):
    """A file that goes while the others are written is none of those that matter."""
    first, again = mirror.Mirror(address), mirror.Mirror(address)
    for name in ("tracker_id.txt", "mlruns/1/a/metrics/train/loss", "mlruns/1/a/artifacts/x.png", "wandb/gone"):
        (first.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (first.folder / name).write_text("0 1.5 5")
    state = mirror.Mirror._state

    def vanishing(self, name):
        if name == "wandb/gone":
            (self.folder / name).unlink()
        return state(self, name)

    monkeypatch.setattr(mirror.Mirror, "_state", vanishing)
    first.push()
    assert Bucket(address).objects("mlruns/1/a/artifacts/")
    again.pull()
    found = {p.relative_to(again.folder).as_posix() for p in again.folder.rglob("*") if p.is_file()}
    assert found == {"tracker_id.txt", "mlruns/1/a/metrics/train/loss"}


def test_a_folder_that_goes_during_a_push_stops_nothing(address, monkeypatch):
    here = mirror.Mirror(address)
    others = {"a": "b", "b": "a"}
    for name in others:
        (here.folder / "wandb" / name).mkdir(parents=True)
        (here.folder / "wandb" / name / "file").write_text("1")
    is_file = Path.is_file

    def vanishing(path):  # the first that is found ends the other, which was listed before
        if path.parent.name in others and is_file(path):
            shutil.rmtree(here.folder / "wandb" / others[path.parent.name], ignore_errors=True)
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", vanishing)
    here.push()
    assert len(Bucket(address).objects()) == 1


def test_a_log_is_pulled_however_long_it_is(address, monkeypatch):
    monkeypatch.setattr(mirror, "_MOST_BYTES", 20_000)
    for number in range(2):
        with claimed(address, config()) as claim, (claim.folder / "metrics.jsonl").open("a") as file:
            file.write(f'{{"step": {number}}}\n' * 2000)
    assert len(Bucket(address).read("metrics.jsonl")[1].splitlines()) == 4000


def test_a_workdir_is_of_one_config(run):
    with (
        pytest.raises(ConfigError, match=f"{run}/config.json: gone, but there are checkpoints"),
        claimed(run, config()),
    ):
        pass
    Bucket(run).write("config.json", json.dumps(config()).encode())
    with pytest.raises(ConfigError, match=f"{run}/config.json: this workdir was made with another config.*seed: 0"):
        claimed(run, config(seed=1)).__enter__()
    assert steps_in(run) == ["1", "2", "3"]
    assert lease.NAME not in Bucket(run).objects()


FOREIGN = {"config.json": b'{"model_type": "bert"}', "metrics.jsonl": b"x", "checkpoints/model.pt": b"weights"}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_folder_is_refused_before_anything_is_written(address, name):
    Bucket(address).write(name, FOREIGN[name])
    with pytest.raises(ConfigError, match="choose another --workdir") as e:
        claimed(address, config()).__enter__()
    assert str(e.value).startswith(address)
    assert list(Bucket(address).objects()) == [name]


def test_a_second_run_ends_in_one_line(address, quick_lease):
    with claimed(address, config()) as first:
        with pytest.raises(ConfigError, match=f"--workdir {address}: another run is writing there"):
            claimed(address, config()).__enter__()
        first.check()


def test_the_lease_of_a_run_that_was_killed_is_taken_over(address, quick_lease, said, monkeypatch):
    killed = claimed(address, config())
    first = killed.__enter__()
    first._lease._done.set()  # as after SIGKILL: it is not renewed, and not given back
    start = time.monotonic()
    with claimed(address, config()) as second:
        assert 0.3 < time.monotonic() - start < 20
        second.check()
    waiting, gone_on = said
    assert "was here 0 s ago and has not ended; waiting for a sign of it, or 1 s more, in case it was killed" in waiting
    assert waiting.startswith(f"{address}: another run (")
    assert gone_on.endswith("no longer runs; going on in its place")


def test_who_waits_for_another_run_can_be_stopped(address, quick_lease, monkeypatch):
    monkeypatch.setattr(lease, "OLD_S", 1000.0)
    killed = claimed(address, config())
    first = killed.__enter__()
    first._lease._done.set()
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted, match="stopped by SIGTERM"):
            claimed(address, config(), interruption.check).__enter__()
    first.check()


@pytest.mark.parametrize("renewed_s", [0.1, 1000.0])  # by its thread, and by itself before it writes
def test_a_run_that_was_robbed_of_its_lease_writes_no_more(address, quick_lease, monkeypatch, renewed_s):
    monkeypatch.setattr(lease, "RENEWED_S", renewed_s)
    robbed = claimed(address, config())
    first = robbed.__enter__()
    (first.folder / "metrics.jsonl").write_text("mine")
    Bucket(address).remove(lease.NAME)
    with Lease(Bucket(address)):
        with pytest.raises(WorkdirLost, match=f"--workdir {address}: another run has taken it over") as e:
            first.check()
        Bucket(address).remove("metrics.jsonl")
        robbed.__exit__(type(e.value), e.value, None)
        assert "metrics.jsonl" not in Bucket(address).objects()
        assert lease.NAME in Bucket(address).objects()


def test_of_two_runs_that_begin_at_once_one_goes_on(address, quick_lease):
    results, line = [], threading.Barrier(2)

    def begin():
        line.wait()
        try:
            with Lease(Bucket(address)):
                results.append("runs")
                time.sleep(1)
        except ConfigError as e:
            results.append(str(e))

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("runs") == 1
    assert sum("another run is writing there" in result for result in results) == 1


# What goes wrong.


@pytest.mark.parametrize(
    "wrong",
    ["gs://runs", "gs://runs/", "gs://r/run", "gs://RUNS/run", "gs://runs/a//b", "gs://runs/../b", "gs://runs/a*"],
)
def test_what_is_no_address_of_a_folder_is_refused(wrong):
    with pytest.raises(BucketError, match="expected gs://BUCKET/FOLDER"):
        Bucket(wrong)


def test_a_path_of_an_address_is_that_address(storage, tmp_path):
    assert str(Bucket(type(tmp_path)("gs://runs/a/b"))) == "gs://runs/a/b"


def test_a_bucket_that_is_not_there_is_one_line(storage):
    for act in (find.find_step, lambda place: claimed(place, config()).__enter__()):
        with pytest.raises(BucketError, match="gs://no-such/run: there is no bucket 'no-such'") as e:
            act("gs://no-such/run")
        assert "\n" not in str(e.value)


def test_a_bucket_that_refuses_says_which_roles_are_missing(run, storage):
    storage.answer = 403
    for act in (find.find_step, lambda place: claimed(place, config()).__enter__()):
        with pytest.raises(
            BucketError, match=r"refuses \(403\).*storage.objectUser and storage.legacyBucketReader"
        ) as e:
            act(run)
        assert "\n" not in str(e.value)
        assert not isinstance(e.value, BucketAway)


def test_a_bucket_that_does_not_answer_for_long_is_one_line(run, storage, monkeypatch):
    monkeypatch.setattr(bucket, "_PATIENCE_S", 1)
    for storage.answer in (503, "nothing"):
        with pytest.raises(BucketAway, match=f"{run}: the bucket does not answer") as e:
            find.find_step(run)
        assert "\n" not in str(e.value)


def test_a_bucket_that_is_overloaded_for_a_while_is_asked_again(run, storage):
    storage.answer, storage.refused = 503, 0
    timer = threading.Timer(1.0, lambda: setattr(storage, "answer", None))
    timer.start()
    assert find.find_step(run).name == "2"
    assert storage.refused > 0


def test_a_network_that_is_away_is_no_damage(run, storage, monkeypatch):
    monkeypatch.setattr(bucket, "_PATIENCE_S", 0.5)
    manager = checkpoints_in(run)
    fetched = manager._steps.fetched

    def cut(step):
        storage.answer = "nothing"
        return fetched(step)

    monkeypatch.setattr(manager._steps, "fetched", cut)
    with pytest.raises(BucketAway):
        manager.resume(like=state_of(0))
    storage.answer = None
    assert_is_step(resume(run), 3)
    assert steps_in(run) == ["1", "2", "3"]


def test_a_save_that_the_bucket_does_not_get_can_be_tried_again(run, monkeypatch):
    manager = checkpoints_in(run)
    monkeypatch.setattr(manager._orbax(), "save_async", lambda *_, **__: 1 / 0)
    with pytest.raises(
        NotSaved, match=f"{run}/checkpoints/4: the checkpoint cannot be saved .*run the same command"
    ) as e:
        manager.save(4, state_of(4))
    assert "\n" not in str(e.value)
    manager.close()
    assert_is_step(resume(run), 3)


def test_without_the_library_one_line_says_how_to_install_it(monkeypatch):
    bucket._client.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(BucketError, match=r"buckets need gcsfs; install the extra: pip install 'ddrnet-jax\[gcs\]'"):
        Bucket("gs://runs/a")

"""ArrayRecords in a bucket: the samples of those on a disk, resumed likewise; what goes wrong is one line."""

import itertools
import json
import threading

import pytest

from ddrnet_jax import bucket
from ddrnet_jax import config as config_lib
from ddrnet_jax import main as main_lib
from ddrnet_jax.bucket import Bucket
from ddrnet_jax.data.errors import DataAway, DataError
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.records.prepare import prepare
from ddrnet_jax.data.sources import Scenes
from ddrnet_jax.errors import TryAgain

SMALL = 3000  # bytes: a shard holds one or two scenes
_numbers = itertools.count()


def sources(count=7):
    return {
        "train": Scenes(count, seed=0, size_hw=(32, 48)),
        "val": Scenes(3, seed=1, size_hw=(32, 48)),
    }


def write(output, **options):
    return prepare(sources(), output, name="scenes", shard_bytes=SMALL, **options)


@pytest.fixture
def address(storage):
    """Of a folder that nobody has used."""
    yield f"gs://runs/records/{next(_numbers)}"
    storage.answer, storage.noticed = None, lambda method, path: None


@pytest.fixture
def uploaded(monkeypatch):
    """The names of the shards that reach the bucket."""
    names = []
    upload = Bucket.upload

    def noted(self, name, path, sha256):
        blob = upload(self, name, path, sha256)
        names.append(name)
        return blob

    monkeypatch.setattr(Bucket, "upload", noted)
    return names


def test_the_bucket_has_the_files_of_a_disk_and_gives_their_samples(address, tmp_path, uploaded):
    assert write(address) == write(tmp_path / "records") == {"train": 7, "val": 3}
    there = Bucket(address).objects()
    assert {*there} == {path.name for path in (tmp_path / "records").iterdir()} - {".prepare.lock"}
    for name in uploaded:
        assert there[name].download_as_bytes() == (tmp_path / "records" / name).read_bytes()
    for split in ("train", "train[2:5]", "train+val"):
        remote, local = (ArrayRecords(place, split, Scenes.spec) for place in (address, tmp_path / "records"))
        assert len(remote) == len(local)
        assert remote.names() == local.names()
        for index in range(len(local)):
            a, b = remote.encoded(index), local.encoded(index)
            assert (a.image, a.label) == (b.image, b.label)
            assert a.name == f"{address}/{local.names()[index]}"
    again = ArrayRecords(f"{address}/", "val", Scenes.spec)
    assert {*again.places()} <= {*ArrayRecords(address, "train+val", Scenes.spec).places()}


def test_a_second_run_writes_only_what_is_missing_or_another(address, uploaded):
    write(address)
    first, second, third, *rest = sorted(uploaded)
    assert rest
    there = Bucket(address)
    there.remove(first)
    there.write(second, b"other")
    there.write(third, there.objects()[third].download_as_bytes()[::-1])  # of the same size
    uploaded.clear()
    write(address)
    assert sorted(uploaded) == [first, second, third]
    uploaded.clear()
    before = {name: blob.generation for name, blob in there.objects().items() if name.endswith("_record")}
    write(address)
    assert uploaded == []
    assert before.items() <= {name: blob.generation for name, blob in there.objects().items()}.items()


def test_large_shards_are_sent_in_several_requests(address, uploaded, monkeypatch):
    monkeypatch.setattr("google.cloud.storage.blob._MAX_MULTIPART_SIZE", 1000)
    write(address)
    assert len(ArrayRecords(address, "train+val", Scenes.spec).names()) == 10
    uploaded.clear()
    write(address)
    assert uploaded == []


@pytest.mark.parametrize("request_number", [1, 2, 4, 7, 11, 16, -1])
def test_an_upload_that_was_cut_short_is_no_data_and_goes_on(address, storage, uploaded, monkeypatch, request_number):
    """The network goes away at a request that writes; -1: at the last one, of dataset_info.json."""
    monkeypatch.setattr(bucket, "_PATIENCE_S", 0.2)
    left = itertools.count(request_number, -1)

    def cut(method, path):
        is_last = "dataset_info.json" in path
        if method == "POST" and (is_last if request_number < 0 else next(left) <= 1):
            storage.answer = "nothing"

    storage.noticed = cut
    with pytest.raises(DataAway, match=f"{address}: the bucket does not answer") as e:
        write(address, num_threads=1)
    assert "\n" not in str(e.value)
    storage.answer, storage.noticed = None, lambda method, path: None
    with pytest.raises(DataError, match=f"{address}: has no dataset_info.json"):
        ArrayRecords(address, "val", Scenes.spec)
    noted = Bucket(address).read("manifest.json")
    splits = json.loads(noted[1])["splits"] if noted else {}
    safe = {name for split in splits.values() for name in split["files"]}
    assert safe <= {*uploaded}
    uploaded.clear()
    write(address)
    assert not safe & {*uploaded}
    assert len(ArrayRecords(address, "train+val", Scenes.spec).names()) == 10


def test_of_two_that_write_at_once_one_ends(address, monkeypatch):
    upload, others = Bucket.upload, []

    def beside(self, name, path, sha256):
        if not others:
            others.append(name)
            write(address)
        return upload(self, name, path, sha256)

    monkeypatch.setattr(Bucket, "upload", beside)
    with pytest.raises(DataError, match=f"{address}/manifest.json: another prepare_data has written here"):
        write(address, num_threads=1)  # the other comes first in any case
    assert len(ArrayRecords(address, "train+val", Scenes.spec).names()) == 10


def test_another_data_set_is_not_written_over(address):
    Bucket(address).write("train.array_record-00000-of-00001", b"theirs")
    with pytest.raises(DataError, match=f"{address}/train.array_record-.*: is not of prepare_data"):
        write(address)
    assert len(Bucket(address).objects()) == 1


def test_missing_files_are_named(address):
    with pytest.raises(DataError, match=f"{address}: has no dataset_info.json; expected what prepare_data"):
        ArrayRecords(address, "train", Scenes.spec)
    write(address)
    with pytest.raises(DataError, match=f"{address}: has no split 'test'"):
        ArrayRecords(address, "test", Scenes.spec)
    shard = min(name for name in Bucket(address).objects() if "-val." in name)
    Bucket(address).remove(shard)
    with pytest.raises(DataError, match=f"{address}/{shard}: no such file, expected .* bytes"):
        ArrayRecords(address, "val", Scenes.spec)
    Bucket(address).write(shard, b"cut")
    with pytest.raises(DataError, match=f"{address}/{shard}: 3 bytes, expected"):
        ArrayRecords(address, "val", Scenes.spec)


# What goes wrong.


def ways_in(address):
    return (lambda: ArrayRecords(address, "train", Scenes.spec), lambda: write(address))


def test_a_bucket_that_refuses_is_not_there_or_does_not_answer_is_one_line(address, storage, monkeypatch):
    monkeypatch.setattr(bucket, "_PATIENCE_S", 0.2)
    for answer, place, message in (
        (403, address, r"the bucket refuses \(403\).*storage.objectUser"),
        (None, "gs://no-such/records", "there is no bucket 'no-such'"),
        (503, address, "the bucket does not answer"),
        ("nothing", address, "the bucket does not answer"),
        (None, "gs://runs", "expected gs://BUCKET/FOLDER"),
    ):
        storage.answer = answer
        for act in ways_in(place):
            with pytest.raises(DataError, match=f"{place}: {message}") as e:
                act()
            assert "\n" not in str(e.value)
            assert isinstance(e.value, TryAgain) == ("does not answer" in message)


def test_a_record_that_cannot_be_read_is_the_buckets_fault_before_it_is_damage(address, storage, monkeypatch):
    monkeypatch.setattr(bucket, "_PATIENCE_S", 0.2)
    write(address)
    source = ArrayRecords(address, "train", Scenes.spec)
    source.encoded(0)
    storage.answer = 403
    with pytest.raises(DataError, match=rf"{address}: the bucket refuses \(403\)"):
        source.encoded(0)
    storage.answer = "nothing"  # array_record itself asks for a quarter of an hour
    monkeypatch.setattr(source, "_records", None)
    with pytest.raises(DataAway, match=f"{address}: the bucket does not answer"):
        source.encoded(0)
    storage.answer = None
    with pytest.raises(DataError, match=f"{address}/scenes-train.array_record-00000-of-.*: cannot be read") as e:
        source.encoded(0)
    assert not isinstance(e.value, DataAway)


def test_the_network_may_be_away_for_a_while(address, storage):
    write(address)
    source = ArrayRecords(address, "train", Scenes.spec)
    expected = source.encoded(1)
    storage.answer, storage.refused = 503, 0
    threading.Timer(0.5, lambda: setattr(storage, "answer", None)).start()
    assert source.encoded(1) == expected
    assert storage.refused


# The command line.


@pytest.fixture
def command(storage, tmp_path, capsys):
    """Runs a mode on small scenes; returns its code and all that it has said."""
    path = tmp_path / "config.py"
    path.write_text(
        "from ddrnet_jax import config\n"
        "def get_config():\n"
        "    c = config.base()\n"
        "    c.data.name, c.data.scenes_train, c.data.scenes_eval, c.data.scenes_hw = 'scenes', 6, 2, (32, 48)\n"
        "    c.data.crop_hw = (32, 32)\n"
        "    return c\n"
    )

    def run(mode, *flags):
        code = main_lib.main(["--mode", mode, "--config", str(path), *flags])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_prepare_data_check_data_and_doctor_take_an_address(address, command, tmp_path):
    code, said = command("prepare_data", "--output", address)
    read = f"--config.data.storage=array_record --config.data.root={address}"
    assert (code, f"to read them: {read}" in said) == (0, True)
    code, said = command("check_data", *read.split(), "--output", str(tmp_path / "checked"))
    assert code == 0, said
    assert address in said
    code, said = command("doctor", *read.split())
    assert code == 0, said
    assert "reading 6 training and 2 held-out images" in said


def test_what_a_bucket_cannot_be_is_one_line(address, command, storage, monkeypatch, tmp_path):
    monkeypatch.setattr(bucket, "_PATIENCE_S", 0.2)
    code, said = command("check_data", f"--config.data.root={address}", "--output", str(tmp_path / "checked"))
    assert (code, said.count("\n")) == (1, 1)
    assert f"config.data.root: '{address}' given, expected a folder; mount the bucket (gcsfuse) and give it." in said
    assert "prepare_data --output gs://BUCKET/FOLDER" in said
    for storage.answer, expected in ((403, 1), ("nothing", 75)):
        code, said = command("prepare_data", "--output", address)
        assert (code, said.count(f"error: {address}: the bucket ")) == (expected, 1), said
    read = ("--config.data.storage=array_record", f"--config.data.root={address}")
    code, said = command("check_data", *read, "--output", str(tmp_path / "checked"))
    assert (code, said.count("the bucket does not answer")) == (75, 1), said
    assert config_lib.base().data.storage == "folder"

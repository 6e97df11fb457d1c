"""Where ArrayRecords lie, a folder on a disk or one in a bucket: what is there, and how a file gets there."""

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ddrnet_jax import regular_files
from ddrnet_jax.bucket import Bucket, BucketAway, BucketError, Vanished, is_address, sha256_of
from ddrnet_jax.data.errors import DataAway, DataError

SHARD = ".array_record"  # in the name of a file of samples


class Folder(Protocol):
    """A folder of records. As a text it is what messages call it.

    local  a folder on this disk that has all its files but the shards; where files are written before they are kept
    """

    local: Path

    def path(self, name: str) -> str:
        """A file as array_record opens it, and messages name it."""

    def names(self) -> list[str]:
        """The files that there are."""

    def size(self, name: str) -> int | None:
        """The bytes of a file, None where there is none."""

    def has(self, name: str, sha256: str) -> bool:
        """True if a file is there whole; on a disk all of it is read."""

    def keep(self, name: str, sha256: str = "") -> None:
        """Bring a file that is complete in `local` to its place; a shard with its SHA-256.

        Raises DataError, also if somebody else has written such a file, which is no shard, meanwhile.
        """

    def check(self, name: str) -> None:
        """Raises DataAway or DataError if the place itself is why a file cannot be read."""


def at(place: str | Path) -> Folder:
    """The folder of a path, or of an address gs://BUCKET/FOLDER. Raises DataError where a bucket cannot be used."""
    return InBucket(place) if is_address(place) else OnDisk(place)


class OnDisk:
    """See Folder."""

    def __init__(self, path: str | Path):
        self.local = Path(path)

    def __str__(self) -> str:
        return str(self.local)

    def path(self, name: str) -> str:
        return str(self.local / name)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.local))

    def size(self, name: str) -> int | None:
        path = self.local / name
        return path.stat().st_size if path.is_file() else None

    def has(self, name: str, sha256: str) -> bool:
        return sha256_of_file(self.local / name) == sha256

    def keep(self, name: str, sha256: str = "") -> None:
        pass

    def check(self, name: str) -> None:
        pass


class InBucket:
    """See Folder. Of a bucket only the small files are copied to this disk; array_record reads the shards there."""

    def __init__(self, address: str | Path):
        with _as_of_data():
            self._bucket = Bucket(address)
            self._blobs = {name: blob for name, blob in self._bucket.objects().items() if "/" not in name}
            root = Path(tempfile.mkdtemp(prefix="ddrnet_jax-"))
            atexit.register(shutil.rmtree, root, ignore_errors=True)
            self.local = root / self._bucket.folder.rpartition("/")[2]
            self.local.mkdir()
            self._bucket.fetch({name: blob for name, blob in self._blobs.items() if SHARD not in name}, self.local)
        self._generations = {name: blob.generation for name, blob in self._blobs.items()}

    def __str__(self) -> str:
        return self._bucket.address

    def path(self, name: str) -> str:
        return f"{self}/{name}"

    def names(self) -> list[str]:
        return sorted(self._blobs)

    def size(self, name: str) -> int | None:
        return self._blobs[name].size if name in self._blobs else None

    def has(self, name: str, sha256: str) -> bool:
        return name in self._blobs and sha256_of(self._blobs[name]) == sha256

    def keep(self, name: str, sha256: str = "") -> None:
        path = self.local / name
        with _as_of_data():
            if sha256:
                self._blobs[name] = self._bucket.upload(name, path, sha256)
                path.unlink()
                return
            text = regular_files.read_text(path)
            generation = self._bucket.write_if(name, text, self._generations.get(name, 0))
        if generation is None:
            raise DataError(f"{self.path(name)}: another prepare_data has written here; wait for it, then run again")
        self._generations[name] = generation

    def check(self, name: str) -> None:
        with _as_of_data():
            self._bucket.objects(name)


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with regular_files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _as_of_data() -> Iterator[None]:
    try:
        yield
    except BucketAway as e:
        raise DataAway(str(e)) from e
    except BucketError as e:
        raise DataError(str(e)) from e
    except Vanished as e:
        raise DataAway(f"the files of a folder in a bucket change ({e}); run the same command again") from e

"""A folder in a bucket of Google Cloud Storage: its objects listed, fetched, written; what goes wrong in one line.

A bucket has no folders, no rename and no append, only whole objects by name. Orbax writes checkpoints there itself, by
gcsfs and TensorStore; all else goes through this module.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ddrnet_jax.errors import TryAgain, UserError

if TYPE_CHECKING:
    from google.cloud.storage import Blob

MARKER = "commit_success.txt"  # what Orbax writes into a step last
_ADDRESS = re.compile(r"gs:/+([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])((?:/[\w.=+@:,~-]+)+)/*", re.ASCII)
_THREADS = 8  # that fetch and copy; the client keeps ten connections
_PATIENCE_S = 60  # with a bucket that does not answer, or says that it is overloaded
_SHA256 = "sha256"
_P = ParamSpec("_P")
_R = TypeVar("_R")


class BucketError(UserError):
    """A bucket cannot be used as it is; the message names the address, says why and what to do."""


class BucketAway(BucketError, TryAgain):
    """A bucket does not answer."""


def is_address(place: str | Path) -> bool:
    """True of gs://..., also as a Path, which makes one slash of two."""
    return str(place).startswith("gs:/")


def parts(address: str | Path) -> tuple[str, str]:
    """(bucket, folder) of gs://BUCKET/FOLDER. Raises BucketError."""
    match = _ADDRESS.fullmatch(str(address))
    if not match or {".", ".."} & set(match[2].split("/")):
        raise BucketError(
            f"{address}: expected gs://BUCKET/FOLDER, the bucket of small letters, digits and _ - . alone, the folder "
            "also of capitals and = + @ : , ~"
        )
    return match[1], match[2].strip("/")


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """The libraries' errors, in one line."""
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

    bucket = address.split("/")[2]
    try:
        yield
    except (exceptions.Forbidden, exceptions.Unauthorized, RefreshError) as e:
        raise BucketError(
            f"{address}: the bucket refuses ({getattr(e, 'code', 'no token')}); this account needs the roles "
            f"storage.objectUser and storage.legacyBucketReader on gs://{bucket} ({_first_line(e)})"
        ) from e
    except exceptions.NotFound as e:
        raise BucketError(f"{address}: there is no bucket {bucket!r}; look at the name, or make it") from e
    except DefaultCredentialsError as e:
        raise BucketError(f"{address}: no credentials found; run: gcloud auth application-default login") from e
    except (
        exceptions.RetryError,
        exceptions.ServerError,
        exceptions.TooManyRequests,
        requests.RequestException,
        TransportError,
        ConnectionError,
    ) as e:
        raise BucketAway(
            f"{address}: the bucket does not answer ({_first_line(e.__cause__ or e)}); look at the network, then run "
            "the same command again"
        ) from e
    except exceptions.GoogleAPIError as e:
        raise BucketError(f"{address}: the bucket says: {_first_line(e)}") from e


def _in_one_line(method: Callable[_P, _R]) -> Callable[_P, _R]:
    @functools.wraps(method)
    def explained(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _explained(str(args[0])):
            return method(*args, **kwargs)

    return explained


class Bucket:
    """The objects below gs://BUCKET/FOLDER, by their names from there on."""

    def __init__(self, address: str | Path):
        """Raises BucketError where the address is none, the library is missing, or there are no credentials."""
        self.bucket, self.folder = parts(address)
        self.address = f"gs://{self.bucket}/{self.folder}"
        with _with_library(self.address), _explained(self.address):
            self._client = _client()
        self._objects = self._client.bucket(self.bucket)

    def __str__(self) -> str:
        return self.address

    @_in_one_line
    def objects(self, below: str = "") -> "dict[str, Blob]":
        """All objects below a name, none where there is nothing."""
        prefix = f"{self.folder}/"
        found = self._client.list_blobs(self.bucket, prefix=prefix + below, retry=_retry())
        return {blob.name.removeprefix(prefix): blob for blob in found if not blob.name.endswith("/")}

    @_in_one_line
    def itself(self) -> "Blob | None":
        """The object of the address itself, None where there is none."""
        return self._objects.get_blob(self.folder, retry=_retry())

    @_in_one_line
    def fetch(self, blobs: "dict[str, Blob]", folder: Path) -> None:
        """Write these objects below a local folder. Raises Vanished if one is no longer there."""
        from google.api_core.exceptions import NotFound

        def fetch(name: str) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            blobs[name].download_to_filename(str(path), retry=_retry())

        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(fetch, blobs))
        except NotFound as e:
            raise Vanished(str(e)) from e

    @_in_one_line
    def write(self, name: str, content: bytes) -> None:
        """Write one object, whole."""
        self._objects.blob(f"{self.folder}/{name}").upload_from_string(content, retry=_retry())

    @_in_one_line
    def upload(self, name: str, path: Path, sha256: str) -> "Blob":
        """Write one object of a local file, and its SHA-256 beside it, where `sha256_of` finds it."""
        blob = self._objects.blob(f"{self.folder}/{name}")
        blob.metadata = {_SHA256: sha256}
        blob.upload_from_filename(str(path), retry=_retry())
        return blob

    @_in_one_line
    def write_if(self, name: str, content: str, generation: int) -> int | None:
        """Write one object if it is still this generation, 0: if there is none. Returns the new one, None if not."""
        from google.api_core.exceptions import PreconditionFailed

        blob = self._objects.blob(f"{self.folder}/{name}")
        try:
            blob.upload_from_string(content, if_generation_match=generation, retry=_retry())
        except PreconditionFailed:
            # An attempt whose answer was lost may have been ours.
            current = self._objects.get_blob(blob.name, retry=_retry())
            is_ours = current is not None and current.download_as_text(retry=_retry()) == content
            return current.generation if current is not None and is_ours else None
        return blob.generation

    @_in_one_line
    def read(self, name: str) -> "tuple[Blob, str] | None":
        """(an object, its text), None where there is none."""
        from google.api_core.exceptions import NotFound

        blob = self._objects.get_blob(f"{self.folder}/{name}", retry=_retry())
        try:
            return blob and (blob, blob.download_as_text(retry=_retry()))
        except NotFound:
            return None

    @_in_one_line
    def copy(self, source: str, target: str) -> None:
        """Copy a step inside the bucket, its marker last: a copy that is cut short is no step."""
        copies = {n: target + n.removeprefix(source) for n in self.objects(f"{source}/")}
        marker = copies.pop(f"{source}/{MARKER}", None)
        self._each(copies, lambda n: self._copy(n, copies[n]))
        if marker:
            self._copy(f"{source}/{MARKER}", marker)

    @_in_one_line
    def remove(self, name: str) -> None:
        """Remove a step, its marker first, or an object."""
        names = self.objects(f"{name}/") or {name: None}
        marker = f"{name}/{MARKER}"
        if marker in names:
            self._remove(marker)
        self._each([n for n in names if n != marker], self._remove)

    def _copy(self, source: str, target: str) -> None:
        blob = self._objects.blob(f"{self.folder}/{source}")
        self._objects.copy_blob(blob, self._objects, f"{self.folder}/{target}", retry=_retry())

    def _remove(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        with contextlib.suppress(NotFound):
            self._objects.blob(f"{self.folder}/{name}").delete(retry=_retry())

    def _each(self, names: Collection[str], function: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(function, names))


def sha256_of(blob: "Blob") -> str | None:
    """The hash that `upload` gave an object; the server has compared what arrived with what was sent."""
    return (blob.metadata or {}).get(_SHA256)


class Vanished(Exception):
    """An object is gone that was listed: a run that goes on has removed an old step."""


@contextlib.contextmanager
def _with_library(address: str) -> Iterator[None]:
    try:
        yield
    except ImportError as e:
        raise BucketError(f"{address}: buckets need {e.name}; install the extra: pip install 'ddrnet-jax[gcs]'") from e


@functools.cache
def _client():
    import fsspec
    import gcsfs  # noqa: F401  by which Orbax opens gs://
    from google.cloud import storage

    # Its cache of listings never expires, and does not see what others write, TensorStore for one.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return storage.Client(project=None)


def _retry():
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_PATIENCE_S)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

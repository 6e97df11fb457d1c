"""Files at an address, hf://OWNER/REPO/FILE or https://...: fetched once, checked, kept. Nothing in them is executed.

What is on the Hugging Face hub its own library fetches and keeps, with the user's login; what is elsewhere, Python's.
"""

import contextlib
import hashlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from ddrnet_jax import regular_files
from ddrnet_jax.errors import UserError
from ddrnet_jax.runtime import cache_folder
from ddrnet_jax.text import cut, printable

_log = logging.getLogger(__name__)
_MOST_BYTES = 4 * 2**30  # a trainer's whole state of the largest network has less than one
_CHUNK_BYTES = 2**20
_SILENCE_S = 30
_ATTEMPTS, _PAUSE_S = 4, 1.0  # each pause is twice the one before
_NOT_MODIFIED, _PART, _PART_IS_GONE = 304, 206, 416
_MAY_PASS = (408, _PART_IS_GONE, 425, 429, 500, 502, 503, 504)
_REASONS = {
    401: ("needs a login", "download it with yours and give the file"),
    403: ("is not open to you", "ask its owner, or download it with your login and give the file"),
    404: ("there is no such file", "look at the address"),
}
_HUB_REASONS = {  # by the class of the hub's error, the more special first
    "GatedRepoError": ("its owner gives access on request", "ask on its page, then log in: hf auth login"),
    "RepositoryNotFoundError": ("no such repository, or a private one", "look at the name, or log in: hf auth login"),
    "RevisionNotFoundError": ("no such revision of the repository", "look at its page"),
    "RemoteEntryNotFoundError": ("no such file in the repository", "look at its page"),
    "LocalEntryNotFoundError": (
        "the hub cannot be reached, and the file was not fetched before",
        "look at the network, or download it elsewhere and give the file",
    ),
}
_ELSEWHERE = f"free some of the disk, or set {cache_folder.VARIABLE} to a folder on another"
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_ON_HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@]+))?/(?P<file>[^@\\]+)")
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]+"')  # an ETag that stands for every byte


class DownloadError(UserError):
    """A file at an address cannot be had; the message names the address, says why and what to do."""


class _MayPass(Exception):
    """An obstacle that may be gone at the next attempt."""


def is_address(text: str) -> bool:
    """True of hf://..., https://... and anything else with a scheme."""
    return "://" in text


def is_fetched(address: str) -> bool:
    """True of the schemes that `fetched` takes."""
    return address.startswith(("hf://", "https://", "http://"))


def fetched(address: str) -> Path:
    """The file at an address, on this machine's disk: fetched now, or kept from before.

    address  hf://OWNER/REPO[@REVISION]/FILE (with the library huggingface_hub) or https://...; either may end in
             #sha256=HEX, the hash that the content then has to have. http:// is for this machine, or with a hash
    Raises   DownloadError with one line.
    """
    place, separator, fragment = address.partition("#")
    wanted = fragment.removeprefix("sha256=").lower()
    if separator and not (fragment.startswith("sha256=") and re.fullmatch("[0-9a-f]{64}", wanted)):
        raise DownloadError(f"{shown(address)}#{fragment}: expected #sha256= and 64 hexadecimal digits")
    is_on_hub = place.startswith("hf://")
    try:
        path, is_kept = (_from_hub(place), True) if is_on_hub else _from_web(place, wanted)
        found = _sha256(path)
    except OSError as e:
        raise _failed(place, f"cannot be kept ({e.strerror or e})", _ELSEWHERE) from e
    if not wanted:
        _log.info(f"{shown(place)}: sha256 {found}")
    elif found != wanted:
        if not is_kept:
            path.unlink(missing_ok=True)
        raise _failed(place, f"its sha256 is {found}, not {wanted}", "it is another file than the one meant")
    return path


def shown(address: str) -> str:
    """An address without its query and a user's name and password, which may be secrets."""
    return re.sub("//[^/@]*@", "//", address.partition("#")[0].partition("?")[0])


def _from_hub(place: str) -> Path:
    match = _ON_HUB.fullmatch(place)
    if not match or any(part in ("", ".", "..") for part in match["file"].split("/")):
        raise DownloadError(f"{place}: expected hf://OWNER/REPO/FILE or hf://OWNER/REPO@REVISION/FILE")
    try:
        import huggingface_hub
    except ImportError as e:
        raise _failed(place, "needs the library huggingface_hub", "pip install huggingface_hub") from e
    revision = match["revision"] and urllib.parse.unquote(match["revision"])
    _log.info(f"{place}: asking the hub")  # which takes half a minute where it cannot be reached
    try:
        download = huggingface_hub.hf_hub_download  # which imports, and the import sets the level of its logger
        with _quiet("huggingface_hub"):
            return Path(download(match["repo"], match["file"], revision=revision))
    except Exception as e:  # of its own, of its network library, of the disk
        names = {kind.__name__ for kind in type(e).__mro__}
        reason = next((reason for name, reason in _HUB_REASONS.items() if name in names), None)
        if reason is None and isinstance(e, OSError) and e.errno is not None:
            raise
        first_line = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise _failed(place, *(reason or (f"the hub: {first_line}", "look at the address and the network"))) from e


@contextlib.contextmanager
def _quiet(library: str) -> Iterator[None]:
    """A library says nothing of what it also raises."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _from_web(url: str, wanted: str) -> tuple[Path, bool]:
    """The file, and True if it was there before."""
    _check_url(url, wanted)
    name = re.sub(r"[^\w.-]", "_", shown(url).rpartition("/")[2], flags=re.ASCII)[-80:]
    folder = cache_folder.made("weights")
    if folder is None:
        raise _failed(url, "there is no cache folder to keep it in", _ELSEWHERE)
    kept = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    import filelock  # which takes longer to import than the rest of a command's start

    with filelock.FileLock(f"{kept}.lock"):
        before = _sha256(kept) if wanted and kept.is_file() else ""
        if not before or before != wanted:
            _fetch(url, kept, wanted)
        return kept, bool(before) and before == _sha256(kept)


def _check_url(url: str, wanted: str) -> None:
    """Raises DownloadError of what is no address, and of one whose content anybody on the way could have changed."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_valid = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or "@" in parts.netloc or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise DownloadError(f"{shown(url)}: expected hf://OWNER/REPO/FILE or https://...; a bucket is mounted")
    if parts.scheme == "http" and parts.hostname not in _THIS_MACHINE and not wanted:
        raise _failed(url, "http:// keeps nobody from changing it on the way", "give https://, or its #sha256=")


def _fetch(url: str, kept: Path, wanted: str) -> None:
    problem = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S * 2 ** (attempt - 1))
        try:
            return _try_to_fetch(url, kept, wanted)
        except _MayPass as e:
            problem = str(e)
        except urllib.error.URLError as e:  # nobody answered
            problem = f"cannot be reached ({e.reason})"
            break
    if not kept.is_file():
        raise _failed(url, problem, "look at the network and run it again: it goes on with what was fetched")
    _log.warning(f"{shown(url)}: {problem}; what was fetched before is used")
    return None


def _try_to_fetch(url: str, kept: Path, wanted: str) -> None:
    """Make `kept` what the address has now. Raises _MayPass, URLError or DownloadError."""
    part = kept.with_name(f"{kept.name}.part")
    headers = {"User-Agent": "ddrnet_jax", "Accept-Encoding": "identity"}
    begun = part.stat().st_size if _tag(part) else 0
    if begun:
        headers |= {"Range": f"bytes={begun}-", "If-Range": _tag(part)}
    elif _tag(kept):
        headers["If-None-Match"] = _tag(kept)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SILENCE_S) as response:
            _check_url(response.url, wanted)  # which may be another, after redirections
            _take(url, response, part, begun)
    except urllib.error.HTTPError as e:
        with e:
            if e.code == _NOT_MODIFIED:
                return
            if e.code == _PART_IS_GONE:
                part.unlink(missing_ok=True)
            if e.code in _MAY_PASS:
                raise _MayPass(f"the server says {e.code} {e.reason}") from e
            reason = _REASONS.get(e.code, (f"the server says {e.code} {e.reason}", "look at the address"))
            raise _failed(url, *reason) from e
    except (http.client.HTTPException, ConnectionError, TimeoutError) as e:
        raise _MayPass(f"the connection ended ({e or type(e).__name__})") from e
    os.replace(part, kept)
    os.replace(_note(part), _note(kept))


def _take(url: str, response: http.client.HTTPResponse, part: Path, begun: int) -> None:
    """Write what the server sends behind the `begun` bytes that are there, or anew where it sends all."""
    goes_on = response.status == _PART and response.headers.get("Content-Range", "").startswith(f"bytes {begun}-")
    if response.status == _PART and not goes_on:
        part.unlink(missing_ok=True)
        raise _MayPass("the server sends another part than the one asked for")
    begun = begun if goes_on else 0
    length = response.headers.get("Content-Length", "")
    size = begun + int(length) if length.isdecimal() else None
    _check_room(url, part.parent, size, begun)
    if not goes_on:
        part.unlink(missing_ok=True)
        tag = response.headers.get("ETag", "")
        regular_files.write(_note(part), tag if _STRONG_TAG.fullmatch(tag) else "")
    with (
        regular_files.opened(part, "ab") as file,
        tqdm(total=size, initial=begun, unit="B", unit_scale=True, disable=None, ncols=80) as bar,
    ):
        for chunk in _chunks(response):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > (_MOST_BYTES if size is None else size):
                raise _failed(url, "the server does not stop sending", "no file of weights is as large")
        taken = file.tell()
    if size is not None and taken < size:
        raise _MayPass(f"the connection ended after {taken} of {size} bytes")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(_CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as e:
        raise _MayPass(f"the connection ended ({e or type(e).__name__})") from e


def _check_room(url: str, folder: Path, size: int | None, begun: int) -> None:
    free = shutil.disk_usage(folder).free
    if size is not None and size > _MOST_BYTES:
        raise _failed(url, f"has {size / 1e9:.1f} GB", "no file of weights is as large")
    if size is not None and size - begun > free:
        raise _failed(
            url,
            f"needs {(size - begun) / 1e6:.0f} MB, the disk of {folder} has {free / 1e6:.0f} MB free",
            _ELSEWHERE,
        )


def _note(path: Path) -> Path:
    """Where the ETag of a file that was fetched is noted."""
    return path.with_name(f"{path.name}.etag")


def _tag(path: Path) -> str:
    """The ETag of a file that is there, "" where it has none that stands for every byte."""
    if not (path.is_file() and _note(path).is_file()):
        return ""
    tag = regular_files.read_text(_note(path), "replace")
    return tag if _STRONG_TAG.fullmatch(tag) else ""


def _sha256(path: Path) -> str:
    with regular_files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _failed(place: str, why: str, remedy: str) -> DownloadError:
    one_line = cut(printable(" ".join(why.split())), 300)  # which may quote what a server sent
    return DownloadError(f"{shown(place)}: {one_line}; {remedy}")

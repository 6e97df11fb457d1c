"""One run at a time in a workdir of a bucket, as a file lock keeps it on a disk.

Nobody takes a lock in a bucket from a process that was killed. So its holder renews it, and another run takes it over
once it was not renewed for a while. Each write names the generation that it replaces: of two runs one succeeds.
"""

import contextlib
import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable

from ddrnet_jax.bucket import Bucket, BucketAway
from ddrnet_jax.config import ConfigError

_log = logging.getLogger(__name__)
NAME = ".lease"
RENEWED_S, OLD_S = 30.0, 90.0  # how often it is renewed; for how long not, until another run may take it
_POLL_S = 5.0


class Lease:
    """A run's hold on a workdir in a bucket, from `with` to its end."""

    def __init__(
        self, bucket: Bucket, beat: Callable[[], None] = lambda: None, check_stop: Callable[[], None] = lambda: None
    ):
        """
        beat        is called after each renewal; a bucket that does not answer it is asked again the next time
        check_stop  is called now and then while it waits for another run, and raises to stop that
        """
        self._bucket, self._beat, self._check_stop = bucket, beat, check_stop
        self._text = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.is_lost, self._done = False, threading.Event()  # lost: another run has taken it over
        self._lock = threading.Lock()  # one thread renews now and then, another before a save
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        """Raises ConfigError if another run is there, BucketError where the bucket cannot be used."""
        taken = self._bucket.write_if(NAME, self._text, self._free_generation())
        if taken is None:
            raise ConfigError(self._held_by("another run"))
        self._generation = taken
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(BucketAway):  # where it stays it grows old
            if self.renew():  # else it is another run's
                self._bucket.remove(NAME)

    def renew(self) -> bool:
        """False: another run has taken it over. Raises BucketAway."""
        with self._lock:
            if not self.is_lost:
                generation = self._bucket.write_if(NAME, self._text, self._generation)
                self.is_lost = generation is None
                self._generation = generation or self._generation
            return not self.is_lost

    def _free_generation(self) -> int:
        """The lease's generation to replace, 0 where there is none. Waits for one whose run may have been killed."""
        first, deadline = None, time.monotonic() + OLD_S
        while found := self._bucket.read(NAME):
            blob, holder = found
            age_s = time.time() - blob.updated.timestamp()  # by two clocks; who is robbed for that ends in one line
            if age_s > OLD_S or (blob.generation == first and time.monotonic() > deadline):
                _log.info(f"{self._bucket}: {holder} no longer runs; going on in its place")
                return blob.generation
            if first not in (None, blob.generation):
                raise ConfigError(self._held_by(holder))
            if first is None:
                first = blob.generation
                _log.info(
                    f"{self._bucket}: another run ({holder}) was here {max(age_s, 0):.0f} s ago and has not ended; "
                    f"waiting for a sign of it, or {math.ceil(OLD_S - max(age_s, 0))} s more, in case it was killed"
                )
            self._check_stop()
            time.sleep(min(_POLL_S, RENEWED_S / 2))
        return 0

    def _held_by(self, holder: str) -> str:
        return f"--workdir {self._bucket}: another run is writing there ({holder}); wait for it or choose another"

    def _renew(self) -> None:
        while not self._done.wait(RENEWED_S):
            try:
                if not self.renew():
                    return
                self._beat()
            except BucketAway:
                continue
            except Exception as e:  # a thread has nobody to tell
                _log.warning(f"{NAME} is not renewed ({e})")

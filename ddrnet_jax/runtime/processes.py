"""Several processes as one run: they join before any work, and they end together.

A process that stops in the middle leaves the others waiting in a collective operation that nobody will complete, for
minutes or for ever. So every process watches JAX's coordination service for the message of one that failed.
"""

import contextlib
import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn, cast

from ddrnet_jax.runtime.joining import Place, end, join

AGAIN_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again to go on

# A process that was stopped, or a host that went without a message, is silent for this long.
_SILENCE_S = 100.0
# A long last save of one process: the others wait for it before they leave.
_LEAVE_TIMEOUT_S = 3600
# Compiles of the slowest process: from nothing, beside those of the others.
_MEET_TIMEOUT_S = 3600
_POLL_S = 0.5
_BEAT_S = 5.0
_GRACE_S = 5.0
_COORDINATOR_GONE = "process 0, which coordinates the run, is gone; run the same command again in all processes"
_FAILED = "ddrnet_jax/failed"
_SEEN = "ddrnet_jax/seen"
_BEAT = "ddrnet_jax/beat"
# How collective operations say that another process is gone, by backend.
_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "coordination service", "heartbeat")


@contextlib.contextmanager
def joined(setting: Place | str, *, leaving_in_order: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """This process as one of the run's, before any use of a JAX backend; at the end of the context all leave together.

    leaving_in_order  what all processes raise at the same point. Any other exception leaves the run joined: whoever
                      reports it calls `end_all`.
    Raises ProcessesError if the others are not found. If one is lost later, the process ends in one line.
    """
    global _member, _has_left
    if setting == "off":
        yield
        return
    _has_left = False
    join(setting, _coordinator_lost)
    _member = _Member()
    try:
        with ending_if_lost():
            meet("joined")
            _connect_devices()
            yield
    except leaving_in_order:
        _leave()
        raise
    _leave()


@contextlib.contextmanager
def ending_if_lost() -> Iterator[None]:
    """End this process where an exception tells that another is gone.

    Enter it last: what has to be cleaned up may wait for the one that is gone.
    """
    try:
        yield
    except Exception as e:
        if _member is not None and _tells_of_a_loss(e):
            _member.lost(e)
        raise


def meet(place: str) -> None:
    """Return once every process has come to this place, however long it compiles; nothing where there is only one.

    Source: who comes to a collective operation 30 s after the others finds them gone (Gloo).
    """
    if _member is not None:
        _member.meet(place)


def _connect_devices() -> None:
    """A first collective operation, while all processes are here: backends connect the devices in it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ddrnet_jax.runtime import devices

    mesh = devices.data_mesh()
    ones = jax.make_array_from_callback((mesh.size,), devices.by_batch(mesh), lambda _: np.ones(1, np.float32))
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=devices.replicated(mesh))(ones))


def _tells_of_a_loss(error: BaseException | None) -> bool:
    """True if the runtime tells of a loss, here or in a cause; our own errors and the system's may quote a path."""
    while error is not None:
        is_runtimes = not isinstance(error, OSError) and not type(error).__module__.startswith("ddrnet_jax")
        if is_runtimes and any(word in str(error).lower() for word in _LOST):
            return True
        error = error.__cause__ or error.__context__
    return False


def end_at_sigterm() -> None:
    """Let SIGTERM end this process again: of several processes JAX takes it, for a loop that asks between its steps."""
    if is_joined():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave() -> None:
    global _member, _has_left
    cast(_Member, _member).leave()
    _has_left = True  # first: the coordinator may go at once, before this process has ended
    _member = None


def _coordinator_lost() -> None:
    """End this process, unless it leaves just now, has left, or is already saying why it ends."""
    if _has_left:
        return
    if _member is None or _member.may_end():
        _say(_COORDINATOR_GONE)
        end(AGAIN_EXIT_CODE)


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more: it ends all the same
        print(f"error: {message}", file=sys.stderr)


def is_joined() -> bool:
    """True if this process is one of several, or was started as one."""
    return _member is not None


def is_first() -> bool:
    """True if this process is the one that writes and speaks."""
    return _member is None or _member.index == 0


def end_all(message: str, code: int = 1) -> None:
    """Tell the other processes why this one ends, and end it; where there are none, return.

    Without a cleanup: JAX's own would wait for the others, and they for this one.
    """
    if _member is not None:
        _member.fail(message, code)


class _Member:
    """This process in the run, and the thread that waits for the message of one that failed."""

    def __init__(self):
        import jax
        from jax._src import distributed  # the public API has no way to send a word to the other processes

        self._client = distributed.global_state.client
        self.index, self.count = jax.process_index(), jax.process_count()
        self._meetings = 0
        self._ending = threading.Lock()
        self._is_left = threading.Event()
        self._heard = _Heard(self.count, self.index)
        self._watch = threading.Thread(target=self._watch_others, daemon=True)
        self._watch.start()
        threading.Thread(target=self._watch_silence, daemon=True).start()

    def meet(self, place: str) -> None:
        """All processes come to the same places in the same order."""
        self._meetings += 1
        try:
            self._client.wait_at_barrier(f"ddrnet_jax/{place}/{self._meetings}", _MEET_TIMEOUT_S * 1000)
        except Exception as e:  # another process is gone, or the time is over
            self.lost(e)

    def leave(self) -> None:
        """Wait until all are done, then disconnect."""
        import jax

        self._client.wait_at_barrier("ddrnet_jax/leave", _LEAVE_TIMEOUT_S * 1000)
        self._is_left.set()
        self._watch.join()
        jax.distributed.shutdown()

    def may_end(self) -> bool:
        """True if this process has not left the run. Who asks while another thread ends it gets no answer."""
        return not self._is_left.is_set() and self._ending.acquire()

    def fail(self, message: str, code: int) -> NoReturn:
        self._ending.acquire()
        with contextlib.suppress(Exception):  # the service itself may be what failed
            self._client.key_value_set(f"{_FAILED}/{self.index}", f"{code} {message}")
        self._exit_in_turn(code)

    def lost(self, error: Exception) -> NoReturn:
        time.sleep(_GRACE_S)  # the other's own message, if it sent one, ends this process meanwhile
        message = (
            f"process {self.index} of {self.count} lost another one ({str(error).splitlines()[0][:200]}); run the same "
            "command again in all processes: a training run goes on from its last checkpoint"
        )
        _say(message)
        self.fail(message, AGAIN_EXIT_CODE)

    def _watch_others(self) -> None:
        for poll in itertools.count():
            if self._is_left.wait(_POLL_S):
                return
            try:
                failed = self._client.key_value_dir_get(_FAILED)
                if poll % round(_BEAT_S / _POLL_S) == 0:
                    self._client.key_value_set(f"{_BEAT}/{self.index}", str(poll), allow_overwrite=True)
                    self._heard.note(self._client.key_value_dir_get(_BEAT))
                self._heard.note([])
            except Exception:
                if self._is_left.is_set():
                    return
                self._end(_COORDINATOR_GONE, AGAIN_EXIT_CODE)
            for key, value in failed:
                index, (code, message) = key.rsplit("/", 1)[1], value.split(" ", 1)
                if int(index) != self.index:
                    self._end(f"process {index} of {self.count} failed: {message}", int(code))

    def _watch_silence(self) -> None:
        """In a thread of its own: the other one waits for the answer of a coordinator that was stopped."""
        while not self._is_left.wait(_POLL_S):
            silent = self._heard.silent()
            if silent is not None:
                self._end(
                    f"process {silent} of {self.count} has not been heard of for {_SILENCE_S:g} s (stopped, or its "
                    "host is gone); run the same command again in all processes",
                    AGAIN_EXIT_CODE,
                )

    def _end(self, message: str, code: int) -> NoReturn:
        self._ending.acquire()  # whoever fails at the same time speaks for itself
        _say(message)
        self._exit_in_turn(code)

    def _exit_in_turn(self, code: int) -> NoReturn:
        """Process 0 goes last, once the others know: the messages are kept in it."""
        telling = threading.Thread(target=self._tell, daemon=True)
        telling.start()
        telling.join(2 * _GRACE_S)  # a coordinator that was stopped does not answer
        end(code)

    def _tell(self) -> None:
        with contextlib.suppress(Exception):  # the service itself may be what failed
            if self.index != 0:
                self._client.key_value_set(f"{_SEEN}/{self.index}", "")
            else:
                deadline = time.monotonic() + _GRACE_S
                while time.monotonic() < deadline and len(self._client.key_value_dir_get(_SEEN)) < self.count - 1:
                    time.sleep(0.05)


class _Heard:
    """How long each process has been silent, in this one's own polls: time in which it was stopped itself is none."""

    def __init__(self, count: int, own: int) -> None:
        self._beats: dict[int, str] = {}
        self._polls = dict.fromkeys(set(range(count)) - {own}, 0)  # since the last beat; of process 0, since its answer

    def note(self, beats: list[tuple[str, str]]) -> None:
        """Take in the coordinator's (process 0's) answer: (key, the count that a living process raises)."""
        found = {int(key.rsplit("/", 1)[1]): beat for key, beat in beats}
        for index in self._polls:
            if index == 0 or found.get(index, self._beats.get(index)) != self._beats.get(index):
                self._polls[index] = 0
        self._beats |= found

    def silent(self) -> int | None:
        """Call it once a poll. The process that has been silent for too long, None where all are heard."""
        for index in self._polls:
            self._polls[index] += 1
        return next((index for index, polls in self._polls.items() if polls * _POLL_S > _SILENCE_S), None)


_member: _Member | None = None
_has_left = False

"""The stack that signal handlers run on."""

import ctypes
import sys


class _Stack(ctypes.Structure):
    """stack_t of signal.h on Linux."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_DISABLE = 2  # SS_DISABLE


def use_ordinary() -> None:
    """Handlers of this thread run on its own stack from now on, whatever a library set.

    OpenVINO sets one of its own, and unmaps it when its last object goes, in whichever thread. Were it still in use,
    Ctrl-C would be a crash.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, _DISABLE, 0)), None)

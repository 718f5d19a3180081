"""A bound on the time that reading one document may take.

The libraries that read documents follow what a file says, and have no such bound. They are Python:
the thread that reads is interrupted between two of its steps, and needs no process of its own.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from batchata_prefect.content.bounds import bounds
from batchata_prefect.content.documents.formats import RefusedError

_T = TypeVar("_T")


class _TooLongError(BaseException):
    """Raised within the reading thread; no `except Exception` of a library may catch it."""


def in_time(read: Callable[[], _T], bound: str = "document_seconds") -> _T:
    """What `read` makes of a document.

    Args:
        read: Reads it.
        bound: The field of `Bounds` with its time.
    """
    seconds, reader = getattr(bounds(), bound), threading.get_ident()
    lock, ended, told = threading.Lock(), threading.Event(), threading.Event()

    def watch() -> None:
        if not ended.wait(seconds):
            with lock:
                if not ended.is_set():
                    told.set()
                    set_error = ctypes.pythonapi.PyThreadState_SetAsyncExc
                    set_error(ctypes.c_ulong(reader), ctypes.py_object(_TooLongError))

    def end() -> None:
        with lock:
            ended.set()
        # What was told at the last moment arrives here, and not in the code that follows.
        while told.is_set():
            time.sleep(0.001)

    watcher = threading.Thread(target=watch, name="document-watch", daemon=True)
    try:
        # Inside: a very short time may be over before the thread has said that it runs.
        watcher.start()
        try:
            value = read()
        except Exception:
            end()
            raise
        end()
        return value
    except _TooLongError:
        raise RefusedError(
            f"takes more than {seconds:g} s to read; raise BATCHATA_MOST_{bound.upper()} if it is "
            "not made to hang its reader"
        ) from None
    finally:
        ended.set()

"""Python's search for garbage: it finds none in libraries and tables, and takes as long as loading them."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Search for nothing while the body loads libraries or tables, nor in what it loaded later."""
    gc.disable()
    try:
        yield
    finally:
        leave_out_loaded()
        gc.enable()


def leave_out_loaded() -> None:
    """Leave everything that there is now out of later searches, and at the end of the process search for nothing."""
    gc.freeze()
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)

"""Signals that wait for the end of what must not be torn: a step that the next process would have to take again."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rlhf.errors import Exit

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def postponed() -> Iterator[list[int]]:
    """Have SIGTERM and Ctrl-C wait for the end of the block, which sees in the list that they came, and should end.

    The one that came first then does what it would have done. A second Ctrl-C does not wait. In another thread than the
    main one, and for a signal that is ignored, nothing is changed.
    """
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT and number in came:
            raise KeyboardInterrupt
        came.append(number)

    main = threading.current_thread() is threading.main_thread()
    taken = [number for number in SIGNALS if main and signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, note) for number in taken}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
            raise SystemExit(Exit.PREEMPTED)  # its handler returned, and the block is not finished

"""How a run learns that it is to stop, and how its workers do, here and on other machines."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Protocol


class Stop(Protocol):
    """Tells whether a run is to stop."""

    def poll(self) -> bool: ...


@dataclass(frozen=True)
class StopFile:
    """A file that all machines see, whose presence asks them to stop."""

    path: Path

    def poll(self) -> bool:
        return self.path.exists()


@contextmanager
def interruptible() -> Generator[Connection]:
    """What can be read from once this process was asked to stop, by Ctrl-C or SIGTERM, or is no more; in processes that
    were given it as well. Ctrl-C after that stops at once; SIGTERM does not, since ``timeout`` sends it twice.
    """
    stop, writer = Pipe(duplex=False)

    def handle(number: int, frame: FrameType | None) -> None:
        if writer.closed:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        writer.close()
        # A signal may come in the middle of a print, which cannot be entered twice.
        os.write(2, b"finishing the unit in hand; press Ctrl-C again to stop at once\n")

    previous: dict[int, Any] = {}
    try:
        # Elsewhere than in the main thread signals cannot be handled.
        if threading.current_thread() is threading.main_thread():
            previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        stop.close()
        writer.close()

"""What becomes of memory that is freed."""

import ctypes
import os
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h


def keep_freed_memory() -> None:
    """Have this process keep what it frees, to use it again.

    Networks free tensors of megabytes many times in a second, which glibc gives back to the system, and the next ones
    arrive page by page. For programs of our own alone: a library has no say in a process that it is imported into.
    Where glibc's own environment variables say something, or there is another allocator, nothing happens.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    # Whatever else a C library calls by this name, or does not have.
    with suppress(OSError, AttributeError):
        options = ctypes.CDLL("libc.so.6").mallopt
        # Older versions allow no more than 32 MiB, and either option alone would end what glibc adapts of itself.
        if options(_MMAP_THRESHOLD, 2**30) or options(_MMAP_THRESHOLD, 2**25):
            options(_TRIM_THRESHOLD, 2**31 - 1)

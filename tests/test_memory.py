"""What a process of ours frees it keeps, unless somebody has said otherwise."""

import subprocess
import sys

import pytest

TOUCH = """
import ctypes, resource
from segtrans.memory import keep_freed_memory
if {kept}: keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size = 2**26
def once():
    place = libc.malloc(size)
    ctypes.memset(place, 1, size)
    libc.free(place)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4): once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, kept: bool, **environment: str) -> int:
    """Pages that the system had to hand out again for memory that had been freed."""
    command = [sys.executable, "-c", TOUCH.format(kept=kept)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_freed_memory_is_kept() -> None:
    if faults(kept=False) < 1000:
        pytest.skip("this allocator keeps freed memory of itself")
    assert faults(kept=True) < 1000
    assert faults(kept=True, MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 1000

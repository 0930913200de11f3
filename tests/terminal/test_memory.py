"""What the C library keeps of the memory that is freed."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, threading
from raytrail.terminal.service import keep_memory
keep_memory()
libc = ctypes.CDLL(None)
together = threading.Barrier(4)
def read():
    together.wait()
    kept = [bytes(300_000) for _ in range(20)]
    together.wait()
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not the GNU C library")
def test_threads_that_read_chunks_share_the_memory_that_is_kept():
    done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.count("<heap nr=") == 1

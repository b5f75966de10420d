import platform
import sys

import pytest

from ltcli.compute.memory import keep_freed_memory
from tests.conftest import python

# Tensors of 64 MB, one after the other: the pages that the kernel hands out, once malloc is used to
# their size.
PROGRAM = """
import resource, torch
from ltcli.compute.memory import keep_freed_memory
{}
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_the_memory_of_a_freed_tensor_is_used_again():
    kept, given_back = (
        int(python("-c", PROGRAM.format(call)).stdout) for call in ("keep_freed_memory()", "")
    )
    pages = 10 * 2**26 // 4096
    assert given_back > pages / 2
    assert kept < pages / 100


def test_another_malloc_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    monkeypatch.setattr(sys, "platform", "linux")
    keep_freed_memory()

import platform
import sys

import pytest

from ltcli.compute.memory import keep_freed_memory
from tests.conftest import python

# Tensors of 40 MB, one after the other: the pages that the kernel hands out, once malloc is used to
# their size.
PROGRAM = """
import resource, torch
from ltcli.compute.memory import keep_freed_memory
keep_freed_memory()
for _ in range(12):
    torch.ones(10**7)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(10**7)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_the_memory_of_a_freed_tensor_is_used_again():
    pages = 5 * 4 * 10**7 // 4096
    assert int(python("-c", PROGRAM).stdout) < pages / 100


def test_another_malloc_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    monkeypatch.setattr(sys, "platform", "linux")
    keep_freed_memory()

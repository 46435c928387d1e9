"""Freed memory that lies between what is in use is given back."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from lpsphere.memory import give_back

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024

tensors = [torch.ones(16_000) for _ in range(1000)]
tensors[::2] = [None] * 500  # 32 MB in holes
before = resident()
give_back()
assert all(bool((tensor == 1).all()) for tensor in tensors[1::2])
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and only glibc can be asked")
def test_holes_between_tensors_are_given_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20e6

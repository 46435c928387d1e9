"""Freed memory that lies between what is in use is given back, and large temporaries are apart from it."""

import subprocess
import sys

import pytest
import torch

from lpsphere.memory import joined, scratch

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_scratch_is_room_for_as_many_numbers(dtype):
    for count in (0, 1, 5000):
        room = scratch(count, dtype)
        assert room.dtype == dtype
        assert torch.equal(room, torch.zeros(count, dtype=dtype))
        assert torch.equal(room.add_(torch.arange(count)), torch.arange(count).to(dtype))


def test_joined_tensors_are_concatenated():
    parts = [torch.randn(n) for n in (3, 0, 5000)]
    assert torch.equal(joined(parts), torch.cat(parts))
    mixed = [torch.ones(2), torch.ones(3, dtype=torch.float64)]
    assert torch.equal(joined(mixed), torch.cat(mixed))
    assert joined([torch.empty(0)]).shape == (0,)

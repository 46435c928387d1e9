"""Steps and updates of wide layers allocate nothing of dense size."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from torch import nn
import lpsphere as lp
from lpsphere.sparse import SparseLinear

def train(inputs, outputs, sparsity, steps):
    model = nn.Sequential(SparseLinear(inputs, outputs, sparsity=sparsity), nn.ReLU(), nn.Linear(outputs, 2))
    if method == "SemiPruning":
        optimizer = lp.LpSGD(lp.param_groups(model, p=1.2, lr=0.02, other_lr=0.01, radius="init"), momentum=0.9)
        settings = {"sparsity": (1 + sparsity) / 2, "begin": 0.0}
    else:
        optimizer, settings = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9), {"sparsity": sparsity}
    topology = getattr(lp, method)(
        model, optimizer, total_steps=100, every=2, initial_sparsity="keep", end=1.0, **settings
    )
    before = model[0].columns.clone()
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, inputs)).square().mean().backward()
        optimizer.step()
    assert len(topology.events) == 2 and sum(topology.events[0].regrown.values()) > 0

method, inputs, outputs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
train(256, 64, 0.5, 3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train(inputs, outputs, 0.999, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def growth_of_memory(method, inputs, outputs):
    """Bytes by which the peak rises."""
    command = [sys.executable, "-c", SCRIPT, method, str(inputs), str(outputs)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return int(found.stdout) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("method", ["SET", "RigL", "SemiPruning"])
def test_a_layer_of_65536_by_1024_is_trained_in_a_fraction_of_its_mask(method):
    assert growth_of_memory(method, 65536, 1024) < 65536 * 1024  # a mask has a byte for each weight


@pytest.mark.slow
@pytest.mark.parametrize("method", ["SET", "RigL"])
def test_a_layer_of_65536_by_65536_is_trained_in_a_fraction_of_its_mask(method):
    assert growth_of_memory(method, 65536, 65536) < 65536 * 65536 / 4


UPDATE = """
import resource, sys, warnings
import torch
from torch import nn
import lpsphere as lp
from lpsphere.sparse import SparseLinear

def train(width):
    model = nn.Sequential(*(m for _ in range(3) for m in (SparseLinear(width, width, sparsity=0.9), nn.ReLU())))
    model.append(nn.Linear(width, 2))
    optimizer = lp.LpSGD(lp.param_groups(model, p=1.2, lr=0.02, other_lr=0.01, radius="init"), momentum=0.9)
    topology = getattr(lp, method)(
        model,
        optimizer,
        sparsity=0.95 if method == "SemiPruning" else 0.9,
        total_steps=4,
        every=2,
        begin=0.4,
        end=0.75,
        initial_sparsity="keep",
    )
    for step in range(4):
        optimizer.zero_grad()
        model(torch.randn(4, width)).square().mean().backward()
        optimizer.step()
    assert len(topology.events) and sum(topology.events[0].regrown.values()) > 0

method = sys.argv[1]
warnings.simplefilter("ignore")
torch.set_num_threads(1)
train(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train(2000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc to give freed tensors back at once")
@pytest.mark.parametrize("method", ["RigL", "SemiPruning"])
def test_an_update_takes_little_beside_what_a_step_takes(method):
    command = [sys.executable, "-c", UPDATE, method]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    connections = 3 * 2000 * 2000 / 10
    assert 1024 * int(found.stdout) < 45 * connections  # a step takes 28 bytes for each, of which an update needs 20

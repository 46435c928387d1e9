"""Steps and updates of wide layers allocate nothing of dense size."""

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

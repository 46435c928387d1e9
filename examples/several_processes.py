"""Training in several processes, with masks that agree in all of them.

torchrun --standalone --nproc_per_node 2 examples/several_processes.py
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import lpsphere as lp

STEPS, BATCH = 200, 64


def train() -> None:
    """Train on this process's share of every batch."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = lp.LpSGD(lp.param_groups(model, p=1.2, lr=0.02, other_lr=0.2), momentum=0.9, nesterov=True)
    topology = lp.SemiPruning(model, optimizer, sparsity=0.9, total_steps=STEPS)
    parallel = DistributedDataParallel(model)  # averages the gradients, from which all processes decide the same

    for step in range(STEPS):
        rows = torch.randint(len(x), (BATCH,), generator=torch.Generator().manual_seed(step))
        own = rows.chunk(processes)[rank]
        nn.functional.cross_entropy(parallel(x[own]), y[own]).backward()
        optimizer.step()
        optimizer.zero_grad()

    kept = topology.masks["0.weight"].nonzero().flatten().tolist()
    found = [None] * processes
    dist.all_gather_object(found, kept)
    if rank == 0:
        accuracy = (model(x).argmax(1) == y).float().mean()
        same = all(other == kept for other in found)
        print(f"{processes} processes, masks equal: {same}, sparsity {topology.sparsity:.4f}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train()  # a function, so that nothing holds the group any more when it is destroyed
    dist.destroy_process_group()

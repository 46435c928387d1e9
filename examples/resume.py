"""Training that is cut off and goes on in a new process as if nothing had happened, to the last bit.

python examples/resume.py --stop-after 50      # saves state.pt and ends
python examples/resume.py                      # goes on
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import lpsphere as lp

STEPS, BATCH = 150, 64


def batch_of(step, x, y):
    """The rows of a step: drawn anew from its number, so that they need not be saved."""
    rows = torch.randint(len(x), (BATCH,), generator=torch.Generator().manual_seed(step))
    return x[rows], y[rows]


def main(words=None):
    """Train; returns the model and the steps that it has taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("state.pt"))
    parser.add_argument("--stop-after", type=int, default=STEPS)
    options = parser.parse_args(words)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = lp.LpSGD(lp.param_groups(model, p=1.2, lr=0.02, other_lr=0.2), momentum=0.9, nesterov=True)
    topology = lp.SemiPruning(model, optimizer, sparsity=0.9, total_steps=STEPS)
    parts, step = {"model": model, "optimizer": optimizer, "topology": topology}, 0
    if options.file.exists():
        saved = torch.load(options.file, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        step = saved["step"]
        print(f"going on after step {step}")
    while step < min(options.stop_after, STEPS):
        inputs, targets = batch_of(step, x, y)
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, options.file)
    print(f"step {step} of {STEPS}: loss {loss.item():.4f}, sparsity {topology.sparsity:.4f}, saved in {options.file}")
    return model, step


if __name__ == "__main__":
    main()

"""A topology method of your own: drop the connections that the loss would miss least, grow by the gradient."""

import torch
from torch import nn

import lpsphere as lp


class Sensitivity(lp.Topology):
    """What the method decides; how many, when, masks, state and resuming are the base's."""

    def drop_scores(self, neuron, mask):
        """|w g|: the smallest are dropped."""
        return (neuron.weight * neuron.gradient).abs()

    def grow_scores(self, neuron, gradient):
        """|g|: the largest are grown."""
        return gradient.abs()


if __name__ == "__main__":
    x, y = torch.randn(256, 20), torch.randint(0, 2, (256,))
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    topology = Sensitivity(model, optimizer, sparsity=0.9, total_steps=200)
    for _ in range(200):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    print(lp.summary(topology.finalize()))

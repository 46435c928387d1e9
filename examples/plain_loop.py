"""The two lines that make an ordinary PyTorch loop end with a tenth of the connections."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import lpsphere as lp

EPOCHS, BATCH = 10, 64

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
train, test = torch.arange(len(x)) % 4 > 0, torch.arange(len(x)) % 4 == 0
loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(x[train], y[train]), BATCH, shuffle=True, drop_last=True
)

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(64, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(),
    nn.Linear(128, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(),
    nn.Linear(128, 10),
)  # fmt: skip
optimizer = lp.LpSGD(lp.param_groups(model, p=1.2, lr=0.02, other_lr=0.2), momentum=0.9, nesterov=True)
topology = lp.SemiPruning(model, optimizer, sparsity=0.9, total_steps=len(loader) * EPOCHS)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(loader) * EPOCHS)

for _ in range(EPOCHS):
    for batch, target in loader:
        nn.functional.cross_entropy(model(batch), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

print(lp.summary(model, optimizer))
topology.finalize()  # a plain module from here on
model.eval()
accuracy = (model(x[test]).argmax(1) == y[test]).float().mean()
print(f"test accuracy {accuracy:.4f} with {topology.sparsity:.0%} of the connections gone")

import re
from pathlib import Path

import torch
from torch import nn

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_loop_of_the_readme_trains_a_sparse_network(capsys):
    blocks = [block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "SemiPruning" in block]
    assert len(blocks) == 1
    torch.manual_seed(0)
    x = torch.randn(512, 20)
    y = (x[:, :3].sum(1) > 0).long()
    hidden = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU())
    model = nn.Sequential(*hidden, nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2))
    loader = list(zip(x.split(32), y.split(32), strict=True))
    names = {"model": model, "loader": loader, "epochs": 10, "loss_fn": nn.CrossEntropyLoss()}
    exec(blocks[0], names)
    weights = torch.cat([model[0].weight.flatten(), model[3].weight.flatten()])
    connections = round(0.1 * len(weights))
    assert int((weights != 0).sum()) <= connections
    assert names["topo"].events[-1].sparsity == 1 - connections / len(weights)
    assert not [name for name in model.state_dict() if "mask" in name]
    model.eval()
    assert (model(x).argmax(1) == y).float().mean() > 0.9
    printed = capsys.readouterr().out
    assert "3.weight" in printed
    assert "| ||w||_p - r |" in printed

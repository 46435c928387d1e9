import runpy
from pathlib import Path

import torch
from torch import nn

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_method.py"


def test_the_example_of_an_own_method_runs_and_is_short(capsys):
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 30
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "sparsity 0.8999: 538 of 5,376 selected weights are connections" in capsys.readouterr().out


def test_it_drops_what_the_loss_would_miss_least_and_grows_by_the_gradient():
    method = runpy.run_path(str(EXAMPLE))["Sensitivity"]
    model = nn.Sequential(nn.Linear(6, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 1.0, 2.0, 4.0, 0.0, 0.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    topology = method(model, optimizer, sparsity=1 / 3, total_steps=10, initial_sparsity="keep")
    model[0].weight.grad = torch.tensor([[0.1, 1.0, 1.0, 1.0, 2.0, 3.0]])
    optimizer.step()
    assert topology.masks["0.weight"].int().tolist() == [[0, 1, 1, 1, 0, 1]]  # int(0.3 * 4) = 1: |w g| = 0.3 goes

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import nn

from lpsphere.data import Dataset
from lpsphere.training import TrainConfig, Trainer, evaluate_run
from lpsphere.training.evaluation import evaluate, final_scores

QUICK = TrainConfig(hidden=(16, 16), epochs=3, device="cpu", threads=1)


def dataset(outputs, y, classes, task="classification"):
    """Test rows for which `nn.Identity` gives these outputs."""
    x = torch.as_tensor(outputs, dtype=torch.float32)
    return Dataset("made-up", task, x, torch.as_tensor(y), x, torch.as_tensor(y), tuple(classes), ())


class Outputs(nn.Module):
    """Gives its inputs back."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x


def test_two_classes_are_scored_by_accuracy_balanced_accuracy_and_auc():
    logits = [[2.0, 0.0], [1.0, 0.0], [0.0, 0.5], [0.0, 3.0], [0.3, 0.0]]
    found = final_scores(Outputs(), dataset(logits, [0, 0, 0, 1, 1], "ab"))
    assert found["test_accuracy"] == pytest.approx(3 / 5)
    assert found["test_balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["test_auc"] == pytest.approx(5 / 6)  # one of six pairs is the wrong way round


def test_more_classes_have_a_balanced_accuracy_only():
    logits = torch.eye(3)[[0, 0, 1, 2, 2]]
    found = final_scores(Outputs(), dataset(logits, [0, 1, 1, 2, 2], "abc"))
    assert "test_auc" not in found
    assert found["test_balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_test_rows_of_one_class_have_an_accuracy_only():
    found = final_scores(Outputs(), dataset([[0.0, 1.0]] * 3, [1, 1, 1], "ab"))
    assert set(found) == {"test_accuracy", "test_loss"}


def test_regression_is_scored_as_before():
    data = dataset([[1.0], [2.0], [4.0]], [1.0, 2.0, 3.0], (), task="regression")
    found = final_scores(Outputs(), replace(data, target_std=10.0))
    assert set(found) == {"test_r2", "test_rmse", "test_loss"}
    assert found["test_r2"] == pytest.approx(1 - 1 / 2)
    assert found["test_rmse"] == pytest.approx(10 * (1 / 3) ** 0.5)


def test_many_rows_are_scored_as_a_few(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=generator), torch.randint(0, 4, (50,), generator=generator)
    at_once = evaluate(Outputs(), x, y, "classification")
    monkeypatch.setattr("lpsphere.training.evaluation._ROWS", 7)
    in_parts = evaluate(Outputs(), x, y, "classification")
    assert in_parts == at_once
    assert at_once.loss == pytest.approx(float(nn.functional.cross_entropy(x.double(), y)))


def test_a_run_says_all_scores_at_its_end_and_again(tmp_path):
    trainer = Trainer(replace(QUICK, data="breast_cancer"), tmp_path)
    result = trainer.fit()
    data = trainer.data
    with torch.no_grad():
        outputs = trainer.plain_model.eval()(data.x_test)
    assert result["test_auc"] == pytest.approx(roc_auc_score(data.y_test, outputs.softmax(1)[:, 1]), abs=1e-6)
    expected = balanced_accuracy_score(data.y_test, outputs.argmax(1))
    assert result["test_balanced_accuracy"] == pytest.approx(expected)
    again = evaluate_run(tmp_path)
    assert {name: again[name] for name in ("test_auc", "test_balanced_accuracy", "test_accuracy")} == {
        name: result[name] for name in ("test_auc", "test_balanced_accuracy", "test_accuracy")
    }
    assert "test_auc" not in trainer.state.rows[-1]

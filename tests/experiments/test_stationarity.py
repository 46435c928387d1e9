import json
from pathlib import Path

import pytest

from lpsphere.experiments import stationarity
from lpsphere.experiments.stationarity import SETTINGS, readable, study_stationarity

RESULTS = Path(__file__).parents[2] / "results"


def test_every_setting_is_trained_once_and_tabulated(tmp_path, monkeypatch):
    monkeypatch.setattr(stationarity, "_BATCHES", 20)
    path, told = tmp_path / "x.json", []
    content = study_stationarity(path, steps=5, command="lpsphere study stationarity", tell=told.append)
    assert len(told) == len(content["table"]) == len(SETTINGS)
    assert [row["method"] for row in content["table"]] == [setting.method for setting in SETTINGS]
    for row in content["table"]:
        assert [layer["layer"] for layer in row["layers"]] == ["0.weight", "2.weight", "4.weight"]
        assert all(0 < layer["relative_residual"] <= 2 for layer in row["layers"])
    again = study_stationarity(path, steps=5, command="lpsphere study stationarity", tell=told.append)
    assert again == content
    assert len(told) == len(SETTINGS)
    assert (tmp_path / "x.md").read_text().count("\n") == 2 + len(SETTINGS)
    with pytest.raises(ValueError, match=r"x\.json holds runs of .*'steps': 5"):
        study_stationarity(path, steps=6, command="", tell=told.append)


def test_the_kept_results_show_what_is_claimed():
    content = json.loads((RESULTS / "study-stationarity.json").read_text(encoding="utf-8"))
    worst = {
        (row["method"], row["activation"], row["p"]): max(layer["relative_residual"] for layer in row["layers"])
        for row in content["table"]
    }
    assert worst["LpSGD, dual form", "GELU", 1.5] < 1e-3
    assert worst["LpSGD, primal form", "GELU", 1.5] < 1e-3
    assert worst["SGD, then projection", "GELU", 1.5] > 0.1  # its fixed points are others
    assert len(readable(content["table"])) == len(SETTINGS)

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils import Bunch

SHARED = Path(os.environ.get("LPSPHERE_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A test that reaches for the network without a stand-in fails."""

    def refuse(**options):
        raise AssertionError(f"a test tried to download {options}")

    monkeypatch.setattr("lpsphere.data.openml.fetch_openml", refuse)


@pytest.fixture
def shared(monkeypatch):
    """Give the path of a folder with the published files of a data set, or skip the test."""
    monkeypatch.delenv("LPSPHERE_DATA", raising=False)

    def folder(name):
        if not (SHARED / name).is_dir():
            pytest.skip(f"needs the folder {name} in LPSPHERE_DATA")
        return SHARED / name

    return folder


@pytest.fixture
def openml(monkeypatch):
    """Let OpenML give a table in the form of scikit-learn, and keep what it was asked for."""
    asked = []

    def give(data, target, categories=None, names=None):
        data = np.asarray(data, dtype=np.float64)
        bunch = Bunch(
            data=data,
            target=np.array(target, dtype=object),
            feature_names=names or [f"V{column}" for column in range(1, data.shape[1] + 1)],
            categories=categories or {},
        )

        def fetch(**options):
            asked.append(options)
            return bunch

        monkeypatch.setattr("lpsphere.data.openml.fetch_openml", fetch)
        return asked

    return give

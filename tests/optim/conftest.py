import pytest


@pytest.fixture(autouse=True)
def compiled_steps_for_small_networks(monkeypatch):
    """With foreach=None the dual form of float32 weights takes compiled steps, however few weights there are."""
    monkeypatch.setattr("lpsphere.optim.lpsgd.WORTH_COMPILING", 1)

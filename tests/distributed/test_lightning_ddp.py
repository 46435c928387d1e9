"""Lightning's own DDP, with the callback: every process has the masks that one process finds."""

from pathlib import Path

import pytest
import torch
from processes import finish, torchrun

SCRIPT = Path(__file__).with_name("lightning_training.py")


@pytest.mark.slow
def test_two_processes_find_the_masks_of_one(tmp_path):
    pytest.importorskip("lightning.pytorch")
    for count in (1, 2):
        code, output = finish(torchrun(SCRIPT, tmp_path, count, count=count))
        assert code == 0, output
    alone, *together = (torch.load(tmp_path / name) for name in ("0-of-1.pt", "0-of-2.pt", "1-of-2.pt"))
    changes = sum(
        any(not torch.equal(one[name], next_[name]) for name in one)
        for one, next_ in zip(alone["masks"], alone["masks"][1:], strict=False)
    )
    assert changes > 3
    for found in together:
        assert len(found["masks"]) == len(alone["masks"])
        for one, other in zip(alone["masks"], found["masks"], strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
        for name, weight in alone["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-9)

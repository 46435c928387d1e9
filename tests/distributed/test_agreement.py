"""Several processes decide what one process decides, to the last bit."""

import pytest
import torch
from processes import run
from same_training import CASES, FIRST, train, train_all


def same_masks(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def assert_same_training(found, expected):
    assert found["names"] == expected["names"]
    assert same_masks(found["first"], expected["first"])
    assert [step for step, _ in found["decisions"]] == [step for step, _ in expected["decisions"]]
    for (step, masks), (_, wanted) in zip(found["decisions"], expected["decisions"], strict=True):
        assert same_masks(masks, wanted), step
    for event, wanted in zip(found["events"], expected["events"], strict=True):
        assert event[:2] + event[3:] == wanted[:2] + wanted[3:]
        assert event[2] == pytest.approx(wanted[2], rel=1e-6)
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_decisions_and_weights_are_those_of_one_process(tmp_path, how, count):
    cases = tuple(CASES) if count == 2 else FIRST
    everywhere = run(count, tmp_path / "run", train_all, cases, how)
    for case in cases:
        expected = train(case, "single")
        assert len(expected["decisions"]) >= (1 if case == "snip" else 15)
        for found in everywhere:
            assert_same_training(found[case], expected)

"""What an update of the topology sends: nothing beyond the gradients under DDP, and counts under FSDP2."""

import sys
from pathlib import Path

import pytest
from processes import run

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import distributed as benchmark

DIGITS = 256 * 8
"""Bytes of one round of the search for a threshold."""


def measure_all(cases):
    return [benchmark.measure(*case) for case in cases]


@pytest.mark.parametrize("method", ["RigL", "SemiPruning", "SET"])
def test_under_ddp_an_update_sends_nothing_beyond_the_gradients(tmp_path, method):
    for (found,) in run(2, tmp_path / "run", measure_all, [("DDP", method, 32, 3)]):
        assert found["step_bytes"] >= 4 * found["weights"]  # the gradients are counted
        assert found["update_bytes_beyond_a_step"] == 0
        assert found["update_calls_beyond_a_step"] == 0
        assert found["attach_bytes"] == 32


@pytest.mark.slow
def test_under_fsdp_an_update_sends_counts_whatever_the_size_of_the_weights(tmp_path):
    cases = [("FSDP2", method, width, depth) for method in ("SemiPruning", "RigL") for width, depth in SIZES]
    for found in run(2, tmp_path / "run", measure_all, cases):
        network, layers = found[: len(SIZES)], found[len(SIZES) :]
        for row in network:  # ranked together: one search for what is dropped, one for what is grown
            searches = row["update_bytes_beyond_a_step"] - (16 + 16 * row["layers"])
            assert searches % DIGITS == 0
            assert 0 < searches // DIGITS <= 2 * 9
        for row in layers:
            searches = row["update_bytes_beyond_a_step"] - (16 + 24 * row["layers"])
            assert searches % DIGITS == 0
            assert 0 < searches // DIGITS <= 2 * 9 * row["layers"]
        for rows in (network, layers):
            small, large = rows[0], rows[1]
            assert large["weights"] == 16 * small["weights"]
            assert large["update_bytes_beyond_a_step"] <= 2 * small["update_bytes_beyond_a_step"]
            assert large["update_bytes_beyond_a_step"] < large["step_bytes"] / 2


SIZES = [(64, 3), (256, 3), (64, 6)]

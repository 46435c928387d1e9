"""A checkpoint that another process loads: nothing may hang on what only the first one has in memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_networks import UPDATES, assert_identical, parts, saved, train

STEPS = 20
PLACES = {  # method: after how many steps; updates follow steps 4, 7, 10, 13 and 16, SNIP's step 3
    "static": [0, 11],
    "set": [0, 3, 4, 11, 18],
    "rigl": [0, 3, 4, 12, 18],
    "snip": [0, 1, 2, 3, 4],
    "gmp": [0, 3, 4, 11, 18],
    "semi_pruning": [0, 3, 4, 12, 18],
}
TRAINERS = ["lpsgd", "sgd", "adamw"]
NETWORKS = ["Linear", "ConvTranspose2d", "MultiheadAttention"]
CASES = [
    (method, optimizer, NETWORKS[(i + j) % 3], step)
    for method, steps in PLACES.items()
    for i, step in enumerate(steps)
    for j, optimizer in enumerate(TRAINERS)
]

# Every other case is loaded in another order; the seeds and settings that the new process builds with are its own.
CONTINUE = f"""
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from small_networks import parts, saved, train

for i, path in enumerate(sorted(Path(sys.argv[2]).glob("*.before"))):
    checkpoint = torch.load(path, weights_only=True)
    things = parts(*checkpoint["names"], seed=77, network=checkpoint["network"], sparsity=0.5)
    for name in ["topology", "optimizer", "model"] if i % 2 else ["model", "topology", "optimizer"]:
        things[name].load_state_dict(checkpoint["states"][name])
    train(things["model"], things["optimizer"], range(checkpoint["step"], {STEPS}))
    torch.save(saved(things), path.with_suffix(".after"))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """By case: the final states without an interruption, and those of the process that went on."""
    folder, expected = tmp_path_factory.mktemp("checkpoints"), {}
    for i, (method, optimizer, network, step) in enumerate(CASES):
        things = parts(method, optimizer, network=network)
        train(things["model"], things["optimizer"], range(step))
        checkpoint = {"names": [method, optimizer], "network": network, "step": step}
        states = {name: thing.state_dict() for name, thing in things.items()}
        torch.save({**checkpoint, "states": states}, folder / f"{i:03d}.before")
        train(things["model"], things["optimizer"], range(step, STEPS))
        expected[method, optimizer, network, step] = saved(things)
    command = [sys.executable, "-c", CONTINUE, str(Path(__file__).parent), str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    found = [torch.load(folder / f"{i:03d}.after", weights_only=True) for i in range(len(CASES))]
    return {case: (expected[case], found[i]) for i, case in enumerate(CASES)}


@pytest.mark.parametrize(("method", "optimizer", "network", "step"), CASES)
def test_a_new_process_continues_bit_by_bit(ends, method, optimizer, network, step):
    expected, found = ends[method, optimizer, network, step]
    assert [event["step"] for event in expected["topology"]["events"]] == UPDATES[method]
    assert expected["topology"]["step"] == STEPS
    assert len(expected["optimizer"]["state"]) > 0
    assert_identical(found, expected)

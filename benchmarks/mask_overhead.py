"""What masks cost: a training step with each method against the dense step, and the memory that the masks take.

The default wide ResNet on images of 28 x 28, batch 128, float32, one thread. Steps of all contenders are taken in
turn, in another order every round, so that a noisy machine slows them alike; the medians over the rounds are compared.
Every fifth step updates the topology; these steps are timed apart and charged at the share that the default interval
gives them, one of 40.

    python benchmarks/mask_overhead.py --rounds 60 --out results/mask-overhead.json
"""

from __future__ import annotations

import random
import statistics
import time

import torch
from reporting import command_line, save, show
from torch import nn

import lpsphere as lp
from lpsphere.models import WideResNet
from lpsphere.topology import METHODS

BATCH, STEPS, EVERY, SHARE = 128, 100_000, 5, 1 / 40


class Contender:
    """A model, its optimizer and a method, trained a step at a time."""

    def __init__(self, method: str | None, optimizer: str) -> None:
        torch.manual_seed(0)
        self.name = f"{method or 'dense'} ({optimizer})"
        self.model = WideResNet((2, 3, 3), 16)
        if optimizer == "lpsgd":
            groups = lp.param_groups(self.model, p=1.15, lr=0.01, other_lr=0.1)
            self.optimizer = lp.LpSGD(groups, momentum=0.9, nesterov=True)
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        self.topology = None
        if method is not None:
            settings = {"initial_sparsity": 0.5} if method == "semi-pruning" else {}
            if method not in ("static", "snip"):
                settings |= {"begin": 0.0, "end": 1.0, "every": EVERY}
            self.topology = METHODS[method](self.model, self.optimizer, sparsity=0.9, total_steps=STEPS, **settings)
        self.seconds: dict[bool, list[float]] = {False: [], True: []}

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """One training step, timed; with or without an update."""
        updates = 0 if self.topology is None else len(self.topology.events)
        start = time.perf_counter()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        taken = time.perf_counter() - start
        self.seconds[self.topology is not None and len(self.topology.events) > updates].append(taken)

    def median(self, update: bool = False) -> float | None:
        """Seconds of a step."""
        return statistics.median(self.seconds[update]) if self.seconds[update] else None

    def mask_bytes(self) -> int:
        """What the masks hold in memory."""
        masks = [] if self.topology is None else self.topology.masks.values()
        return sum(mask.numel() * mask.element_size() for mask in masks)


def main() -> None:
    """Time and report."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [(None, "sgd"), *((method, "sgd") for method in METHODS), (None, "lpsgd"), ("semi-pruning", "lpsgd")]
    contenders = [Contender(*pair) for pair in pairs]
    x, y = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    for contender in contenders:
        for _ in range(3):
            contender.step(x, y)
        contender.seconds = {False: [], True: []}
    order = random.Random(0)
    for _ in range(options.rounds):
        for contender in order.sample(contenders, len(contenders)):
            contender.step(x, y)
    rows = []
    for contender in contenders:
        optimizer = contender.name.rpartition("(")[2].rstrip(")")
        dense = next(c for c in contenders if c.name == f"dense ({optimizer})").median()
        plain, update = contender.median(), contender.median(update=True)
        mean = plain if update is None else plain + (update - plain) * SHARE
        weights = sum(mask.numel() for mask in contender.topology.masks.values()) if contender.topology else 0
        rows.append(
            {
                "contender": contender.name,
                "step_ms": round(1e3 * plain, 3),
                "update_step_ms": None if update is None else round(1e3 * update, 3),
                "step_against_dense": round(plain / dense, 4),
                "with_updates_against_dense": round(mean / dense, 4),
                "mask_bytes_per_weight": contender.mask_bytes() / weights if weights else 0.0,
            }
        )
        show(rows[-1])
    save(options.out, rounds=options.rounds, share_of_updates=SHARE, rows=rows)


if __name__ == "__main__":
    main()

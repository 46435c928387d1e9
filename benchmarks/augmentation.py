"""What augmentation costs: random crop, flip and cutout of a batch of 256 images beside the training step they go into.

The wide ResNets for Fashion-MNIST and for CIFAR-10, crop of 4 pixels, flip, cutout of 6 and of 8 pixels, one thread, in
float32 and, where the processor has instructions for it, with bfloat16 autocast. Step and augmentation are taken in
turn, in another order every round, so that a noisy machine slows them alike; the medians over the rounds are compared.
One augmentation is so much shorter than a step that each turn takes the mean of ten. The step is that of plain SGD,
which takes the least time.

    python benchmarks/augmentation.py --rounds 20 --out results/augmentation.json
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from reporting import command_line, save, show
from torch import nn

from lpsphere.models import WideResNet
from lpsphere.training import TrainConfig
from lpsphere.training.augmentation import Augmentation, batch_rng
from lpsphere.training.setup import precision

BATCH, REPEATS, TARGET = 256, 10, 0.05


@dataclass(frozen=True)
class Case:
    """A network, its images and their augmentation."""

    name: str
    shape: tuple[int, int, int]
    blocks: tuple[int, int, int]
    width: int
    augmentation: Augmentation


CASES = [
    Case("fashion-mnist", (1, 28, 28), (2, 3, 3), 16, Augmentation(crop=4, flip=True, cutout=6)),
    Case("cifar-10", (3, 32, 32), (3, 4, 3), 32, Augmentation(crop=4, flip=True, cutout=8)),
]


class Contender:
    """A network that trains on one batch, and the augmentation of that batch."""

    def __init__(self, case: Case, bfloat16: bool) -> None:
        torch.manual_seed(0)
        self.case, self.bfloat16, self.batch = case, bfloat16, 0
        self.model = WideResNet(case.blocks, case.width, case.shape[0]).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        self.x, self.y = torch.randn(BATCH, *case.shape), torch.randint(0, 10, (BATCH,))
        self.seconds: dict[str, list[float]] = {"step": [], "augmentation": []}

    def step(self) -> None:
        """One training step."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            outputs = self.model(self.x)
        nn.functional.cross_entropy(outputs.float(), self.y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def augment(self) -> None:
        """Some augmentations, with all that comes before a step: a generator of its own, draws, pixels."""
        for _ in range(REPEATS):
            self.batch += 1
            self.case.augmentation(self.x, batch_rng(0, 0, self.batch))

    def round(self, order: random.Random) -> None:
        """Time each of the two once."""
        for name in order.sample(sorted(self.seconds), 2):
            action, count = (self.step, 1) if name == "step" else (self.augment, REPEATS)
            self.seconds[name].append(timed(action) / count)

    def row(self) -> dict[str, Any]:
        """What came out."""
        step, augmentation = (statistics.median(self.seconds[name]) for name in ("step", "augmentation"))
        return {
            "images": self.case.name,
            "batch": [BATCH, *self.case.shape],
            "network": f"{list(self.case.blocks)}, width {self.case.width}",
            **asdict(self.case.augmentation),
            "precision": "bfloat16 autocast" if self.bfloat16 else "float32",
            "step_ms": round(1e3 * step, 2),
            "augmentation_ms": round(1e3 * augmentation, 3),
            "share_of_step": round(augmentation / step, 5),
        }


def timed(action: Callable[[], None]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Time and report; exit status 1 if a share is above the target."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    precisions = [False, True] if precision(TrainConfig(), cuda=False) == "bf16" else [False]
    order, rows = random.Random(0), []
    for contender in (Contender(case, bfloat16) for case in CASES for bfloat16 in precisions):
        contender.round(order)  # the first of each is slower: memory, choice of kernels
        contender.seconds = {name: [] for name in contender.seconds}
        for _ in range(options.rounds):
            contender.round(order)
        rows.append(contender.row())
        show(rows[-1])
    save(options.out, rounds=options.rounds, target_share=TARGET, rows=rows)
    if any(row["share_of_step"] > TARGET for row in rows):
        sys.exit(f"augmentation takes more than {TARGET:.0%} of a step")


if __name__ == "__main__":
    main()

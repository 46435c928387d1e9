"""Under torchrun: train in a folder until the second process is killed in the midst of an update."""

import os
import signal
import sys
from pathlib import Path

from lpsphere.training import TrainConfig, Trainer

folder, step = Path(sys.argv[1]), int(sys.argv[2])
trainer = Trainer(TrainConfig.load(Path(sys.argv[3])), folder)
assert trainer.topology is not None


def kill(event) -> None:
    if event.step == step and not trainer.is_main:
        os.kill(os.getpid(), signal.SIGKILL)


trainer.topology.on_update(kill)
trainer.fit()

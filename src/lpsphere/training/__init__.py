"""Training runs: configuration, trainer, checkpoints, evaluation."""

from lpsphere.training.config import TrainConfig, value_of
from lpsphere.training.evaluation import evaluate_run
from lpsphere.training.trainer import Interrupted, Progress, Trainer

__all__ = ["Interrupted", "Progress", "TrainConfig", "Trainer", "evaluate_run", "value_of"]

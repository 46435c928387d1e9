"""The networks of the experiments."""

from lpsphere.models.build import build
from lpsphere.models.cnn import CNN
from lpsphere.models.mlp import MLP
from lpsphere.models.wide_resnet import WideResNet

__all__ = ["CNN", "MLP", "WideResNet", "build"]

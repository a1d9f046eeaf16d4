"""Networks for small images: those of the paper, and smaller ones for CPUs.

Each is an `nnx.Module` called as ``network(images, train=...)`` that returns logits.
"""

from collections.abc import Callable
from typing import Literal

import jax
from flax import nnx

from experiments.models.alexnet import AlexNet, AlexNet3x3
from experiments.models.mlp import MLP
from experiments.models.resnet import resnet8, resnet18, resnet50
from experiments.models.simple_cnn import SimpleCNN
from experiments.models.small_cnn import SmallCNN
from experiments.models.wide_resnet import wide_resnet28_10

ModelName = Literal[
    "simple_cnn",
    "resnet18",
    "resnet50",
    "wide_resnet28_10",
    "alexnet",
    "alexnet_3x3",
    "resnet8",
    "small_cnn",
    "mlp",
]


BATCH_NORM: frozenset[ModelName] = frozenset(
    {"resnet18", "resnet50", "wide_resnet28_10", "resnet8"}
)


# (height, width, channels), number of classes, random streams -> network
Builder = Callable[[tuple[int, int, int], int, nnx.Rngs], nnx.Module]

MODELS: dict[ModelName, Builder] = {
    "simple_cnn": SimpleCNN,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "wide_resnet28_10": wide_resnet28_10,
    "alexnet": AlexNet,
    "alexnet_3x3": AlexNet3x3,
    "resnet8": resnet8,
    "small_cnn": SmallCNN,
    "mlp": MLP,
}


def build_model(
    name: ModelName, image_shape: tuple[int, int, int], num_classes: int, key: jax.Array
) -> nnx.Module:
    """Build a network.

    Args:
        name: Its name.
        image_shape: Height, width and channels of its images.
        num_classes: Number of its outputs.
        key: Key of its initial parameters.

    Returns:
        The network.
    """
    return MODELS[name](image_shape, num_classes, nnx.Rngs(params=key))

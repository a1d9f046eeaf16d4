"""AlexNet in its CIFAR form: its five convolutions and one dense layer.

The common form of the public CIFAR benchmarks (2.47 million parameters for ten classes).
"""

import jax
from flax import nnx

from experiments.models.layers import global_pool, he_normal, max_pool


def _conv(inputs: int, outputs: int, size: int, rngs: nnx.Rngs, *, stride: int = 1) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2,
        kernel_init=he_normal,
        rngs=rngs,
    )


class AlexNet(nnx.Module):
    """conv 64 (11x11, stride 4), conv 192 (5x5), conv 384, conv 256, conv 256, dense."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        self.conv1 = _conv(image_shape[-1], 64, 11, rngs, stride=4)
        self.conv2 = _conv(64, 192, 5, rngs)
        self.conv3 = _conv(192, 384, 3, rngs)
        self.conv4 = _conv(384, 256, 3, rngs)
        self.conv5 = _conv(256, 256, 3, rngs)
        self.head = nnx.Linear(256, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits of a batch; ``train`` changes nothing here."""
        del train
        x = max_pool(nnx.relu(self.conv1(images)))
        x = max_pool(nnx.relu(self.conv2(x)))
        x = nnx.relu(self.conv3(x))
        x = nnx.relu(self.conv4(x))
        x = max_pool(nnx.relu(self.conv5(x)))
        # One pixel is left of images of up to 32x32, so this only drops the two axes.
        return self.head(global_pool(x))

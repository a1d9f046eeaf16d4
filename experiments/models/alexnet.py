"""AlexNet for small images, in the two forms that are common for CIFAR.

The paper does not say which one it trains, and its authors have not published theirs. `AlexNet` has
the large first kernel and one dense layer (2.47 million parameters for ten classes). `AlexNet3x3`
has kernels of 3x3 pixels throughout and two dense layers of 4,096 before the last (23.3 million);
of the dropout that some versions have before these it has none.
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


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=he_normal, rngs=rngs)


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
        # One pixel is left of images of up to 32x32, so this only drops the two axes.
        return self.head(global_pool(_features(self, images)))


class AlexNet3x3(nnx.Module):
    """conv 64 (stride 2), conv 192, conv 384, conv 256, conv 256, dense 4096, dense 4096, dense."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = image_shape
        self.conv1 = _conv(channels, 64, 3, rngs, stride=2)
        self.conv2 = _conv(64, 192, 3, rngs)
        self.conv3 = _conv(192, 384, 3, rngs)
        self.conv4 = _conv(384, 256, 3, rngs)
        self.conv5 = _conv(256, 256, 3, rngs)
        # The stride and three poolings, each of which rounds up.
        pixels = -(-height // 16) * -(-width // 16)
        self.dense1 = _dense(256 * pixels, 4096, rngs)
        self.dense2 = _dense(4096, 4096, rngs)
        self.head = nnx.Linear(4096, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits of a batch; ``train`` changes nothing here."""
        del train
        x = _features(self, images)
        x = nnx.relu(self.dense1(x.reshape(len(x), -1)))
        return self.head(nnx.relu(self.dense2(x)))


def _features(network: AlexNet | AlexNet3x3, images: jax.Array) -> jax.Array:
    """Apply the five convolutions, with poolings after the first, the second and the last."""
    x = max_pool(nnx.relu(network.conv1(images)))
    x = max_pool(nnx.relu(network.conv2(x)))
    x = nnx.relu(network.conv3(x))
    x = nnx.relu(network.conv4(x))
    return max_pool(nnx.relu(network.conv5(x)))

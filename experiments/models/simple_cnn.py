"""The six-layer CNN of the paper's section 4.1.

It is the SimpleCNN of Jastrzebski et al. 2021 ("Catastrophic Fisher explosion"), which is the
CIFAR-10 example of Keras: four convolutions and two dense layers, no normalization. Dropout is
left out, so that the loss is a deterministic function of the parameters.
"""

import jax
from flax import nnx

from experiments.models.layers import glorot_uniform, max_pool


def _conv(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (3, 3), kernel_init=glorot_uniform, rngs=rngs)


class SimpleCNN(nnx.Module):
    """conv 32, conv 32, pool, conv 64, conv 64, pool, dense 512, dense num_classes."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = image_shape
        self.conv1 = _conv(channels, 32, rngs)
        self.conv2 = _conv(32, 32, rngs)
        self.conv3 = _conv(32, 64, rngs)
        self.conv4 = _conv(64, 64, rngs)
        features = 64 * -(-height // 4) * -(-width // 4)
        self.dense = nnx.Linear(features, 512, kernel_init=glorot_uniform, rngs=rngs)
        self.head = nnx.Linear(512, num_classes, kernel_init=glorot_uniform, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits of a batch; ``train`` changes nothing here."""
        del train
        x = nnx.relu(self.conv1(images))
        x = nnx.relu(self.conv2(x))
        x = max_pool(x)
        x = nnx.relu(self.conv3(x))
        x = nnx.relu(self.conv4(x))
        x = max_pool(x)
        x = nnx.relu(self.dense(x.reshape(len(x), -1)))
        return self.head(x)

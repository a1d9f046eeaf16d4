"""A convolutional network for which a gradient of 64 images costs a CPU core some milliseconds."""

import jax
from flax import nnx

from experiments.models.layers import batch_norm, he_normal


class SmallCNN(nnx.Module):
    """conv 16, conv 32, both of stride 2, dense 64, dense num_classes.

    With ``norm`` a BatchNorm follows each convolution.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        rngs: nnx.Rngs,
        *,
        norm: bool = False,
    ) -> None:
        height, width, channels = image_shape

        def conv(inputs: int, outputs: int) -> nnx.Conv:
            return nnx.Conv(inputs, outputs, (3, 3), strides=2, kernel_init=he_normal, rngs=rngs)

        self.conv1, self.conv2 = conv(channels, 16), conv(16, 32)
        self.norm1, self.norm2 = (batch_norm(n, rngs) if norm else None for n in (16, 32))
        features = 32 * -(-height // 4) * -(-width // 4)
        self.dense = nnx.Linear(features, 64, kernel_init=he_normal, rngs=rngs)
        self.head = nnx.Linear(64, num_classes, kernel_init=he_normal, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits of a batch; ``train`` normalises with its own statistics."""
        x = images
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = conv(x)
            x = nnx.relu(x if norm is None else norm(x, use_running_average=not train))
        return self.head(nnx.relu(self.dense(x.reshape(len(x), -1))))

"""WideResNet-28-10 (Zagoruyko and Komodakis 2016): few layers, ten times as wide."""

import jax
from flax import nnx

from experiments.models.layers import batch_norm, conv, global_pool


class _Block(nnx.Module):
    """Two 3x3 convolutions, each after its BatchNorm and rectifier, and a shortcut around both."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.norm1 = batch_norm(inputs, rngs)
        self.conv1 = conv(inputs, outputs, 3, stride, rngs)
        self.norm2 = batch_norm(outputs, rngs)
        self.conv2 = conv(outputs, outputs, 3, 1, rngs)
        self.shortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride, rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = nnx.relu(self.norm1(x, use_running_average=not train))
        # Where the shapes differ, the published network's shortcut too starts after the rectifier.
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = nnx.relu(self.norm2(self.conv1(y), use_running_average=not train))
        return self.conv2(y) + shortcut


class WideResNet(nnx.Module):
    """Three stages of residual blocks; the last two halve the resolution."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        rngs: nnx.Rngs,
        *,
        depth: int,
        widen: int,
    ) -> None:
        self.stem = conv(image_shape[-1], 16, 3, 1, rngs)
        blocks, channels = [], 16
        for stage in range(3):
            outputs = 16 * widen * 2**stage
            for i in range((depth - 4) // 6):
                blocks.append(_Block(channels, outputs, 2 if stage and i == 0 else 1, rngs))
                channels = outputs
        self.blocks = nnx.List(blocks)
        self.norm = batch_norm(channels, rngs)
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits of a batch."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, train=train)
        return self.head(global_pool(nnx.relu(self.norm(x, use_running_average=not train))))


def wide_resnet28_10(
    image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs
) -> WideResNet:
    """WideResNet-28-10, 36.5 million parameters for ten classes."""
    return WideResNet(image_shape, num_classes, rngs, depth=28, widen=10)

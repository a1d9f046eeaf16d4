"""ResNet-18, ResNet-50 and ResNet-8 (He et al. 2016) with the stem for small images.

The stem is one 3x3 convolution of stride 1 without pooling, in place of the 7x7 of stride 2 and
the pooling that ImageNet's larger images ask for. ResNet-8's has a stride of 2.
"""

import jax
from flax import nnx

from experiments.models.layers import batch_norm, conv, global_pool


class _Shortcut(nnx.Module):
    """A 1x1 convolution that brings the input into the shape of a block's output."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv = conv(inputs, outputs, 1, stride, rngs)
        self.norm = batch_norm(outputs, rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y: jax.Array = self.norm(self.conv(x), use_running_average=not train)
        return y


class _Residual(nnx.Module):
    """Convolutions with BatchNorm, rectified between them and after adding the input."""

    def __init__(self, inputs: int, layers: list[tuple[int, int, int]], rngs: nnx.Rngs) -> None:
        convs, norms = [], []
        channels, reduction = inputs, 1
        for outputs, size, stride in layers:
            convs.append(conv(channels, outputs, size, stride, rngs))
            norms.append(batch_norm(outputs, rngs))
            channels, reduction = outputs, reduction * stride
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        same_shape = channels == inputs and reduction == 1
        self.shortcut = None if same_shape else _Shortcut(inputs, channels, reduction, rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i, (convolve, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(convolve(nnx.relu(y) if i else y), use_running_average=not train)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x, train=train)))


def _basic(width: int, stride: int) -> list[tuple[int, int, int]]:
    return [(width, 3, stride), (width, 3, 1)]


def _bottleneck(width: int, stride: int) -> list[tuple[int, int, int]]:
    return [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]


class ResNet(nnx.Module):
    """Stages of residual blocks; each but the first halves the resolution and doubles the width."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        rngs: nnx.Rngs,
        *,
        depths: tuple[int, ...],
        width: int,
        bottleneck: bool,
        stem_stride: int = 1,
    ) -> None:
        self.stem = conv(image_shape[-1], width, 3, stem_stride, rngs)
        self.norm = batch_norm(width, rngs)
        block = _bottleneck if bottleneck else _basic
        blocks, channels = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                layers = block(width * 2**stage, 2 if stage and i == 0 else 1)
                blocks.append(_Residual(channels, layers, rngs))
                channels = layers[-1][0]
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits of a batch."""
        x = nnx.relu(self.norm(self.stem(images), use_running_average=not train))
        for block in self.blocks:
            x = block(x, train=train)
        return self.head(global_pool(x))


def resnet18(image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> ResNet:
    """ResNet-18, 11.17 million parameters for ten classes."""
    return ResNet(image_shape, num_classes, rngs, depths=(2, 2, 2, 2), width=64, bottleneck=False)


def resnet50(image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> ResNet:
    """ResNet-50, 23.5 million parameters for ten classes."""
    return ResNet(image_shape, num_classes, rngs, depths=(3, 4, 6, 3), width=64, bottleneck=True)


def resnet8(image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> ResNet:
    """ResNet-8, the smallest of the published 6n + 2 family for CIFAR: 78 thousand parameters.

    For CPUs its stem has a stride of 2, which leaves a quarter of the work.
    """
    return ResNet(
        image_shape,
        num_classes,
        rngs,
        depths=(1, 1, 1),
        width=16,
        bottleneck=False,
        stem_stride=2,
    )

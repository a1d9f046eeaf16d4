"""Networks: the published sizes, and images of every data set's shape."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.common.errors import UserError
from experiments.data.dataset import Dataset
from experiments.models import MODELS, Builder, ModelName, build_model
from experiments.models.layers import glorot_uniform, he_normal, max_pool
from experiments.models.network import Batch, as_functions, build_network
from experiments.models.resnet import ResNet
from experiments.models.wide_resnet import WideResNet
from experiments.training.config import Method, TrainConfig
from experiments.training.methods import build_method
from experiments.training.resolve import resolve
from experiments.training.step import TrainState, train_step

# Kernels, biases, scales: the published counts for 3 channels and ten classes.
PARAMETERS = {
    "simple_cnn": 2_168_362,
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "wide_resnet28_10": 36_479_194,
    "alexnet": 2_472_266,
    "alexnet_3x3": 23_272_266,
    "resnet8": 78_042,
    "small_cnn": 136_874,
    "mlp": 205_642,
}


def test_every_model_has_a_published_count() -> None:
    assert PARAMETERS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name: ModelName) -> None:
    network = nnx.eval_shape(lambda: build_model(name, (32, 32, 3), 10, jax.random.key(0)))
    leaves = jax.tree.leaves(nnx.state(network, nnx.Param))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == PARAMETERS[name]


# Their global pooling makes the residual networks' head the same for every size of image.
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (28, 28, 1)) for name in PARAMETERS),
        *((name, (8, 8, 1)) for name in ("simple_cnn", "alexnet", "alexnet_3x3", "resnet18")),
        *((name, (32, 32, 3)) for name in PARAMETERS),
        *((name, (15, 33, 1)) for name in ("alexnet", "alexnet_3x3")),
    ],
)
def test_logits_shape(name: ModelName, shape: tuple[int, int, int]) -> None:
    def forward() -> jax.Array:
        return build_model(name, shape, 7, jax.random.key(0))(jnp.zeros((2, *shape)), train=True)

    assert jax.eval_shape(forward).shape == (2, 7)


def test_images_too_large_for_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = np.zeros((2, 128, 128, 1), np.uint8), np.zeros(2, np.int32)
    data = Dataset(images, labels, images, labels, num_classes=2, crop_padding=1, flip=True)
    monkeypatch.setattr("experiments.models.network.available_mib", lambda: 256.0)
    assert build_network("mlp", data, jax.random.key(0)).params
    with pytest.raises(
        UserError, match=r"^simple_cnn has 33,\d+,\d+ param.* 128x128 .*--image-size"
    ):
        build_network("simple_cnn", data, jax.random.key(0))


def test_initial_variance() -> None:
    shape = (3, 3, 64, 32)
    he, glorot = he_normal(jax.random.key(0), shape), glorot_uniform(jax.random.key(0), shape)
    assert he.shape == glorot.shape == shape
    assert float(he.var()) == pytest.approx(2 / (9 * 32), rel=0.05)
    assert float(glorot.var()) == pytest.approx(2 / (9 * (64 + 32)), rel=0.05)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_max_pool(size: tuple[int, int]) -> None:
    def by_windows(x: jax.Array) -> jax.Array:
        window = (1, 2, 2, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "SAME")

    x = jax.random.normal(jax.random.key(0), (2, *size, 3))

    def value_and_gradient(pool: Callable[[jax.Array], jax.Array]) -> list[jax.Array]:
        pooled, pullback = jax.vjp(pool, x)
        return [pooled, *pullback(pooled)]

    found, expected = jax.jit(
        lambda: (value_and_gradient(max_pool), value_and_gradient(by_windows))
    )()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# The deepest networks compile for up to a minute; with one block a stage they have all their parts,
# and resnet18 those of resnet8.
SHALLOW: dict[str, Builder] = {
    "resnet50": partial(ResNet, depths=(1, 1), width=16, bottleneck=True),
    "wide_resnet28_10": partial(WideResNet, depth=10, widen=2),
}


# Global pooling leaves a residual network's weights the same at 8x8 pixels. Oja's rule, without
# Hessian products, compiles in half the time.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method_name", "size"),
    [
        ("simple_cnn", "xsam_oja", 32),
        ("alexnet", "xsam_oja", 32),
        ("resnet50", "xsam_oja", 8),
        ("wide_resnet28_10", "xsam_oja", 8),
        ("resnet8", "xsam", 8),
        ("small_cnn", "xsam", 32),
        ("mlp", "xsam", 32),
    ],
)
def test_a_full_step_of_x_sam(name: ModelName, method_name: Method, size: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, size, size, 3), np.uint8)
    build = SHALLOW.get(name, MODELS[name])
    network = as_functions(build((size, size, 3), 10, nnx.Rngs(params=0)), images)
    # A step before which there is no eigenvector refreshes it.
    method = build_method(resolve(TrainConfig(method=method_name, power_iters=1)), total_steps=10)
    state = TrainState(
        jnp.zeros((), jnp.int32), network.params, network.batch_stats, method.init(network.params)
    )
    batch = Batch(jnp.asarray(images), jnp.asarray([3, 7], jnp.int32))
    after, loss, _ = jax.jit(partial(train_step, network.train, method))(state, batch)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
    moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), after.params, network.params)
    assert all(jax.tree.leaves(moved))
    # An eigenvector was found, and its eigenvalue.
    eigenvalue = optax.tree_utils.tree_get(after.opt_state, "eigenvalue")
    assert np.isfinite(eigenvalue)
    assert eigenvalue != 0

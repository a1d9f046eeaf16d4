"""Networks: the published sizes, and images of every data set's shape."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from experiments.config import ModelName
from experiments.models import MODELS, build_model
from experiments.models.initializers import glorot_uniform, he_normal

# Kernels, biases, scales: the published counts for 3 channels and ten classes.
PARAMETERS = {
    "simple_cnn": 2_168_362,
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "wide_resnet28_10": 36_479_194,
    "alexnet": 2_472_266,
}


def test_every_model_has_a_published_count() -> None:
    assert PARAMETERS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name: ModelName) -> None:
    network = nnx.eval_shape(lambda: build_model(name, (32, 32, 3), 10, jax.random.key(0)))
    leaves = jax.tree.leaves(nnx.state(network, nnx.Param))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == PARAMETERS[name]


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize("name", PARAMETERS)
def test_logits_shape(name: ModelName, shape: tuple[int, int, int]) -> None:
    def forward() -> jax.Array:
        return build_model(name, shape, 7, jax.random.key(0))(jnp.zeros((2, *shape)), train=True)

    assert jax.eval_shape(forward).shape == (2, 7)


def test_initial_variance() -> None:
    shape = (3, 3, 64, 32)
    he, glorot = he_normal(jax.random.key(0), shape), glorot_uniform(jax.random.key(0), shape)
    assert he.shape == glorot.shape == shape
    assert float(he.var()) == pytest.approx(2 / (9 * 32), rel=0.05)
    assert float(glorot.var()) == pytest.approx(2 / (9 * (64 + 32)), rel=0.05)

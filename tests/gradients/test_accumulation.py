"""The gradient of many batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax
from tests import problem_a


def _loss(params: chex.ArrayTree, batch: tuple[chex.Array, chex.Array]) -> chex.Array:
    return problem_a.loss(params, *batch)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("count", [1, 4, 32])
def test_gradient_of_the_one_big_batch(dtype: jnp.dtype, count: int) -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), problem_a.tree("init"))
    x, y = problem_a.minibatch(0)
    batches = (x.astype(dtype).reshape(count, -1, x.shape[1]), y.reshape(count, -1))
    with jax.default_matmul_precision("highest"):  # A GPU's default has ten bits.
        accumulated = xsam_jax.mean_grad_fn(_loss, batches)(params)
        whole = jax.grad(problem_a.loss)(params, x.astype(dtype), y)
    chex.assert_trees_all_equal_shapes_and_dtypes(accumulated, params)
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-14
    chex.assert_trees_all_close(accumulated, whole, rtol=tolerance, atol=tolerance)


def test_arrays_of_a_batch_may_differ_but_in_their_number() -> None:
    """Batches of two inputs with three weights each: only the leading axis is common."""
    x, weights = jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([[1.0, 1, 2], [1, 0, 1]])
    grad_fn = xsam_jax.mean_grad_fn(lambda w, b: w * jnp.sum(b[0]) * jnp.sum(b[1]), (x, weights))
    assert grad_fn(jnp.array(1.0)) == (3 * 4 + 8 * 2) / 2


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    params = problem_a.tree("init")

    def temporary_bytes(count: int) -> int:
        batches = (jnp.zeros((count, 64, 10)), jnp.zeros((count, 64), jnp.int32))
        fn = jax.jit(lambda p, b: xsam_jax.mean_grad_fn(_loss, b)(p))
        return fn.lower(params, batches).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(64) <= temporary_bytes(2) + 1024


def test_sum_of_bfloat16_gradients_is_float32() -> None:
    # In bfloat16 a sum of ones stops at 256.
    loss = lambda w, batch: jnp.sum(w * batch)
    gradient = xsam_jax.mean_grad_fn(loss, jnp.ones((1024, 1), jnp.bfloat16))
    np.testing.assert_array_equal(
        gradient(jnp.zeros(1, jnp.bfloat16)).astype(jnp.float32), jnp.ones(1, jnp.float32)
    )


@pytest.mark.parametrize(
    "batches", [(), jnp.ones(()), jnp.ones((0, 2)), (jnp.ones((2, 3)), jnp.ones((3, 3)))]
)
def test_batches_without_a_common_axis(batches: chex.ArrayTree) -> None:
    with pytest.raises(ValueError, match="batches must be arrays with a common leading axis"):
        xsam_jax.mean_grad_fn(_loss, batches)


def test_loss_fn_of_several_arguments() -> None:
    two = jnp.ones((2, 3))
    with pytest.raises(TypeError, match="missing 1 required positional argument") as error:
        xsam_jax.mean_grad_fn(lambda w, x, y: w * x @ y, (two, two))(jnp.ones(()))
    note = "loss_fn is called as loss_fn(params, batch): a batch is one tree"
    assert note in error.value.__notes__
    with pytest.raises(TypeError, match="unsupported operand") as error:
        xsam_jax.mean_grad_fn(lambda w, batch: w + "1", two)(jnp.ones(()))
    assert note not in error.value.__notes__


def test_loss_fn_that_is_no_function() -> None:
    with pytest.raises(TypeError, match=r"loss_fn must be a function .*, got 1"):
        xsam_jax.mean_grad_fn(1, jnp.ones((2, 3)))

"""A run that was saved and restored goes on as if nothing had happened, to the bit."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from orbax.checkpoint import v1 as checkpoint

from tests.every_method.methods import LEARNING_RATE, METHODS, every_method
from tests.every_method.problem import init, step

BASE = optax.sgd(LEARNING_RATE, momentum=0.9)


@pytest.mark.usefixtures("standard_promotion")  # momentum mixes dtypes inside optax
@every_method
def test_resumes_exactly(name: str, tmp_path: Path) -> None:
    tx = METHODS[name].optimizer(BASE)
    one_step = jax.jit(lambda params, state, k: step(tx, params, state, k))

    def advance(carry: chex.ArrayTree, steps: range) -> chex.ArrayTree:
        for k in steps:
            carry = one_step(*carry, jnp.int32(k))
        return carry

    # float32 parameters: a float64 state would not show a silent cast.
    params = init(jnp.float32)
    halfway = advance((params, tx.init(params)), range(3))
    checkpoint.save(tmp_path / "halfway", halfway)
    abstract = jax.eval_shape(lambda: (params, tx.init(params)))
    restored = checkpoint.load(tmp_path / "halfway", abstract)

    chex.assert_trees_all_equal_structs(restored, halfway)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, halfway)
    chex.assert_trees_all_equal(restored, halfway)
    chex.assert_trees_all_equal(advance(restored, range(3, 6)), advance(halfway, range(3, 6)))

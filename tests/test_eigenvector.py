"""What trackers share."""

import jax
import jax.numpy as jnp
import pytest

import xsam_jax
from tests import quadratic


@pytest.mark.parametrize("every", [1, 2])
def test_a_refresh_at_every_step_is_no_branch(every: int) -> None:
    params, gradient = quadratic.start(3), quadratic.grad_fn(jnp.eye(3))
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=every))
    program = jax.make_jaxpr(
        lambda state: tx.update(gradient(params), state, params, grad_fn=gradient)
    )(tx.init(params))
    assert ("cond[" in str(program)) == (every > 1)


def test_power_iteration_alone_takes_products_of_its_own() -> None:
    trackers = (xsam_jax.power_iteration(), xsam_jax.oja(), xsam_jax.subspace())
    assert [tracker.free for tracker in trackers] == [False, True, True]

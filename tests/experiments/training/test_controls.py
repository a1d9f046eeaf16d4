"""The vectors that stand in the eigenvector's place in the controls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.controls import lanczos, random_vector
from xsam_jax import Tracker, xsam

EIGENVALUES = jnp.array([-9.0, 0.1, 0.5, 1.0, 2.0, 7.0])
W = {"a": jnp.arange(1.0, 4.0), "b": jnp.arange(4.0, 7.0)}


def gradient(w: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"a": EIGENVALUES[:3] * w["a"], "b": EIGENVALUES[3:] * w["b"]}


def vectors(tracker: Tracker, steps: int) -> np.ndarray:
    tx = xsam(eigenvector=tracker)
    step = jax.jit(lambda state: tx.update(gradient(W), state, W, grad_fn=gradient))
    state, found = tx.init(W), []
    for _ in range(steps):
        _, state = step(state)
        found.append(np.concatenate([state.eigenvector["a"], state.eigenvector["b"]]))
    return np.array(found)


def test_random_vector_is_a_new_unit_vector_every_so_many_steps() -> None:
    found = vectors(random_vector(every=2, seed=0), 4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found[0], found[1])
    assert abs(found[1] @ found[2]) < 0.99
    assert not np.allclose(found[0], vectors(random_vector(every=2, seed=1), 1)[0])


def test_random_vectors_point_everywhere() -> None:
    found = vectors(random_vector(every=1, seed=0), 300)
    # The second moment of a uniform unit vector is the identity over the dimension.
    np.testing.assert_allclose(found.T @ found / 300, np.eye(6) / 6, atol=0.06)


def test_lanczos_is_the_eigenvector_of_the_largest_eigenvalue() -> None:
    found = vectors(lanczos(every=2), 3)
    np.testing.assert_allclose(np.abs(found), [[0, 0, 0, 0, 0, 1]] * 3, atol=1e-4)
    tx = xsam(eigenvector=lanczos(every=1))
    _, state = tx.update(gradient(W), tx.init(W), W, grad_fn=gradient)
    assert float(state.eigenvalue) == pytest.approx(7, rel=1e-4)

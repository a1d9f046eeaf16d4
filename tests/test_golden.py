"""Agreement with float64 trajectories of the reference codes, at every step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import problem_a


def _x_sam(method: str) -> optax.GradientTransformationExtraArgs:
    h = problem_a.hyperparameters(method)
    return xsam_jax.xsam(
        h["rho"],
        h["alpha"],
        eigenvector=xsam_jax.power_iteration(h["p"], h["q"], start=problem_a.tree("v0")),
        correction="projector" if "projector" in method else "signed",
        normalize="unnorm" not in method,
    )


def transformation(method: str) -> optax.GradientTransformationExtraArgs:
    h = problem_a.hyperparameters(method)
    match method:
        case "sam":
            return xsam_jax.sam(h["rho"])
        case "asam":
            return xsam_jax.sam(h["rho"], adaptive=True)
        case _:
            return _x_sam(method)


@pytest.mark.parametrize("base", ["sgd", "sgdm"])
@pytest.mark.parametrize(
    "method",
    ["sam", "asam", "xsam", "xsam_projector", "xsam_unnorm", "xsam_projector_unnorm"],
)
def test_trajectory(method: str, base: str) -> None:
    h = problem_a.hyperparameters(method)
    tx = optax.chain(transformation(method), problem_a.base(base, h["lr"]))
    trajectory, _ = problem_a.run(tx)
    expected = problem_a.tree(f"{method}/{base}/params")
    chex.assert_trees_all_close(
        trajectory, jax.tree.map(lambda leaf: leaf[1:], expected), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("method", ["xsam", "xsam_projector_unnorm"])
def test_refreshed_eigenvectors(method: str) -> None:
    h = problem_a.hyperparameters(method)
    tx = optax.chain(transformation(method), problem_a.base("sgdm", h["lr"]))
    _, (state, *_) = problem_a.run(tx)
    steps = problem_a.arrays()[f"{method}/sgdm/eig_step"]
    np.testing.assert_array_equal(steps, np.arange(0, problem_a.STEPS, h["p"]))
    for offset in range(int(h["p"])):  # it stands still between refreshes
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf: leaf[steps + offset], state.eigenvector),
            problem_a.tree(f"{method}/sgdm/eigvec"),
            rtol=0,
            atol=1e-9,
        )


def test_alignment_is_the_cosine_with_the_perturbed_gradient() -> None:
    tx = transformation("xsam")
    _, (state, *_) = problem_a.run(optax.chain(tx, problem_a.base("sgd", 0.05)))
    dots = problem_a.arrays()["xsam/sgd/dot_gadv_v"]
    np.testing.assert_array_equal(np.sign(state.alignment), np.sign(dots))
    # Without the step's g_adv at hand: cosines of the reference are dots over norms.
    norms = problem_a.arrays()["xsam/sgd/grad_adv_norm"]
    np.testing.assert_allclose(state.alignment, dots / norms, atol=1e-6)


def test_eigenvalue_approaches_the_dense_hessians() -> None:
    tracker = xsam_jax.power_iteration(iters=200, start=problem_a.tree("v0"))
    tx = xsam_jax.xsam(eigenvector=tracker)
    _, state = problem_a.run(tx, steps=1)
    np.testing.assert_allclose(
        state.eigenvalue[0], problem_a.arrays()["hess/mb0/topabs_eigval"], rtol=1e-5
    )
    cosine = sum(
        jnp.sum(a[0] * b)
        for a, b in zip(
            jax.tree.leaves(state.eigenvector),
            jax.tree.leaves(problem_a.tree("hess/mb0/top_eigvec")),
            strict=True,
        )
    )
    np.testing.assert_allclose(jnp.abs(cosine), 1, rtol=1e-9)

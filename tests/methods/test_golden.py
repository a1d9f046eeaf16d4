"""Agreement with float64 trajectories of the reference codes, at every step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import problem_a
from tests.methods import algorithm_2


def _x_sam(method: str) -> optax.GradientTransformationExtraArgs:
    h = problem_a.hyperparameters(method)
    return xsam_jax.xsam(
        h["rho"],
        h["alpha"],
        eigenvector=xsam_jax.power_iteration(
            h["p"], h["q"], warm_start="official" in method, start=problem_a.tree("v0")
        ),
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
        case "gsam":
            return xsam_jax.gsam(h["rho"], h["alpha"])
        case "gsam_sched":
            radii = jnp.asarray(problem_a.arrays()["gsam_sched/sgd/rho_t"])
            return xsam_jax.gsam(lambda count: radii[count], h["alpha"])
        case "fsam":
            return xsam_jax.friendly_sam(h["rho"], h["sigma"], h["lmbda"])
        case "wsam_coupled":
            return xsam_jax.wsam(h["rho"], h["gamma"])
        case "eigen_sam_t0":
            tracker = xsam_jax.power_iteration(h["freq"], h["q"], start=problem_a.tree("v0"))
            return xsam_jax.eigen_sam(h["rho"], h["alpha"], eigenvector=tracker)
        case _:
            return _x_sam(method)


def optimizer(method: str, base: str) -> optax.GradientTransformationExtraArgs:
    h = problem_a.hyperparameters(method)
    if method == "wsam":
        return xsam_jax.wsam_decoupled(problem_a.base(base, h["lr"]), h["lr"], h["rho"], h["gamma"])
    learning_rate = h.get("lr")
    if method == "gsam_sched":
        rates = jnp.asarray(problem_a.arrays()["gsam_sched/sgd/lr_t"])
        learning_rate = lambda count: rates[count]
    return optax.chain(transformation(method), problem_a.base(base, learning_rate))


@pytest.mark.parametrize("base", ["sgd", "sgdm"])
@pytest.mark.parametrize(
    "method",
    [
        "sam",
        "asam",
        "gsam",
        "gsam_sched",
        "wsam",
        "wsam_coupled",
        "fsam",
        "eigen_sam_t0",
        "xsam",
        "xsam_projector",
        "xsam_unnorm",
        "xsam_projector_unnorm",
        "xsam_official_t0",
    ],
)
def test_trajectory(method: str, base: str) -> None:
    trajectory, _ = problem_a.run(optimizer(method, base))
    expected = problem_a.tree(f"{method}/{base}/params")
    chex.assert_trees_all_close(
        trajectory, jax.tree.map(lambda leaf: leaf[1:], expected), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("base", ["sgd", "sgdm"])
def test_published_code_is_sam_until_its_first_refresh_and_then_ours(base: str) -> None:
    """X-SAM's authors refresh the eigenvector in step p for the first time, and not in step 0."""
    h = problem_a.hyperparameters("xsam_official")
    p = int(h["p"])
    optimizer = problem_a.base(base, h["lr"])

    def at_the_end(tree: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree.map(lambda leaf: leaf[-1], tree)

    before, (_, base_state) = problem_a.run(optax.chain(xsam_jax.sam(h["rho"]), optimizer), steps=p)
    params = at_the_end(before)
    ours = transformation("xsam_official")
    after, (state, _) = problem_a.run(
        optax.chain(ours, optimizer),
        params,
        steps=problem_a.STEPS - p,
        first=p,
        state=(ours.init(params), at_the_end(base_state)),
    )
    found = jax.tree.map(lambda *parts: jnp.concatenate(parts), before, after)
    expected = problem_a.tree(f"xsam_official/{base}/params")
    chex.assert_trees_all_close(
        found, jax.tree.map(lambda leaf: leaf[1:], expected), rtol=0, atol=1e-9
    )
    refreshes = problem_a.arrays()[f"xsam_official/{base}/eig_step"]
    np.testing.assert_array_equal(refreshes, np.arange(p, problem_a.STEPS, p))
    vectors = jax.tree.map(lambda leaf: leaf[refreshes - p], state.eigenvector)
    chex.assert_trees_all_close(
        vectors, problem_a.tree(f"xsam_official/{base}/eigvec"), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("base", ["sgd", "sgdm"])
@pytest.mark.parametrize(
    "method", ["xsam", "xsam_projector", "xsam_unnorm", "xsam_projector_unnorm"]
)
def test_the_trajectories_of_x_sam_are_those_of_its_algorithm(method: str, base: str) -> None:
    expected = algorithm_2.flat(f"{method}/{base}/params")[1:]
    np.testing.assert_allclose(algorithm_2.trajectory(method, base), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["xsam", "xsam_projector_unnorm", "xsam_official_t0"])
def test_refreshed_eigenvectors(method: str) -> None:
    h = problem_a.hyperparameters(method)
    tx = optax.chain(transformation(method), problem_a.base("sgdm", h["lr"]))
    _, (state, *_) = problem_a.run(tx)
    steps = problem_a.arrays()[f"{method}/sgdm/eig_step"]
    np.testing.assert_array_equal(steps, np.arange(0, problem_a.STEPS, h["p"]))
    # It stands still between refreshes.
    expected = jax.tree.map(
        lambda leaf: jnp.repeat(leaf, h["p"], axis=0)[: problem_a.STEPS],
        problem_a.tree(f"{method}/sgdm/eigvec"),
    )
    chex.assert_trees_all_close(state.eigenvector, expected, rtol=0, atol=1e-9)


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

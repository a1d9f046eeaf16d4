"""Power iteration on Hessians with prescribed spectra."""

import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import xsam_jax
from tests import quadratic
from tests.meshes import mesh_of


def _run(spectrum: list[float], steps: int = 1, **arguments: Any) -> tuple[Any, chex.Array]:
    """Track at fixed parameters: states after each step, and the true eigenvectors."""
    matrix, vectors = quadratic.hessian(spectrum)
    params, gradient = quadratic.start(len(spectrum)), quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(**arguments))

    def step(state: Any, _: None) -> tuple[Any, Any]:
        _, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return state, state

    _, states = jax.jit(lambda: jax.lax.scan(step, tx.init(params), length=steps))()
    return states, vectors


@pytest.mark.parametrize(
    "spectrum",
    [
        [10.0, 2.0, 1.0, 0.5, 0.1],  # a gap
        [-10.0, 2.0, 1.0, 0.5, 0.1],  # the dominant one negative
        [10.0, 0.0, 0.0, 0.0, 0.0],  # rank one
    ],
)
def test_finds_the_eigenvalue_of_largest_magnitude(spectrum: list[float]) -> None:
    states, vectors = _run(spectrum, iters=40)
    v = quadratic.flat_steps(states.eigenvector)[0]
    np.testing.assert_allclose(jnp.abs(v @ vectors[:, 0]), 1, rtol=1e-12)
    np.testing.assert_allclose(states.eigenvalue[0], spectrum[0], rtol=1e-6)


def test_error_falls_by_the_spectral_ratio() -> None:
    # tan(v_q, v) <= (lambda_2 / lambda_1)**q tan(v_0, v), an equality where only two count.
    start = quadratic.tree(jnp.ones(3))
    spectrum = [4.0, 2.0, 0.0]
    tangents = []
    for iters in (3, 4, 5):
        states, vectors = _run(spectrum, iters=iters, start=start)
        coordinates = quadratic.flat_steps(states.eigenvector)[0] @ vectors
        tangents.append(jnp.abs(coordinates[1] / coordinates[0]))
    np.testing.assert_allclose(tangents[1] / tangents[0], 0.5, rtol=1e-9)
    np.testing.assert_allclose(tangents[2] / tangents[1], 0.5, rtol=1e-9)


def test_warm_start_goes_on_and_cold_start_begins_again() -> None:
    spectrum = [4.0, 3.5, 3.0, 2.0, 1.0]
    warm, vectors = _run(spectrum, steps=20, every=1, iters=1, warm_start=True)
    cold, _ = _run(spectrum, steps=20, every=1, iters=1, warm_start=False)
    once, _ = _run(spectrum, iters=20)
    quality = lambda states: jnp.abs(quadratic.flat_steps(states.eigenvector) @ vectors[:, 0])
    # 20 warm refreshes of one product are one refresh of 20.
    np.testing.assert_allclose(quality(warm)[-1], quality(once)[0], rtol=1e-9)
    assert jnp.mean(quality(cold)) < 0.9 < quality(warm)[-1]


def test_seeds_and_start() -> None:
    spectrum = [4.0, 3.5, 3.0, 2.0, 1.0]
    vector = lambda **arguments: quadratic.flat_steps(_run(spectrum, **arguments)[0].eigenvector)
    three, four = vector(seed=3), vector(seed=4)
    np.testing.assert_array_equal(vector(seed=3), three)
    assert np.linalg.norm(vector(seed=2**63 - 1)) == pytest.approx(1)
    with pytest.raises(ValueError, match="seed must be"):
        vector(seed=2**63)
    assert np.abs(three - four).max() > 1e-3
    found = jax.vmap(lambda seed: vector(seed=seed))(jnp.array([3, 4]))
    np.testing.assert_allclose(found, jnp.stack([three, four]), atol=1e-12)
    start = quadratic.start(5, seed=9)
    scaled = jax.tree.map(lambda leaf: 1e-3 * leaf, start)
    from_start = vector(start=start)
    np.testing.assert_allclose(vector(start=scaled), from_start, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda: vector(start=start))(), from_start, rtol=1e-12)


def test_a_start_whose_sum_overflows_its_dtype() -> None:
    xsam_jax.power_iteration(start=jnp.ones(70_000, jnp.float16))


@pytest.mark.parametrize("start", [None, [3.0, 4.0, 12.0]])
def test_one_product_gives_the_rayleigh_quotient_of_a_unit_vector(start: Any) -> None:
    start = None if start is None else quadratic.tree(start)
    states, _ = _run([2.0, 2.0, 2.0], iters=1, start=start)
    np.testing.assert_allclose(states.eigenvalue, [2.0], rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, jnp.inf, jnp.nan])
def test_a_start_without_direction(bad: float) -> None:
    with pytest.raises(ValueError, match="start must be finite and not zero"):
        xsam_jax.power_iteration(
            start={"a": jnp.zeros(2), "b": jnp.array([0.0, bad]), "empty": jnp.zeros(0)}
        )


def test_tree_of_float32_and_float64() -> None:
    """Every leaf of the eigenvector has its own dtype."""
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2)}
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(iters=60))
    curvatures = {"a": jnp.float32(1.0), "b": 3.0}
    gradient = lambda w: {leaf: curvatures[leaf] * w[leaf] for leaf in w}
    _, state = tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
    chex.assert_trees_all_equal_dtypes(state.eigenvector, params)
    np.testing.assert_allclose(state.eigenvector["a"], 0, atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(state.eigenvector["b"]), 1, rtol=1e-12)


def test_start_of_another_tree() -> None:
    with pytest.raises(ValueError, match="start must have the tree structure of params"):
        _run([2.0, 1.0, 1.0], start=jnp.ones(3))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 0.0])
@pytest.mark.parametrize("warm_start", [True, False])
def test_a_bad_refresh_keeps_the_last_good_eigenvector(bad: float, warm_start: bool) -> None:
    matrix, _ = quadratic.hessian([4.0, 2.0, 1.0])
    params, gradient = quadratic.start(3), quadratic.grad_fn(matrix)
    tracker = xsam_jax.power_iteration(every=1, iters=2, warm_start=warm_start)
    tx = xsam_jax.xsam(eigenvector=tracker)
    update = jax.jit(
        lambda state, scale: tx.update(
            gradient(params),
            state,
            params,
            grad_fn=gradient,
            curvature_grad_fn=quadratic.grad_fn(scale * matrix),
        )
    )
    _, first = update(tx.init(params), 1.0)
    direction, second = update(first, bad)
    chex.assert_trees_all_equal(second.eigenvector, first.eigenvector)
    assert second.eigenvalue == first.eigenvalue
    assert np.isfinite(quadratic.flat(direction)).all()
    _, third = update(second, 1.0)
    assert np.isfinite(quadratic.flat(third.eigenvector)).all()

    # Bad from the first step on: no eigenvector, no correction.
    direction, state = update(tx.init(params), bad)
    np.testing.assert_array_equal(quadratic.flat(state.eigenvector), 0)
    expected, _ = xsam_jax.xsam(alpha=0.0).update(
        gradient(params), tx.init(params), params, grad_fn=gradient
    )
    chex.assert_trees_all_close(direction, expected, rtol=1e-12)


def test_the_refresh_is_a_branch_and_its_iterations_one_loop() -> None:
    """Neither the schedule nor q multiplies the program: one product is traced."""
    params = quadratic.start(3)
    calls = []

    def gradient(params: chex.ArrayTree) -> chex.ArrayTree:
        calls.append(1)
        return quadratic.grad_fn(jnp.eye(3))(params)

    def program(**kwargs: Any) -> str:
        tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(iters=50))
        update = lambda p, s: tx.update(p, s, p, grad_fn=gradient, **kwargs)
        return str(jax.make_jaxpr(update)(params, tx.init(params)))

    with_refresh = program()
    assert len(calls) == 2  # the product and the perturbed gradient
    without = program(refresh=False)

    def branches(program: str) -> int:
        """Count branches, but for those between platforms, of which the compiler takes one."""
        return program.count("cond[") - program.count("platform_index[")

    assert branches(with_refresh) == branches(without) + 1
    assert with_refresh.count("scan[") == without.count("scan[") + 1


def test_on_a_mesh_only_scalars_travel() -> None:
    """The random start is computed where it is needed, whatever the compiler would divide."""
    mesh = mesh_of(8)
    shapes = {"a": (16, 8), "b": (24,), "c": (5,)}
    params = {
        name: jax.device_put(
            jnp.ones(shape), NamedSharding(mesh, PartitionSpec("data" if name != "c" else None))
        )
        for name, shape in shapes.items()
    }
    gradient = lambda w: jax.tree.map(jnp.sin, w)
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=2))

    @jax.jit
    def step(params: chex.ArrayTree) -> chex.ArrayTree:
        return tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)

    with jax.set_mesh(mesh):
        program = step.lower(params).compile().as_text()
    kinds = re.findall(r"= (.*) (all-\w+|reduce-scatter|collective-\w+)\(", program)
    assert {kind for _, kind in kinds} == {"all-reduce"}
    assert not re.search(r"\w\[\d", " ".join(results for results, _ in kinds))


def _compiled(every: int, iters: int) -> Any:
    """Compile a step of a deep network whose activations outweigh its parameters."""
    weights = list(jax.random.normal(jax.random.key(0), (12, 16, 16)) / 4)
    inputs = jnp.ones((512, 16))
    tracker = xsam_jax.power_iteration(every=every, iters=iters)
    tx = xsam_jax.xsam(eigenvector=tracker)

    def loss(weights: list[chex.Array], x: chex.Array) -> chex.Array:
        for weight in weights:
            x = jnp.tanh(x @ weight)
        return jnp.mean(x**2)

    def step(weights: list[chex.Array], state: Any, x: chex.Array) -> tuple[Any, Any]:
        gradient = lambda weights: jax.grad(loss)(weights, x)
        return tx.update(gradient(weights), state, weights, grad_fn=gradient)

    return jax.jit(step).lower(weights, tx.init(weights), inputs).compile()


def test_memory_does_not_grow_with_the_products() -> None:
    # XLA would keep what does not depend on the vector, twice the memory of one product.
    planned = [_compiled(2, iters).memory_analysis().temp_size_in_bytes for iters in (1, 2, 5)]
    assert max(planned[1:]) <= planned[0]


def test_one_product_in_every_step_shares_the_gradient_at_the_parameters() -> None:
    shared, branch = (_compiled(every, 1).cost_analysis()["flops"] for every in (1, 2))
    assert shared < 0.95 * branch

"""channels_last: the same numbers, another layout."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import xsam_jax
from tests.meshes import mesh_of


def _conv(x: chex.Array, kernel: chex.Array, **params: Any) -> chex.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, **params)


def _init() -> dict[str, chex.Array]:
    draw = np.random.default_rng(0).normal
    return {
        "first": jnp.asarray(draw(size=(3, 3, 2, 4)), jnp.float32),
        "second": jnp.asarray(draw(size=(3, 3, 4, 4)), jnp.float32),
    }


IMAGES = jnp.asarray(np.random.default_rng(1).normal(size=(5, 6, 6, 2)), jnp.float32)


def _plain(params: Any, x: chex.Array) -> chex.Array:
    return _conv(jnp.tanh(_conv(x, params["first"])), params["second"])


def _scanned(params: Any, x: chex.Array) -> chex.Array:
    layer = lambda y, _: (jnp.tanh(_conv(y, params["second"])), None)
    return lax.scan(layer, _conv(x, params["first"]), length=2)[0]


def _branched(params: Any, x: chex.Array) -> chex.Array:
    y = _conv(x, params["first"])
    return lax.cond(
        jnp.sum(x) < 1e9, lambda y: _conv(y, params["second"]), lambda y: -y, jnp.tanh(y)
    )


def _while(params: Any, x: chex.Array) -> chex.Array:
    # Reverse mode does not go through a while loop, so it runs on constants.
    y, kernel = _conv(x, params["first"]), lax.stop_gradient(params["second"])
    return (
        y
        + lax.while_loop(
            lambda carry: carry[0] < 2,
            lambda carry: (carry[0] + 1, jnp.tanh(_conv(carry[1], kernel))),
            (jnp.int32(0), lax.stop_gradient(y)),
        )[1]
    )


def _custom_jvp(params: Any, x: chex.Array) -> chex.Array:
    @jax.custom_jvp
    def layer(y: chex.Array, kernel: chex.Array) -> chex.Array:
        return _conv(y, kernel)

    layer.defjvp(lambda primals, tangents: (layer(*primals), layer(tangents[0], primals[1])))
    return layer(jnp.tanh(_conv(x, params["first"])), params["second"])


def _custom_vjp(params: Any, x: chex.Array) -> chex.Array:
    @jax.custom_vjp
    def layer(y: chex.Array, kernel: chex.Array) -> chex.Array:
        return _conv(y, kernel)

    layer.defvjp(
        lambda y, kernel: (_conv(y, kernel), (y, kernel)),
        lambda residuals, g: jax.vjp(_conv, *residuals)[1](g),
    )
    return layer(jnp.tanh(_conv(x, params["first"])), params["second"])


def _grouped(params: Any, x: chex.Array) -> chex.Array:
    y = jnp.tanh(_conv(x, params["first"]))
    return _conv(y, params["second"][:, :, :2], feature_group_count=2)


def _strided_first_layout(params: Any, x: chex.Array) -> chex.Array:
    return lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2),
        params["first"].transpose(3, 2, 0, 1),
        (2, 1),
        [(0, 1), (2, 0)],
        rhs_dilation=(1, 2),
    )


def _one_dimensional(params: Any, x: chex.Array) -> chex.Array:
    return lax.conv_general_dilated(
        x[:, 0], params["first"][0], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )


MODELS = {
    "plain": _plain,
    "jit": jax.jit(_plain),
    "checkpoint": jax.checkpoint(_plain),
    "scan": _scanned,
    "cond": _branched,
    "while": _while,
    "custom_jvp": _custom_jvp,
    "custom_vjp": _custom_vjp,
    "grouped": _grouped,
    "strided, channels first": _strided_first_layout,
    "one-dimensional": _one_dimensional,
}

# Without channels_last XLA takes these to its generic kernel, which sums in another order.
SLOW_KERNEL = ("scan", "cond", "while", "grouped")


def _gradient(model: Callable[..., chex.Array]) -> Callable[..., Any]:
    return jax.grad(lambda params, x: jnp.mean(model(params, x) ** 2))


@pytest.mark.parametrize("model", MODELS)
def test_the_same_numbers_and_where_the_kernel_is_the_same_the_same_bits(model: str) -> None:
    gradient, params = _gradient(MODELS[model]), _init()
    expected = jax.jit(xsam_jax.channels_last(gradient))(params, IMAGES)
    original = jax.jit(gradient)(params, IMAGES)
    if model in SLOW_KERNEL:
        chex.assert_trees_all_close(expected, original, rtol=1e-4, atol=1e-6)
    else:
        chex.assert_trees_all_equal(expected, original)
    # Inside control flow the result is that of the entry computation, where XLA finds the layout.
    branch = lambda params, x: lax.cond(
        x[0, 0, 0, 0] < 1e9, xsam_jax.channels_last(gradient), lambda params, x: params, params, x
    )
    inside = jax.jit(branch)(params, IMAGES)
    if model == "grouped":
        chex.assert_trees_all_close(inside, expected, rtol=1e-4, atol=1e-6)
    else:
        chex.assert_trees_all_equal(inside, expected)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_layouts_in_the_lowered_program(platform: str) -> None:
    """On CPU every convolution is channels-last; elsewhere the program is what it was."""
    step = lambda params, x: lax.scan(
        lambda p, _: (_gradient(_scanned)(p, x), None), params, length=2
    )[0]
    lower = lambda fn: (
        jax.jit(fn).trace(_init(), IMAGES).lower(lowering_platforms=(platform,)).as_text()
    )
    convolutions = lambda text: [
        line.split("dim_numbers = ")[1].split(", window")[0]
        for line in text.splitlines()
        if "stablehlo.convolution" in line
    ]
    before, after = convolutions(lower(step)), convolutions(lower(xsam_jax.channels_last(step)))
    assert len(set(before)) > 1
    if platform == "cpu":
        assert set(after) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
        assert len(after) == len(before)
    else:
        assert after == before


def test_composes_with_vmap_grad_and_structure() -> None:
    gradient = _gradient(_plain)
    fast = xsam_jax.channels_last(gradient)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), _init())
    chex.assert_trees_all_close(
        jax.vmap(fast, (0, None))(params, IMAGES),
        jax.vmap(gradient, (0, None))(params, IMAGES),
        rtol=1e-5,
    )
    tangent = jax.tree.map(jnp.ones_like, _init())
    chex.assert_trees_all_close(
        jax.jvp(lambda p: fast(p, IMAGES), (_init(),), (tangent,)),
        jax.jvp(lambda p: gradient(p, IMAGES), (_init(),), (tangent,)),
        rtol=1e-4,
        atol=1e-6,
    )
    assert fast.__name__ == gradient.__name__
    named = xsam_jax.channels_last(lambda a, *, b: {"sum": a + b, "none": None, "pair": (a, b)})
    assert named(1, b=2) == {"sum": 3, "none": None, "pair": (1, 2)}


@pytest.mark.parametrize(
    "eigenvector", [xsam_jax.power_iteration(every=2, iters=2), xsam_jax.oja()]
)
def test_steps_of_a_convolutional_net(eigenvector: Any) -> None:
    """An epoch as one scan takes the trajectory of the loop; no step leaves the fast layout."""
    tx = optax.chain(xsam_jax.xsam(eigenvector=eigenvector), optax.sgd(0.01, momentum=0.9))

    def step(carry: Any, x: chex.Array) -> tuple[Any, None]:
        params, state = carry
        gradient = lambda params: _gradient(_plain)(params, x)
        updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return (optax.apply_updates(params, updates), state), None

    batches = jnp.stack([IMAGES, 2 * IMAGES, IMAGES**2])
    start = (_init(), tx.init(_init()))
    scanned, _ = jax.jit(lambda c, b: lax.scan(xsam_jax.channels_last(step), c, b))(start, batches)
    looped, one_step = start, jax.jit(step)
    for batch in batches:
        looped, _ = one_step(looped, batch)
    chex.assert_trees_all_close(scanned, looped, rtol=1e-4, atol=1e-6)

    text = one_step.trace(start, batches[0]).lower(lowering_platforms=("cpu",)).as_text()
    blocks = text.split("stablehlo.case")[1:] + text.split("stablehlo.while")[1:]
    convolutions = [
        line for block in blocks for line in block.splitlines() if "convolution(" in line
    ]
    assert convolutions
    for line in convolutions:
        assert "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line


def test_a_gradient_that_is_divided_among_devices() -> None:
    """``jax.shard_map`` inside the gradient: rewritten too, and its collectives keep their axis."""
    mesh = mesh_of(2)
    images, gradient = IMAGES[:4], _gradient(_scanned)

    def divided(params: Any) -> Any:
        def part(params: Any, x: chex.Array) -> Any:
            params = jax.tree.map(lambda leaf: lax.pcast(leaf, "data", to="varying"), params)
            return lax.pmean(gradient(params, x), "data")

        specs: Any = {"in_specs": (PartitionSpec(), PartitionSpec("data"))}
        return jax.shard_map(part, mesh=mesh, out_specs=PartitionSpec(), **specs)(params, images)

    def update(gradient: Any) -> Any:
        tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(iters=2))
        return tx.update(gradient(_init()), tx.init(_init()), _init(), grad_fn=gradient)

    step = jax.jit(lambda: update(xsam_jax.channels_last(divided)))
    expected = jax.jit(lambda: update(lambda params: gradient(params, images)))()
    chex.assert_trees_all_close(step(), expected, rtol=1e-3, atol=1e-5)
    text = step.trace().lower(lowering_platforms=("cpu",)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    for line in convolutions:
        assert "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line

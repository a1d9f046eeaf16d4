"""The angle between two trees."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsam_jax import curvature


def _trees(seed: int, dtype: Any = jnp.float64) -> tuple[Any, Any]:
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = {"kernel": (3, 2), "bias": (2,)}
    first, second = (
        {
            name: jax.random.normal(key, shape, dtype)
            for (name, shape), key in zip(shapes.items(), pair, strict=True)
        }
        for pair in (keys[:2], keys[2:])
    )
    return first, second


def _degrees(a: Any, b: Any) -> float:
    a, b = np.concatenate(a), np.concatenate(b)
    return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))


class TestAngle:
    def test_of_trees_without_a_number(self) -> None:
        for tree in ({}, {"a": jnp.zeros((0, 2))}):
            assert curvature.angle(tree, tree) == 0

    @pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e30, 1e38])
    @pytest.mark.parametrize("layerwise", [False, True])
    def test_of_numbers_whose_squares_are_out_of_range(self, scale: float, layerwise: bool) -> None:
        grads, v = _trees(3, jnp.float32)
        scaled = {"kernel": scale * grads["kernel"], "bias": grads["bias"]}
        for a, b in ((scaled, v), (grads, jax.tree.map(lambda leaf: scale * leaf, v))):
            double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (a, b))
            found = curvature.angle(a, b, layerwise=layerwise)
            assert found.dtype == jnp.float32
            expected = curvature.angle(*double, layerwise=layerwise)
            np.testing.assert_allclose(found, expected, rtol=1e-4)

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
    def test_plain(self, seed: int, scale: float) -> None:
        grads, v = _trees(seed)
        expected = _degrees(*([x.ravel() for x in jax.tree.leaves(t)] for t in (grads, v)))
        np.testing.assert_allclose(curvature.angle(grads, v), expected, rtol=1e-9)
        np.testing.assert_allclose(curvature.angle(v, grads), expected, rtol=1e-9)
        scaled = jax.tree.map(lambda x: -scale * x, v)
        np.testing.assert_allclose(curvature.angle(grads, scaled), 180 - expected, rtol=1e-9)

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
    def test_layerwise(self, seed: int, scale: float) -> None:
        grads, v = _trees(seed)
        layers = [x.ravel() / np.linalg.norm(x) for x in jax.tree.leaves(grads)]
        expected = _degrees(layers, [x.ravel() for x in jax.tree.leaves(v)])
        found = curvature.angle(grads, v, layerwise=True)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        # The size of a layer's gradient does not count, the eigenvector's does.
        grads["kernel"] *= scale
        np.testing.assert_allclose(curvature.angle(grads, v, layerwise=True), expected, rtol=1e-9)

    def test_layerwise_weighs_the_layers_by_the_eigenvector(self) -> None:
        v = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([12.0])}
        np.testing.assert_allclose(curvature.angle(v, v), 0, atol=1e-12)
        expected = np.degrees(np.arccos((5 + 12) / np.sqrt(2) / 13))
        np.testing.assert_allclose(curvature.angle(v, v, layerwise=True), expected)

    @pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-3, 45.0, 90.0, 135.0, 180 - 1e-6, 180.0])
    @pytest.mark.parametrize("layerwise", [False, True])
    def test_is_accurate_everywhere(self, degrees: float, layerwise: bool) -> None:
        radians = np.radians(degrees)
        grads = {"w": jnp.array([np.cos(radians), np.sin(radians)])}
        found = curvature.angle(grads, {"w": jnp.array([1.0, 0.0])}, layerwise=layerwise)
        np.testing.assert_allclose(found, degrees, rtol=1e-7, atol=1e-13)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
    def test_accumulates_in_float32_or_better(self, dtype: Any) -> None:
        grads = {"w": jnp.ones(100_000, dtype)}
        v = {"w": jnp.concatenate([jnp.ones(50_000, dtype), jnp.zeros(50_000, dtype)])}
        found = curvature.angle(grads, v)
        assert found.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
        np.testing.assert_allclose(found, 45, rtol=1e-5)

    def test_of_small_half_precision_numbers(self) -> None:
        """Whose reciprocals float16 does not have."""
        v = {"a": jnp.array([1.0, 0.0], jnp.float32), "b": jnp.zeros(2, jnp.float32)}
        for size in (1e-7, 1e-5, 1e-3):
            grads = {"a": jnp.full(2, size, jnp.float16), "b": jnp.zeros(2, jnp.float16)}
            for layerwise in (False, True):
                found = curvature.angle(grads, v, layerwise=layerwise)
                np.testing.assert_allclose(found, 45, rtol=1e-6)

    @pytest.mark.parametrize("layerwise", [False, True])
    def test_zero_gradient(self, layerwise: bool) -> None:
        assert curvature.angle(jnp.zeros(3), jnp.ones(3), layerwise=layerwise) == 90

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match="v must have the tree structure"):
            curvature.angle({"a": jnp.ones(2)}, {"b": jnp.ones(2)})
        with pytest.raises(TypeError, match="layerwise must be True or False, got 'yes'"):
            curvature.angle(jnp.ones(2), jnp.ones(2), layerwise="yes")  # type: ignore[arg-type]

"""A causal language model, to measure the speed of attention and embeddings.

It is measured and not trained: its speed and memory do not depend on the text.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


class Sizes(NamedTuple):
    """Sizes of the network; ``small`` has 3.4 million parameters, ``large`` 110 million."""

    vocabulary: int
    length: int
    width: int
    depth: int
    heads: int


SMALL = Sizes(vocabulary=1024, length=64, width=256, depth=4, heads=4)
LARGE = Sizes(vocabulary=32_000, length=128, width=768, depth=12, heads=12)


class _Block(nnx.Module):
    """Attention and two dense layers, each after its LayerNorm and beside a shortcut."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs, dtype: Any) -> None:
        norm = functools.partial(nnx.LayerNorm, sizes.width, param_dtype=dtype, rngs=rngs)
        dense = functools.partial(nnx.Linear, param_dtype=dtype, rngs=rngs)
        self.norm1, self.norm2 = norm(), norm()
        self.attention = nnx.MultiHeadAttention(
            sizes.heads, sizes.width, param_dtype=dtype, decode=False, rngs=rngs
        )
        self.dense1 = dense(sizes.width, 4 * sizes.width)
        self.dense2 = dense(4 * sizes.width, sizes.width)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.dense2(nnx.gelu(self.dense1(self.norm2(x))))


class Transformer(nnx.Module):
    """A causal language model whose logits use its embedding's weights."""

    def __init__(
        self, sizes: Sizes, rngs: nnx.Rngs, *, dtype: Any = jnp.float32, remat: bool = False
    ) -> None:
        embed = functools.partial(
            nnx.Embed,
            features=sizes.width,
            param_dtype=dtype,
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        self.tokens, self.positions = embed(sizes.vocabulary), embed(sizes.length)
        # All blocks in one module with stacked parameters, so that a loop takes them in turn.
        stacked: Any = nnx.vmap(lambda rngs: _Block(sizes, rngs, dtype))
        self.blocks = stacked(rngs.split(sizes.depth))
        self.norm = nnx.LayerNorm(sizes.width, param_dtype=dtype, rngs=rngs)
        self.remat = remat

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits (batch, length, vocabulary) of the token after each of ``tokens``.

        With ``remat`` a block's intermediate values are computed again for its gradient
        (`jax.checkpoint`; outside of a loop XLA:CPU would undo it).
        """
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))[None]
        mask = nnx.make_causal_mask(tokens)
        graphdef, state = nnx.split(self.blocks)

        def apply(x: jax.Array, state: Any) -> tuple[jax.Array, None]:
            return nnx.merge(graphdef, state)(x, mask), None

        x, _ = jax.lax.scan(jax.checkpoint(apply) if self.remat else apply, x, state)
        return self.tokens.attend(self.norm(x))

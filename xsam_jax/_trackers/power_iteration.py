"""Power iteration on Hessian-vector products."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xsam_jax import _checks, _inner_products, _linalg, _placement, _sums
from xsam_jax._trackers.tracker import LOST_SHARE, Eigenpair, Tracker, periodic
from xsam_jax._two_gradients import Ascent


def power_iteration(
    every: int = 5,
    iters: int = 5,
    *,
    warm_start: bool = True,
    start: chex.ArrayTree | None = None,
    seed: chex.Numeric = 0,
) -> Tracker:
    """Refreshes the eigenvector by power iteration (paper, Algorithm 2, lines 3-9).

    Steps 1, ``every + 1``, ``2 * every + 1``, ... repeat ``v <- Hv / ||Hv||`` ``iters`` times, H
    the Hessian of the step's mini-batch at the unperturbed parameters, from the last vector on. It
    finds the eigenvalue of largest magnitude. The defaults are the schedule of X-SAM's published
    code; Algorithm 2 as printed, which starts anew in each refresh, is ``warm_start=False``. A
    refresh in which a product is zero or not finite is dropped; one in a step whose gradients are
    not finite is made in the next step.

    The refresh is a branch of the compiled step: its memory is reserved in every step, and a GPU
    waits until the host knows which way to go. A training loop that counts its steps can have two
    compiled steps instead, by ``update(..., refresh=step % every == 0)``, a Python bool and under
    `jax.jit` a static argument. Then ``every`` does not count, and a refresh in a step whose
    gradients are not finite is lost.

    The eigenvalue is the Rayleigh quotient ``<v, Hv>`` of the last product, so it belongs to the
    vector before the last iteration: one for the new vector would cost another product.

    Args:
      every: steps from one refresh to the next, in [1, 2**31 - 1] (the paper's p; its authors'
        command for CIFAR-10 has 3).
      iters: Hessian-vector products a refresh, >= 1 (the paper's q).
      warm_start: start from the last eigenvector, not anew. The first refresh starts anew.
      start: tree like the parameters, the vector that a refresh starts from when it starts anew; by
        default it is random. Inside of `optax.masked` it is masked like the parameters.
      seed: seed of the random vectors, an integer >= 0; under `jax.vmap` over seeds a traced one.

    Returns:
      A tracker for `xsam` and `eigen_sam`.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import xsam_jax
      >>> tracker = xsam_jax.power_iteration(every=20, iters=1)
      >>> tx = xsam_jax.xsam(eigenvector=tracker)
    """
    _checks.integer("iters", iters, low=1)
    _checks.boolean("warm_start", warm_start)
    if not isinstance(seed, jax.core.Tracer):
        _checks.integer("seed", seed, low=0, high=2**63 - 1)  # what jax.random.key takes
    if start is not None:
        _checks.real("start", start)
        leaves = jax.tree.leaves(start)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            # By NumPy: inside of jax.jit nothing that JAX computes has a value. Of the dtype that
            # JAX gives the vector, where 1e-40 is zero and a NumPy number of 1e40 infinite.
            dtype = np.dtype(_sums.statistics_dtype(start))
            with np.errstate(over="ignore"):
                sizes = [np.max(np.abs(leaf), initial=0).astype(dtype) for leaf in leaves]
            if not (np.isfinite(sizes).all() and np.max(sizes, initial=0) >= np.finfo(dtype).tiny):
                raise ValueError(f"start must be finite and not zero in {dtype}, got {start!r}")

    def cold(pair: Eigenpair, count: chex.Array) -> chex.ArrayTree:
        """The unit vector that a cold refresh starts from."""
        if start is not None:
            unit = _linalg.cast_like(_linalg.unit_at_any_scale(start), pair.vector)
            return _placement.shard_like(unit, pair.vector)
        key = jax.random.fold_in(jax.random.key(seed), count)
        leaves, treedef = jax.tree.flatten(pair.vector)
        ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
        # One draw for all leaves: XLA:CPU takes up to a second to compile each.
        normals = jax.random.normal(key, (ends[-1],), _sums.statistics_dtype(pair.vector))
        normals = _linalg.unit(normals)
        pieces = [
            _placement.shard_like(normals[begin:end].reshape(leaf.shape), leaf).astype(leaf.dtype)
            for begin, end, leaf in zip(ends[:-1], ends[1:], leaves, strict=True)
        ]
        return _placement.replicated(jax.tree.unflatten(treedef, pieces))

    def refresh(step: Ascent, pair: Eigenpair, count: chex.Array) -> Eigenpair:
        if start is not None:
            _checks.same_tree("start", start, step.params)
        vector = _placement.varying_like(cold(pair, count), pair)
        if warm_start:
            known = _linalg.norm(pair.vector) > 0
            vector = _linalg.select(known, pair.vector, vector)

        def iterate(
            _: int, carry: tuple[chex.ArrayTree, chex.Array]
        ) -> tuple[chex.ArrayTree, chex.Array]:
            vector, _ = carry
            params = step.params
            if iters > 1:
                # Else XLA computes before the loop, and keeps, all that does not depend on the
                # vector: a tenth less time for 1.7 times the memory (docs/cost.md).
                params, vector = lax.optimization_barrier((params, vector))
            product = step.hvp(params, vector)
            quotient = _inner_products.vdot(vector, product).astype(jnp.float32)
            inverse = _linalg.reciprocal(_linalg.norm(product, LOST_SHARE))
            vector = _linalg.cast_like(_linalg.scale(inverse, product), vector)
            return vector, quotient

        carry = vector, pair.value
        if _placement.compiling():
            carry = lax.fori_loop(0, iters, iterate, carry)
        else:  # a loop would be compiled anew in every refresh
            for i in range(iters):
                carry = iterate(i, carry)
        vector, value = carry
        # Zero or not a number once a product was: `periodic` drops it.
        return pair._replace(vector=vector, value=value)

    name = f"every={every}, iters={iters}, warm_start={warm_start}"
    name += "" if start is None else ", start=..."
    name += "" if isinstance(seed, int) and seed == 0 else f", seed={seed}"
    return periodic(every, refresh)._replace(name=f"power_iteration({name})")

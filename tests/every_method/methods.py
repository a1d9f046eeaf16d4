"""The table of methods: a new one is one row here."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import optax
import pytest

from xsam_jax import (
    eigen_sam,
    friendly_sam,
    gsam,
    oja,
    power_iteration,
    sam,
    subspace,
    wsam,
    wsam_decoupled,
    xsam,
)

LEARNING_RATE = 0.1


class Method(NamedTuple):
    """A row of the table: how a method is made and what it needs.

    Attributes:
      factory: of the hyperparameters; if ``wraps_base``, of the base optimizer and its learning
        rate before them.
      hyperparameters: those that matter, none of them zero; half of each is allowed too.
      copies: of the parameters in its state.
      products: Hessian-vector products at every second step.
      wraps_base: it is a whole optimizer.
    """

    factory: Callable[..., optax.GradientTransformationExtraArgs]
    hyperparameters: dict[str, float]
    copies: int = 0
    products: int = 0
    wraps_base: bool = False

    def transformation(
        self, base: optax.GradientTransformation | None = None, **changes: chex.Numeric
    ) -> optax.GradientTransformationExtraArgs:
        """Make the method alone, or around its base optimizer, by default plain descent."""
        base = optax.sgd(LEARNING_RATE) if base is None else base
        wrapped = (base, LEARNING_RATE) if self.wraps_base else ()
        return self.factory(*wrapped, **(self.hyperparameters | changes))

    def optimizer(
        self, base: optax.GradientTransformation | None = None, **changes: chex.Numeric
    ) -> optax.GradientTransformationExtraArgs:
        """Make the method with a base optimizer, by default plain descent."""
        method = self.transformation(base, **changes)
        if self.wraps_base:
            return method
        return optax.chain(method, optax.sgd(LEARNING_RATE) if base is None else base)


# Power iteration compiles twice as long as Oja's rule, so the variants of xsam use that one.
power = power_iteration(every=2, iters=2)
power_warm = power_iteration(every=2, iters=2, warm_start=True)
eigen = {"rho": 0.3, "alpha": 0.6}

METHODS = {
    "sam": Method(sam, {"rho": 0.3}),
    "asam": Method(partial(sam, adaptive=True), {"rho": 0.3}),
    "gsam": Method(gsam, {"rho": 0.3, "alpha": 0.4}),
    "wsam": Method(wsam, {"rho": 0.3, "gamma": 0.8}),
    "wsam_decoupled": Method(wsam_decoupled, {"rho": 0.3, "gamma": 0.8}, wraps_base=True),
    "friendly_sam": Method(friendly_sam, {"rho": 0.3, "sigma": 0.7, "decay": 0.8}, copies=1),
    "eigen_sam": Method(partial(eigen_sam, eigenvector=power_warm), eigen, copies=1, products=2),
    "eigen_sam_oja": Method(partial(eigen_sam, eigenvector=oja()), eigen, copies=1),
    "xsam": Method(partial(xsam, eigenvector=power), eigen, copies=1, products=2),
    "xsam_oja": Method(partial(xsam, eigenvector=oja()), eigen, copies=1),
    "xsam_subspace": Method(partial(xsam, eigenvector=subspace()), eigen, copies=4),
    "xsam_projector": Method(
        partial(xsam, eigenvector=oja(), correction="projector"), eigen, copies=1
    ),
    "xsam_unnormalized": Method(partial(xsam, eigenvector=oja(), normalize=False), eigen, copies=1),
    "normalized_sam": Method(partial(xsam, alpha=0.0, eigenvector=oja()), {"rho": 0.3}, copies=1),
}

every_method = pytest.mark.parametrize("name", METHODS)

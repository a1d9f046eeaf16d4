"""From the name of a method to its optax transformation, the base optimizer included."""

from collections.abc import Callable

import optax

from experiments.config import Method, ResolvedConfig
from xsam_jax import (
    eigen_sam,
    friendly_sam,
    gsam,
    oja,
    power_iteration,
    sam,
    wsam_decoupled,
    xsam,
)


def build_method(config: ResolvedConfig, total_steps: int) -> optax.GradientTransformationExtraArgs:
    """Build a method with its base optimizer: SGD with momentum, weight decay, cosine schedule.

    Args:
        config: The run's configuration.
        total_steps: Steps after which the learning rate is 0.

    Returns:
        A transformation whose update takes ``grad_fn``.
    """
    c = config
    learning_rate = optax.cosine_decay_schedule(c.learning_rate, total_steps)
    base = optax.chain(
        optax.add_decayed_weights(c.weight_decay), optax.sgd(learning_rate, c.momentum)
    )
    if c.method == "wsam":
        # The decoupled form of its reference code wraps the base optimizer.
        return wsam_decoupled(base, learning_rate, c.rho, c.wsam_gamma)

    power = power_iteration(c.refresh_every, c.power_iters, warm_start=c.warm_start, seed=c.seed)
    sharpness_aware: dict[Method, Callable[[], optax.GradientTransformation]] = {
        "sgd": optax.identity,
        "sam": lambda: sam(c.rho),
        "asam": lambda: sam(c.rho, adaptive=True),
        "gsam": lambda: gsam(c.rho, c.gsam_alpha),
        "eigen_sam": lambda: eigen_sam(c.rho, c.alpha, eigenvector=power),
        "friendly_sam": lambda: friendly_sam(c.rho, c.fsam_sigma, c.fsam_decay),
        "xsam": lambda: xsam(c.rho, c.alpha, eigenvector=power),
        "xsam_projector": lambda: xsam(c.rho, c.alpha, eigenvector=power, correction="projector"),
        "xsam_oja": lambda: xsam(c.rho, c.alpha, eigenvector=oja(c.oja_rate)),
        # With alpha 0 no eigenvector matters, so it is tracked in the way that costs nothing.
        "normalized_sam": lambda: xsam(c.rho, 0.0, eigenvector=oja(c.oja_rate)),
    }
    # SGD, the one method of a single gradient, must accept grad_fn as well.
    return optax.with_extra_args_support(optax.chain(sharpness_aware[c.method](), base))

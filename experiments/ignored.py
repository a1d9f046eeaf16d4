"""Options that a run would not heed are refused, not ignored."""

from typing import get_args

from experiments.config import BATCH_NORM, Method, TrainConfig
from experiments.errors import UserError
from experiments.methods import ONE_GRADIENT

_POWER_ITERATION: tuple[Method, ...] = (
    "xsam",
    "xsam_projector",
    "xsam_p100",
    "xsam_part",
    "eigen_sam",
)
_OJA: tuple[Method, ...] = ("xsam_oja", "xsam_late", "xsam_sparse")
_OTHER_VECTORS: tuple[Method, ...] = ("xsam_random", "xsam_lanczos")
# What an option is for; other methods would ignore it.
_METHODS_OF: dict[str, tuple[Method, ...]] = {
    "rho": tuple(method for method in get_args(Method) if method not in ONE_GRADIENT),
    "alpha": (*_POWER_ITERATION, *_OJA, "xsam_subspace", *_OTHER_VECTORS),
    "gsam_alpha": ("gsam",),
    "wsam_gamma": ("wsam",),
    "fsam_sigma": ("friendly_sam",),
    "fsam_decay": ("friendly_sam",),
    "refresh_every": (*_POWER_ITERATION, *_OTHER_VECTORS),
    "power_iters": _POWER_ITERATION,
    "warm_start": _POWER_ITERATION,
    "curvature_mode": (*_POWER_ITERATION, "xsam_lanczos"),
    "oja_rate": _OJA,
    "late_start": ("xsam_late",),
    "sparse_every": ("xsam_sparse",),
    "ascent_part": ("xsam_part",),
}


def refuse_ignored(config: TrainConfig) -> None:
    """Refuse what a user said and the run would not heed.

    Args:
        config: What the user said.

    Raises:
        UserError: An option that is not left at its default is for other methods, networks or data,
            or for tests on the test data and the run looks at none.
    """
    for name, methods in _METHODS_OF.items():
        if config.method not in methods and getattr(config, name) != getattr(TrainConfig, name):
            raise UserError(
                f"--{name.replace('_', '-')} is for {', '.join(methods)}, not for {config.method}."
            )
    if config.curvature_mode is not None and config.model not in BATCH_NORM:
        raise UserError(
            f"--curvature-mode is for a network with BatchNorm, not for {config.model}."
        )
    if config.data_dir is not None and config.dataset == "digits":
        raise UserError("--data-dir is not for digits, which come with scikit-learn.")
    if config.validation_images is not None and config.test_images is not None:
        raise UserError("--test-images is not for a run with --validation-images, tested on those.")

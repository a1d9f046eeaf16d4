"""Configuration of a training run: what a user may say, and what it means."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.data.dataset import DatasetName
from experiments.models import ModelName

# Where a run lies, where it read from, how often it was saved, when it would have given up and, as
# its folder says, where it went on do not make it another run.
_NOT_IDENTITY = ("out", "data_dir", "checkpoint_every", "max_bad_steps", "continued_at")
# Of the data set `folder`, which its name does not tell; None for the others.
_OF_A_FOLDER = ("image_size", "images")


Method = Literal[
    "sgd",
    "sam",
    "asam",
    "gsam",
    "wsam",
    "eigen_sam",
    "friendly_sam",
    "xsam",
    "xsam_p100",
    "xsam_projector",
    "xsam_oja",
    "xsam_subspace",
    "normalized_sam",
    "xsam_random",
    "xsam_lanczos",
    "normalized_sgd",
    "xsam_late",
    "xsam_sparse",
    "xsam_part",
]
# Of the network in a pass: BatchNorm with its running statistics, or with those of the batch.
Mode = Literal["evaluation", "training"]
# In Python a string will do as well.
Place = Annotated[Path | str | None, tyro.conf.arg(metavar="{None}|PATH")]
ScheduleName = Literal["constant", "cosine", "linear"]
OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True, kw_only=True)
class _Common:
    """Options whose defaults depend on nothing else."""

    method: Method = "xsam"
    """What is put before the optimizer. xsam is X-SAM as its authors' code has it, the paper's Eq.
    11, with their schedule; xsam_projector is the same with the operator of Theorem 5.1, xsam_p100
    with Algorithm 2 as printed and a refresh in 100 steps. xsam_oja and xsam_subspace track the
    eigenvector without Hessian-vector products. Controls: normalized_sam is xsam with alpha 0,
    xsam_random has a random unit vector in the eigenvector's place, xsam_lanczos the batch's
    eigenvector to Lanczos accuracy, normalized_sgd steps along g / ||g||. Cheaper ones: xsam_late
    takes normalised SGD's steps first, xsam_sparse most of the time, both with Oja's rule, and
    xsam_part is xsam_p100 that perturbs by the gradient of a part of the batch. wsam is the
    decoupled form of its reference code."""
    dataset: DatasetName = "digits"
    """Training and test images; folder is your own, see --data-dir."""
    model: ModelName = "simple_cnn"
    """Network. simple_cnn is the paper's six-layer CNN; resnet8, small_cnn and mlp are small
    ones for CPUs."""
    seed: int = 0
    """Seed of the initial parameters, the order of the batches and the augmentation."""
    learning_rate: float = 0.1
    """Initial learning rate."""
    schedule: ScheduleName = "cosine"
    """How the learning rate goes on: to 0 along a cosine or a line, or as it is."""
    optimizer: OptimizerName = "sgd"
    """Base optimizer."""
    momentum: float = 0.9
    """Momentum of the base optimizer; AdamW's b1."""
    weight_decay: float = 5e-5
    """Weight decay. SGD's is coupled: added to the descent direction before the momentum."""
    batch_size: int = 256
    """Images per step."""
    augment: bool = True
    """Random crops and flips of the training images, as the data set allows them."""
    label_noise: float = 0.0
    """Part of the training images that have a wrong label, the same ones and the same labels in
    every run. The images tested on, with --validation-images too, keep theirs."""
    alpha: float = 0.2
    """xsam and all xsam_*: strength of the correction along the eigenvector; eigen_sam: how far the
    perturbation leans towards the eigenvector."""
    gsam_alpha: float = 0.4
    """gsam: weight of the component that minimizes the surrogate gap."""
    wsam_gamma: float = 0.9
    """wsam: weight of the sharpness term."""
    fsam_sigma: float = 1.0
    """friendly_sam: how much of the averaged gradient is taken out of the perturbation."""
    fsam_decay: float = 0.9
    """friendly_sam: decay of the averaged gradient, its paper's lambda."""
    power_iters: int = 5
    """Power iteration: Hessian-vector products per refresh, the paper's q."""
    oja_rate: float = 0.3
    """Oja's rule: step size of the eigenvector."""
    late_start: float = 0.6
    """xsam_late: part of all steps before the first one of X-SAM."""
    sparse_every: int = 3
    """xsam_sparse: steps between two of X-SAM."""
    ascent_part: float = 0.25
    """xsam_part: part of the batch that gives the perturbation and the Hessian products."""
    num_matvecs: int = 12
    """Hessian-vector products of one curvature measurement (Lanczos)."""
    trace_probes: int = 0
    """Random vectors that estimate the Hessian's trace at the end of the run, 0 for none, else at
    least 2."""
    max_bad_steps: int = 5
    """Stop after so many steps in a row whose loss or update is not finite, 0 for never. Such a
    step changes nothing; metrics.jsonl lists it."""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        fields = dataclasses.asdict(self)
        return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Common):
    """Options of a run. Where one is None the default that its text names holds."""

    epochs: int | None = None
    """Passes over the training images (None: 200 as in the paper; digits 24). A finished run that
    is given more goes on from its end. With a constant schedule it has the numbers of a run of all
    of them at once; else the schedule is the longer one's from there on, and config.json and
    result.json say where that was (continued_at)."""
    rho: float | None = None
    """Radius of the perturbation (None: the paper's, which is 0.05, on cifar100 0.1, for wsam 2 on
    fashion_mnist and cifar10 and 4 on cifar100; asam 0.5)."""
    refresh_every: int | None = None
    """Steps between two refreshes of the eigenvector, the paper's p (None: xsam, xsam_projector
    and xsam_random 5, xsam_lanczos 10, the others 100)."""
    warm_start: bool | None = None
    """Power iteration: start each refresh from the last eigenvector instead of a random vector
    (None: not for xsam_p100 and xsam_part)."""
    curvature_mode: Mode | None = None
    """Mode of the network in Hessian products: in evaluation BatchNorm has its running statistics,
    in training those of the batch (None: evaluation, xsam_p100 and xsam_part training). A network
    without BatchNorm has one mode only, called training."""
    curvature_every: int | None = None
    """Epochs between two measurements of the curvature, 0 for none (None: 1; digits 3)."""
    curvature_samples: int | None = None
    """Training images on which the curvature is measured, in whole batches of up to 256, or all
    where there are fewer (None: 512; digits 256)."""
    train_images: int | None = None
    """Train on the first images of every class only, so many in all (None: on all)."""
    test_images: int | None = None
    """Test on the first images of every class only, so many in all (None: on all)."""
    validation_images: int | None = None
    """Take so many images out of the training images and test on them, to choose hyperparameters
    without a look at the test data (None: test on the test data). They come from all there are:
    with --train-images a run trains on the same few as without this option."""
    checkpoint_every: int = 10
    """Epochs between two checkpoints, 0 for none but that of a run that is told to stop."""
    out: Place = None
    """Directory for the results (None: runs/DATASET-MODEL-METHOD-SEED). A run that was stopped goes
    on from the last checkpoint in it."""
    data_dir: Place = None
    """fashion_mnist: directory of the four idx .gz files (None: where Debian installs them);
    cifar10, cifar100: directory of the original archive, binary or Python version, such as
    cifar-10-binary.tar.gz or cifar-100-python.tar.gz, or of what is in it, unpacked, or of
    train/CLASS/*.png and test/CLASS/*.png. Where these files are missing, tensorflow-datasets (the
    extra tfds) reads what it has prepared in this directory (None: in its default one), or else
    downloads and prepares it there if the data set's server answers. folder: directory of your own
    PNG, JPEG and WebP images, DIR/train/CLASS/* and DIR/test/CLASS/* (or val, validation), or
    DIR/CLASS/*, of which a fifth of each class is held out to test on. They are cropped by up to an
    eighth of their size and mirrored, unless --no-augment is given."""
    image_size: int | None = None
    """folder: scale the shorter side of each image to so many pixels and take the middle square
    (None: all images have one size)."""


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(_Common):
    """A `TrainConfig` with every default filled in; this is what config.json holds."""

    epochs: int
    rho: float
    refresh_every: int
    warm_start: bool
    curvature_mode: Mode
    curvature_every: int
    curvature_samples: int
    train_images: int | None
    test_images: int | None
    validation_images: int | None
    checkpoint_every: int
    out: Path
    data_dir: Path | None
    image_size: int | None
    images: str | None
    """folder: a hash of its images."""


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """Select the fields of a config.json on which a run's numbers depend."""
    return {
        name: value
        for name, value in config.items()
        if name not in _NOT_IDENTITY and not (name in _OF_A_FOLDER and value is None)
    }


def canonical(config: ResolvedConfig) -> str:
    """Write `identity` as text: equal for two runs only if all their numbers must be the same."""
    return json.dumps(identity(config.to_json()), sort_keys=True)

"""AlexNet on all of CIFAR-100 and CIFAR-10: the paper's largest claims, at a few of its epochs.

    python -m experiments.benchmark cifar --data-dir DIRECTORY --jobs 1
    python -m experiments.benchmark cifar-tuned --data-dir DIRECTORY --jobs 1

DIRECTORY holds CIFAR-10 and CIFAR-100 in any form that experiments.train reads. All but the number
of epochs is section 6.1's: batch size 256, learning rate 0.1 with a cosine schedule, momentum 0.9,
weight decay 5e-5, its augmentation, radius 0.05 for CIFAR-10 and 0.1 for CIFAR-100, for WSAM 2 and
4, alpha 0.2. Nothing is tuned there, as in the paper; cifar-tuned tries the same learning rates for
every method in runs of a fifth of the length, on images held out. A stopped benchmark goes on where
it was, so `--seeds 0` first, then `--seeds 0 1 2`, has a result of every method early.

Hardware: two cores of an AMD EPYC. Runtime: a run of SAM takes 42 minutes of CPU time and one of
xsam 73, so all of it more than a day; `--dry-run` tells it for yours. One seed of some methods has
been run (results/cifar): SAM 37.9 %, normalised SAM 36.5 %, xsam 36.3 %; WSAM, with the paper's
radius, is not finite after three steps.
"""

from dataclasses import replace

from experiments.benchmark.protocol import Protocol, Tuning

CIFAR = Protocol(
    name="cifar",
    datasets=("cifar100", "cifar10"),
    models=("alexnet",),
    methods=(
        "sgd",
        "sam",
        "wsam",
        "eigen_sam",
        "normalized_sam",
        "xsam",
        "xsam_projector",
        "xsam_oja",
    ),
    seeds=(0, 1, 2),
    settings={"epochs": 15, "batch_size": 256, "curvature_every": 5, "trace_probes": 10},
)
CIFAR_TUNED = replace(
    CIFAR,
    name="cifar-tuned",
    tuning=Tuning(
        trials=6,
        seeds=(100,),
        learning_rate=(0.01, 0.3),
        rho=None,
        validation_images=5000,
        epochs=3,
    ),
)

"""Nine methods and one control on a part of Fashion-MNIST, a CNN and a small ResNet, three seeds.

    python -m experiments.benchmark fashion-small

Hardware: two CPU cores. It has not been run yet: `--dry-run` tells the time.
"""

from experiments.benchmark.protocol import Protocol, Tuning

FASHION_SMALL = Protocol(
    name="fashion-small",
    datasets=("fashion_mnist",),
    models=("small_cnn", "resnet8"),
    methods=(
        "sgd",
        "sam",
        "gsam",
        "wsam",
        "eigen_sam",
        "friendly_sam",
        "normalized_sam",
        "xsam",
        "xsam_projector",
        "xsam_oja",
    ),
    seeds=(0, 1, 2),
    settings={
        "batch_size": 64,
        "epochs": 10,
        "train_images": 2000,
        "test_images": 10_000,
        "curvature_every": 5,
        "curvature_samples": 256,
        "num_matvecs": 12,
        "trace_probes": 10,
    },
    tuning=Tuning(
        trials=8,
        seeds=(100,),
        learning_rate=(0.01, 0.3),
        rho=(0.02, 0.3),
        validation_images=500,
    ),
)

"""Nine methods and one control on 2,000 images of Fashion-MNIST, a small CNN and a small ResNet.

    python -m experiments.benchmark fashion-small

The runs of results/fashion_small are of these two commands, because one seed a trial chose
learning rates at which the CNN dies for other seeds:

    python -m experiments.benchmark fashion-small --models small_cnn \
        --tuning-seeds 100 101 102 --seeds 0 1 2 3 4 5 6 7 8 9
    python -m experiments.benchmark fashion-small --models resnet8

Those of results/cheap_fashion, X-SAM for less than SAM's price, are of

    python -m experiments.benchmark fashion-small --models small_cnn \
        --methods sgd sam xsam normalized_sgd xsam_late xsam_sparse xsam_part \
        --tuning-seeds 100 101 102 --seeds 0 1 2 3 4 5 6 7 8 9 --out results/cheap_fashion

Hardware: two cores of an Intel Xeon. Runtime: 17, 29 and 10 minutes of CPU time. Expected: nothing
is significantly different from SAM. The CNN's accuracy, 58 to 70 % in the mean, has a standard
deviation of 1 to 25 points; ResNet-8's is 77.3 % for SAM, 77.6 % for X-SAM, 77.5 % for SGD and
78.1 % for normalised SAM. The cheap recipes end at 72.0 to 72.8 % and normalised SGD at 73.0 %; of
ten runs of X-SAM one dies.
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
        validation_images=2000,
    ),
)

"""Ten methods and one control on 2,000 images of Fashion-MNIST, a small CNN and a small ResNet.

    python -m experiments.benchmark fashion-small

Those of results/fashion_small_again have other seeds (--tuning-seeds 200 201 --seeds $(seq 10 19)).
Those of results/cheap_fashion, X-SAM for less than SAM's price, are of

    python -m experiments.benchmark fashion-small --models small_cnn \
        --methods sgd sam xsam_p100 normalized_sgd xsam_late xsam_sparse xsam_part \
        --out results/cheap_fashion

Hardware: two cores of an Intel Xeon and, the latest, of an AMD EPYC. Runtime: 197, 158 and 14
minutes of CPU time. Expected: on ResNet-8 normalised SAM and X-SAM's forms have 77.7 to 77.9 %, SAM
77.2 and 76.8 %. On the CNN single runs die: its means, 56 to 73 %, have a standard deviation of 1
to 25 points. The cheap recipes end at 72.4 to 72.8 % and normalised SGD at 71.6 %; of ten runs of
xsam_p100 one dies. In results/fashion_small_again, and xsam_projector on ResNet-8, p is 100.
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
        "xsam_p100",
        "xsam_projector",
        "xsam_oja",
    ),
    seeds=tuple(range(10)),
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
        trials=20,
        seeds=(100, 101),
        learning_rate=(0.003, 1.0),
        rho=(0.005, 0.3),
        validation_images=2000,
    ),
)

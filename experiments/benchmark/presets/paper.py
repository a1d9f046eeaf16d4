"""The paper's section 6.1: three data sets, four networks, five methods, three seeds, 200 epochs.

    python -m experiments.benchmark paper --data-dir DIRECTORY

DIRECTORY holds the two CIFAR archives, binary or Python version, and Fashion-MNIST's four idx .gz
files. What is not there tensorflow-datasets downloads into it, where the extra tfds is installed.

Batch size 256, learning rate 0.1 with a cosine schedule, momentum 0.9, weight decay 5e-5; radius
0.05 for CIFAR-10 and Fashion-MNIST and 0.1 for CIFAR-100, for WSAM 2 and 4; alpha 0.2. As in the
paper, nothing is tuned. SGD and the controls are not in the paper and come on top of its methods.

Hardware: a GPU; it has not been run by us yet, `--dry-run` tells the time on yours. Expected: the
paper's Table 1, which the report prints beside the result.
"""

from experiments.benchmark.protocol import Protocol

PAPER = Protocol(
    name="paper",
    datasets=("cifar10", "cifar100", "fashion_mnist"),
    models=("resnet18", "resnet50", "wide_resnet28_10", "alexnet"),
    methods=(
        "sam",
        "wsam",
        "gsam",
        "eigen_sam",
        "xsam",
        "xsam_projector",
        "xsam_oja",
        "normalized_sam",
        "sgd",
    ),
    seeds=(0, 1, 2),
    settings={"epochs": 200, "batch_size": 256, "curvature_every": 10, "trace_probes": 30},
)

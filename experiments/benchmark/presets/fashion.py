"""The paper's six-layer CNN on all of Fashion-MNIST, a tenth of its epochs, five seeds, on a GPU.

    python -m experiments.benchmark fashion --jobs 4

Everything but the number of epochs is section 6.1's, and as there nothing is tuned: batch size 256,
learning rate 0.1 with a cosine schedule, momentum 0.9, weight decay 5e-5, radius 0.05, alpha 0.2.

Hardware: one NVIDIA H200 with 16 CPU cores. Runtime: 12 minutes, in three sittings. Expected
(results/fashion_gpu): X-SAM with p = 100 or Oja's rule, the latter also started late, and
normalised SAM 93.2 to 93.3 %, SAM 92.3 %; at this learning rate SGD dies in three of five runs,
Eigen-SAM in two of five.
"""

from experiments.benchmark.protocol import Protocol

FASHION = Protocol(
    name="fashion",
    datasets=("fashion_mnist",),
    models=("simple_cnn",),
    methods=(
        "sgd",
        "sam",
        "eigen_sam",
        "xsam",
        "xsam_p100",
        "xsam_projector",
        "xsam_oja",
        "normalized_sam",
        "xsam_late",
    ),
    seeds=(0, 1, 2, 3, 4),
    settings={"epochs": 20, "batch_size": 256, "curvature_every": 10, "trace_probes": 10},
)

"""X-SAM for less than two gradients a step, on the digits benchmark's task and tuning.

    python -m experiments.benchmark cheap

xsam_late takes X-SAM's steps in the last 40% of the run only, xsam_sparse in every third step, the
others being normalised SGD's; both follow the eigenvector by Oja's rule. xsam_part perturbs by the
gradient of a quarter of the batch and takes its Hessian products from it too.

Hardware: two cores of an Intel Xeon. Runtime: 13 minutes of CPU time, 1,152 runs for the tuning
and 180 that count. Expected (results/cheap): SAM 96.0 %, xsam 96.4 %, xsam_p100 96.3 %,
xsam_late and xsam_sparse 96.2 %, xsam_part 96.4 %, normalised SGD 95.9 %.
"""

from dataclasses import replace

from experiments.benchmark.presets.digits import DIGITS

CHEAP = replace(
    DIGITS,
    name="cheap",
    methods=(
        "sgd",
        "sam",
        "xsam",
        "xsam_p100",
        "xsam_oja",
        "normalized_sgd",
        "xsam_late",
        "xsam_sparse",
        "xsam_part",
    ),
)

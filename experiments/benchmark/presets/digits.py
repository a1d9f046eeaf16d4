"""All methods and controls on scikit-learn's digits, 20 seeds.

    python -m experiments.benchmark digits

Hardware: two cores of an AMD EPYC, with other work beside. Runtime: 27 minutes of CPU time, 1,920
runs for the tuning and 300 that count. Expected (results/digits): what normalises the gradient,
X-SAM's forms and the three controls, ends at 96.1 to 96.4 %, the others at 95.4 to 96.0 %. Other
seeds (results/digits_again):

    --tuning-seeds 200 201 202 203 204 205 206 207 --seeds $(seq 20 39)
"""

from experiments.benchmark.protocol import Protocol, Tuning

TUNING = Tuning(
    trials=16,
    seeds=tuple(range(100, 108)),
    learning_rate=(0.01, 0.5),
    rho=(0.02, 0.5),
    # All that are not trained on: of 1,437 the same 600 train a trial and a run that counts.
    validation_images=837,
)
DIGITS = Protocol(
    name="digits",
    datasets=("digits",),
    models=("mlp",),
    methods=(
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
        "normalized_sam",
        "xsam_random",
        "xsam_lanczos",
        "xsam_subspace",
    ),
    seeds=tuple(range(20)),
    settings={
        "batch_size": 32,
        "epochs": 40,
        # Few, so that there is something to generalize from.
        "train_images": 600,
        "augment": False,
        "curvature_every": 10,
        "curvature_samples": 512,
        "num_matvecs": 20,
        "trace_probes": 100,
    },
    tuning=TUNING,
)

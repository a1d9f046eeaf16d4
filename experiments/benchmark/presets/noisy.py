"""All methods and controls on the digits benchmark's task, with 20 % of the training labels wrong.

    python -m experiments.benchmark noisy

Foret et al. (2021, section 3.3) train SAM so. The images held out, by which learning rate and
radius are chosen, and those tested on keep their labels. Radii are larger and learning rates
smaller than on right labels: in the ranges of the digits benchmark the best ones lie at the edge.
"""

from dataclasses import replace

from experiments.benchmark.presets.digits import DIGITS
from experiments.benchmark.protocol import Tuning

NOISY = replace(
    DIGITS,
    name="noisy",
    settings={**DIGITS.settings, "label_noise": 0.2},
    tuning=Tuning(
        trials=24,
        seeds=tuple(range(100, 108)),
        learning_rate=(0.003, 0.3),
        rho=(0.05, 2.0),
        validation_images=837,
    ),
)

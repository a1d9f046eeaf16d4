"""All methods and controls on the digits benchmark's task, with 20 % of the training labels wrong.

    python -m experiments.benchmark noisy

Foret et al. (2021, section 3.3) train SAM so. The images held out, by which learning rate and
radius are chosen, and those tested on keep their labels.
"""

from dataclasses import replace

from experiments.benchmark.presets.digits import DIGITS

NOISY = replace(DIGITS, name="noisy", settings={**DIGITS.settings, "label_noise": 0.2})

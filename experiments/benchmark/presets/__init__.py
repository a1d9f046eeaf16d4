"""The named protocols, each in a file that says what to expect of it."""

from collections.abc import Mapping

from experiments.benchmark.presets.cheap import CHEAP
from experiments.benchmark.presets.cifar import CIFAR, CIFAR_TUNED
from experiments.benchmark.presets.digits import DIGITS
from experiments.benchmark.presets.fashion import FASHION
from experiments.benchmark.presets.fashion_small import FASHION_SMALL
from experiments.benchmark.presets.noisy import NOISY
from experiments.benchmark.presets.paper import PAPER
from experiments.benchmark.protocol import Protocol

PRESETS: Mapping[str, Protocol] = {
    preset.name: preset
    for preset in (DIGITS, NOISY, CHEAP, FASHION_SMALL, FASHION, CIFAR, CIFAR_TUNED, PAPER)
}

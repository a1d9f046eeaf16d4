"""Fig. 4: test accuracy of X-SAM over alpha, in both readings, with SAM as a reference."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.common.drawing import COLORS, MARKERS, new_figure, write_figure, write_table
from experiments.common.options import ALPHA, check, distinct
from experiments.figures.options import FigureOptions, size_of_runs, train_config
from experiments.figures.runs import run_once
from experiments.training.config import TrainConfig
from experiments.training.resolve import resolve

Correction = Literal["xsam", "xsam_projector"]
_LABELS: dict[Correction, str] = {
    "xsam": "X-SAM, Eq. 11 as printed",
    "xsam_projector": "X-SAM, Theorem 5.1's projector",
}


@dataclass(frozen=True, kw_only=True)
class Alpha(FigureOptions):
    """Fig. 4: test accuracy over alpha, for X-SAM in both readings."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, one run of everything for each."""
    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.8)
    """Values of alpha. At 0 both readings are normalized_sam, which is run once."""
    refresh_every: int | None = None
    """Steps between two refreshes of the eigenvector, the paper's p (None: 5, the authors')."""


def config_at(options: Alpha, correction: Correction, alpha: float, seed: int) -> TrainConfig:
    """Configure the run at one value of alpha."""
    changes = {"seed": seed, "curvature_every": 0}
    if alpha == 0:
        return train_config(options, method="normalized_sam", **changes)
    return train_config(
        options, method=correction, alpha=alpha, refresh_every=options.refresh_every, **changes
    )


def make(options: Alpha) -> None:
    """Train at every alpha and write alpha.png and alpha.csv."""
    distinct("alphas", options.alphas)
    alphas = sorted(options.alphas)
    for alpha in alphas:
        check("alphas", alpha, ALPHA)
    # The other options before the first run, not when its turn comes.
    last = resolve(config_at(options, "xsam", alphas[-1], options.seeds[0]))
    seeds = options.seeds
    rows: list[tuple[str, float | None, int, float]] = []
    sam = [
        run_once(
            train_config(options, method="sam", seed=seed, curvature_every=0), options.runs
        ).result.test_accuracy
        for seed in seeds
    ]
    rows += [("sam", None, seed, value) for seed, value in zip(seeds, sam, strict=True)]

    figure = new_figure(
        8.5,
        5.2,
        "Test accuracy of X-SAM over alpha",
        f"{size_of_runs(options)}, p = {last.refresh_every}"
        f"{'; bars and band: standard deviation over the seeds' if len(seeds) > 1 else ''}",
    )
    axes = figure.subplots()
    mean = float(np.mean(sam))
    axes.axhline(mean, color="0.3", linestyle="--", label="SAM")
    if len(seeds) > 1:
        deviation = float(np.std(sam, ddof=1))
        axes.axhspan(mean - deviation, mean + deviation, color="0.9", zorder=0)
    for i, (correction, label) in enumerate(_LABELS.items()):
        values = np.array(
            [
                [
                    run_once(
                        config_at(options, correction, alpha, seed), options.runs
                    ).result.test_accuracy
                    for seed in seeds
                ]
                for alpha in alphas
            ]
        )
        rows += [
            (correction, alpha, seed, float(value))
            for alpha, of_alpha in zip(alphas, values, strict=True)
            for seed, value in zip(seeds, of_alpha, strict=True)
        ]
        # Side by side, so that no bar hides another.
        xs = np.array(alphas) + (i - 0.5) * 0.01 * max(alphas)
        axes.errorbar(
            xs,
            values.mean(axis=1),
            yerr=values.std(axis=1, ddof=1) if len(seeds) > 1 else None,
            color=COLORS[i],
            marker=MARKERS[i],
            linestyle="-" if i == 0 else "-.",
            capsize=4,
            label=label,
        )
        axes.plot(xs, values, ".", color=COLORS[i], alpha=0.4, markersize=5)
    axes.set(xlabel=r"$\alpha$ (0: normalised SAM)", ylabel="test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    write_table(options.out / "alpha.csv", ("method", "alpha", "seed", "test_accuracy"), rows)
    write_figure(figure, options.out / "alpha.png")

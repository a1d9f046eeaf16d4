"""The range of alpha in which the projector trains, docs/faults.md, at two of its points."""

from pathlib import Path

import pytest

from experiments.training.config import TrainConfig
from experiments.training.run import train


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "learns"), [(0.9, True), (1.5, False)])
def test_projector(alpha: float, learns: bool, tmp_path: Path) -> None:
    config = TrainConfig(
        method="xsam_projector",
        model="mlp",
        refresh_every=5,
        batch_size=64,
        alpha=alpha,
        curvature_every=0,
        out=tmp_path,
    )
    if learns:
        assert train(config, draw=False).result.test_accuracy > 90
    else:
        with pytest.warns(UserWarning, match="the safe range is alpha < 1"):
            assert train(config, draw=False).result.test_accuracy < 50

"""README's picture shows what the equations say."""

from pathlib import Path

import jax
import numpy as np

from experiments.figures import idea


def test_the_arrows() -> None:
    found = idea.measure()
    hessian = np.asarray(jax.hessian(idea.loss)(found.weights))
    values, vectors = np.linalg.eigh(hessian)
    v = found.eigenvector
    np.testing.assert_allclose(abs(v @ vectors[:, np.argmax(np.abs(values))]), 1, rtol=1e-5)
    gradient = hessian @ found.weights
    rho = np.linalg.norm(found.perturbation)
    np.testing.assert_allclose(found.perturbation, rho * gradient / np.linalg.norm(gradient), 1e-5)
    there = hessian @ (found.weights + found.perturbation)
    np.testing.assert_allclose(found.uncorrected, there / np.linalg.norm(there), rtol=1e-5)
    removed = found.uncorrected - found.corrected
    along = found.uncorrected @ v
    np.testing.assert_allclose(removed, removed @ v * v, atol=1e-6)
    # Less along v, by Eq. 11 and by the projector alike: the eigenvector's sign is that of u.
    assert along > 0
    assert 0 < removed @ v < along


def test_the_picture_is_written(tmp_path: Path) -> None:
    idea.make(idea.Idea(out=tmp_path))
    assert (tmp_path / "idea.png").read_bytes().startswith(b"\x89PNG")

"""X-SAM's Algorithm 2 on problem A, in NumPy and without the library.

Hessian products are complex steps: for an analytic function ``Hv = Im grad(w + ihv) / h`` holds up
to ``O(h^2)``, with no difference that would lose digits.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from tests import problem_a

Vector = NDArray[np.generic]


def flat(prefix: str) -> Vector:
    """Flatten the parameters stored under ``prefix``; steps stay the first axis."""
    leaves = [
        problem_a.arrays()[f"{prefix}/{layer}/{leaf}"]
        for layer in problem_a.LAYERS
        for leaf in ("kernel", "bias")
    ]
    steps = leaves[0].ndim - 2
    return np.concatenate([leaf.reshape(*leaf.shape[:steps], -1) for leaf in leaves], axis=-1)


def gradient(w: Vector, step: int) -> Vector:
    """Compute the gradient of the mini-batch's mean cross-entropy by backpropagation."""
    x = problem_a.arrays()["data/x"][step % problem_a.MINIBATCHES]
    y = problem_a.arrays()["data/y"][step % problem_a.MINIBATCHES]
    sizes = (10, 16, 16, 4)
    kernels, biases, inputs, start = [], [], [x], 0
    for rows, columns in itertools.pairwise(sizes):
        kernels.append(w[start : start + rows * columns].reshape(rows, columns))
        biases.append(w[start + rows * columns : start + (rows + 1) * columns])
        start += (rows + 1) * columns
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        inputs.append(np.tanh(inputs[-1] @ kernel + bias))

    weights = np.exp(inputs[-1] @ kernels[-1] + biases[-1])
    slope = (weights / weights.sum(axis=1, keepdims=True) - np.eye(4)[y]) / len(y)
    pieces = []
    for kernel, value in zip(kernels[::-1], inputs[::-1], strict=True):
        pieces += [slope.sum(axis=0), (value.T @ slope).ravel()]
        slope = (slope @ kernel.T) * (1 - value**2)
    return np.concatenate(pieces[::-1])


def trajectory(method: str, base: str) -> Vector:
    """Train by one of X-SAM's readings; parameters after each step, [steps, parameters]."""
    h = problem_a.hyperparameters(method)
    momentum, decay = {"sgd": (0.0, 0.0), "sgdm": (0.9, 5e-4)}[base]
    w, v0, velocity, found = flat("init"), flat("v0"), 0.0, []
    for k in range(problem_a.STEPS):
        if k % h["p"] == 0:  # lines 3 to 9
            v = v0
            for _ in range(int(h["q"])):
                v = gradient(w + 1e-30j * v, k).imag / 1e-30
                v = v / np.linalg.norm(v)
        g = gradient(w, k)
        g_adv = gradient(w + h["rho"] * g / np.linalg.norm(g), k)
        u = g_adv if "unnorm" in method else g_adv / np.linalg.norm(g_adv)  # Eq. 9
        sign = 1 if "projector" in method else np.sign(g_adv @ v)
        d = u - h["alpha"] * sign * (u @ v) * v  # Eq. 11
        velocity = momentum * velocity + d + decay * w
        w = w - h["lr"] * velocity
        found.append(w)
    return np.stack(found)

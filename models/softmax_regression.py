"""Multinomial logistic regression with an L2 term, solved in the space that its rows span.

A feature map has more numbers (25,088) than there are patients. The minimiser of a loss with an L2 term lies in the
span of the training rows, so it is looked for there, which changes no prediction.

Source: Schölkopf, Herbrich, Smola 2001, "A generalized representer theorem".
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import Tensor

COLUMNS = 4096  # of the rows at a time, in float64

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def span(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the space that rows X span, from their Gram matrix X Xᵀ = U S² Uᵀ.

    Args:
        gram: (n, n), float64.

    Returns:
        U S / √u, (n, r), float64: the rows themselves in that space, of mean squared length 1; and U S⁻¹ / √u, (n, r),
        float64, which maps inner products with the rows into it. u is the mean squared length of the rows.
    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept = eigenvalues > 1e-10 * eigenvalues[-1].clamp_min(torch.finfo(torch.float64).tiny)
    lengths, basis = eigenvalues[kept].sqrt(), vectors[:, kept]
    root = (lengths.square().sum() / len(gram)).sqrt()
    return basis * (lengths / root), basis / (lengths * root)


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """Return inner products of rows (n, D) and (m, D), (n, m), float64, without a float64 copy of either."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for some, same in zip(left.split(COLUMNS, 1), right.split(COLUMNS, 1), strict=True):
        total += some.double() @ same.double().T
    return total


def minimise(
    inputs: Array,
    labels: Labels,
    penalty: float,
    start: Array,
    *,
    weights: Array | None = None,
    of_bias: float = 0.0,
    gradient: float = 1e-8,
) -> Array:
    """Return the W and b that minimise Σ w_i cross-entropy_i + ½ λ ‖W‖² + ½ λ_b ‖b‖².

    Args:
        inputs: (n, r).
        labels: (n,), in [0, K).
        penalty: λ.
        start: first W and, as last row, b, (r + 1, K).
        weights: of the rows, (n,), their sum 1; None: all alike.
        of_bias: λ_b; 0 leaves b free, and -∞ for a class that no row is of.
        gradient: largest one at which the search ends.

    Returns:
        W and, as last row, b, (r + 1, K).
    """
    truth = np.eye(start.shape[1])[labels]
    share = (np.full(len(labels), 1 / len(labels)) if weights is None else weights)[:, None]
    strength = np.full((len(start), 1), penalty)
    strength[-1] = of_bias

    def loss(flat: Array) -> tuple[float, Array]:
        solution = flat.reshape(start.shape)
        logits = inputs @ solution[:-1] + solution[-1]
        error = (softmax(logits, axis=1) - truth) * share
        slope = np.vstack([inputs.T @ error, error.sum(0)]) + strength * solution
        value = -(log_softmax(logits, axis=1) * truth * share).sum()
        return value + (strength * np.square(solution)).sum() / 2, slope.ravel()

    options = {"maxiter": 2000, "maxfun": 4000, "gtol": gradient, "ftol": 1e-14}
    return minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(start.shape)


def cross_entropies(inputs: Array, labels: Labels, solution: Array) -> Array:
    """Return the log loss of each row, (n,)."""
    logits = inputs @ solution[:-1] + solution[-1]
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]

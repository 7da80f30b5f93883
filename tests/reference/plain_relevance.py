"""The rules of relevance written plainly: a layer as a matrix, in float64, input by input."""

import numpy as np


def as_matrix(product, x_shape):
    """The matrix (inputs, outputs) of a linear function, one unit input after another."""
    n = int(np.prod(x_shape))
    rows = [np.asarray(product(np.eye(n)[i].reshape(x_shape)), float).ravel() for i in range(n)]
    return np.stack(rows)


def stab(z, epsilon=1e-6):
    return z + epsilon * np.where(z < 0, -1.0, 1.0)


def share(contributions, r, z, epsilon=1e-6):
    """Relevance of the inputs from contributions (inputs, outputs) and denominators (outputs,)."""
    out = np.zeros(len(contributions))
    for i in range(contributions.shape[0]):
        for j in range(contributions.shape[1]):
            out[i] += contributions[i, j] * r[j] / stab(z, epsilon)[j]
    return out


def epsilon(x, w, b, r, eps):
    return share(x[:, None] * w, r, (x[:, None] * w).sum(0) + b, eps)


def alpha_beta(x, w, b, r, alpha, beta):
    c = x[:, None] * w
    up, down = np.maximum(c, 0), np.minimum(c, 0)
    plus = share(up, r, up.sum(0) + np.maximum(b, 0))
    minus = share(down, r, down.sum(0) + np.minimum(b, 0))
    return alpha * plus - beta * minus


def gamma(x, w, b, r, g, bias_of_sign):
    """b takes its share; `bias_of_sign` decides the sign of an output."""
    c = x[:, None] * w
    z = c.sum(0) + bias_of_sign
    out = np.zeros(len(x))
    for sign in (1, -1):
        part = np.maximum if sign > 0 else np.minimum
        grown = c + g * part(c, 0)
        own = np.where(np.sign(z) == sign, r, 0)
        out += share(grown, own, grown.sum(0) + b + g * part(b, 0))
    return out


def z_box(x, w, r, low, high):
    c = x[:, None] * w - low[:, None] * np.maximum(w, 0) - high[:, None] * np.minimum(w, 0)
    return share(c, r, c.sum(0))


def by_weight(w, r, total):
    return share(w, r, total)

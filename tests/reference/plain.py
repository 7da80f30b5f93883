"""Games, Shapley values and Algorithm 1 by loops and sets in float64."""

import itertools
import math

import numpy as np


def softmax(logits):
    e = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def head(weights, x, elements):
    """One head (a dict of w1, b1, w2, b2, optional hidden) on the given elements, in order."""
    hidden = np.concatenate([x[i] for i in elements]) @ weights["w1"] + weights["b1"]
    hidden = np.maximum(hidden, 0)
    for layer in weights.get("hidden", []):
        hidden = np.maximum(hidden @ layer["w"] + layer["b"], 0)
    return hidden @ weights["w2"] + weights["b2"]


def multi_scale(heads, x, elements):
    """f^ms by its definition, Eq. (8): means of means."""
    scales = range(1, min(len(heads), len(elements)) + 1)
    return np.mean(
        [
            np.mean([head(heads[s - 1], x, c) for c in itertools.combinations(elements, s)], axis=0)
            for s in scales
        ],
        axis=0,
    )


def multi_scale_recursive(heads, x, elements):
    """f^ms by Eq. (9), |X| one at a time."""
    n, n_max = len(elements), len(heads)
    if n == 1:
        return head(heads[0], x, elements)
    parents = [multi_scale_recursive(heads, x, c) for c in itertools.combinations(elements, n - 1)]
    mean = np.mean(parents, axis=0)
    if n > n_max:
        return mean
    return (head(heads[n - 1], x, elements) + (n - 1) * mean) / n


def average(w, b, x, elements, input_relu=True):
    x = np.maximum(x, 0) if input_relu else x
    return np.mean([x[i] @ w + b for i in elements], axis=0)


def elements_of(code, n):
    return tuple(i for i in range(n) if code >> i & 1)


def table(score, prior, n):
    """Scores of all subsequences, (2**n, C); `score` takes a tuple of elements."""
    rows = [prior] + [score(elements_of(code, n)) for code in range(1, 2**n)]
    return np.array(rows)


def shapley_by_weights(table):
    """Eq. (4), subset by subset."""
    n = len(table).bit_length() - 1
    values = np.zeros((n, *table.shape[1:]))
    for i in range(n):
        for code in range(2**n):
            if code >> i & 1:
                continue
            k = bin(code).count("1")
            weight = math.factorial(n - k - 1) * math.factorial(k) / math.factorial(n)
            values[i] += weight * (table[code | 1 << i] - table[code])
    return values


def shapley_by_permutations(table):
    """The mean over all orders of arrival of what each element adds."""
    n = len(table).bit_length() - 1
    values = np.zeros((n, *table.shape[1:]))
    for order in itertools.permutations(range(n)):
        code = 0
        for i in order:
            values[i] += table[code | 1 << i] - table[code]
            code |= 1 << i
    return values / math.factorial(n)


def marginals(table):
    """Eq. (7): by scale, the mean with an element minus the mean without it one scale below."""
    n = len(table).bit_length() - 1
    out = np.zeros((n, n, *table.shape[1:]))
    for s in range(1, n + 1):
        for i in range(n):
            with_i = [table[c] for c in range(2**n) if bin(c).count("1") == s and c >> i & 1]
            without = [
                table[c] for c in range(2**n) if bin(c).count("1") == s - 1 and not c >> i & 1
            ]
            out[s - 1, i] = np.mean(with_i, axis=0) - np.mean(without, axis=0)
    return out


def grow(rng, n, m):
    """Eq. (10) with Python sets: for each scale, a list of frozensets."""
    samples = [[frozenset([i]) for i in range(n)]]
    for _ in range(n - 1):
        pool = {row | {i} for row in samples[-1] for i in range(n) if i not in row}
        ordered = sorted(pool, key=sorted)
        take = rng.permutation(len(ordered))[: min(m, len(ordered))]
        samples.append([ordered[k] for k in take])
    return samples


def algorithm_1(heads, x, prior, iterations, unseen="skip"):
    """ESVs and their marginals from given samples; see `Constructive`.

    `iterations` is a list of samples, each a list over scales of lists of element tuples.
    """
    n, c, n_max = len(x), len(prior), len(heads)
    sums = np.zeros((2, n, n, c))
    counts = np.zeros((2, n, n))
    for scales in iterations:
        counts[1, 0] += 1
        sums[1, 0] += prior
        before = {}
        for s, rows in enumerate(scales, start=1):
            now = {}
            for row in rows:
                parents = [before[p] for p in before if p < frozenset(row)]
                own = head(heads[s - 1], x, sorted(row)) if s <= n_max else None
                mean = np.mean(parents, axis=0) if parents else None
                if mean is None and unseen == "zero" and s > 1:
                    mean = np.zeros(c)
                if own is None and mean is None:
                    continue
                if s == 1 or (mean is None):
                    value = own
                elif own is None:
                    value = mean
                else:
                    value = (own + (s - 1) * mean) / s
                now[frozenset(row)] = value
                scores = softmax(value)
                for i in range(n):
                    side = 0 if i in row else 1
                    scale = s - 1 if side == 0 else s
                    if scale < n:
                        sums[side, scale, i] += scores
                        counts[side, scale, i] += 1
            before = now
    means = sums / np.maximum(counts, 1)[..., None]
    difference = means[0] - means[1]
    if unseen == "zero":
        return difference.mean(0), difference
    covered = (counts > 0).all(0)
    total = np.where(covered[..., None], difference, 0).sum(0)
    return total / covered.sum(0)[:, None], np.where(covered[..., None], difference, np.nan)

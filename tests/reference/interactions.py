"""Interactions of pairs, values of groups and Owen values by loops over sets in float64."""

import itertools
import math

import numpy as np


def code_of(elements):
    return sum(1 << i for i in elements)


def subsets(elements):
    elements = sorted(elements)
    for k in range(len(elements) + 1):
        yield from itertools.combinations(elements, k)


def interactions(table, index="sii"):
    """(n, n, C) from the scores of all subsequences, pair by pair and subset by subset."""
    n = len(table).bit_length() - 1
    out = np.zeros((n, n, *table.shape[1:]))
    for i, j in itertools.permutations(range(n), 2):
        for others in subsets(set(range(n)) - {i, j}):
            k, code = len(others), code_of(others)
            if index == "sii":
                w = math.factorial(k) * math.factorial(n - k - 2) / math.factorial(n - 1)
            else:
                w = 2 / n / math.comb(n - 1, k)
            both, one, other = code | 1 << i | 1 << j, code | 1 << i, code | 1 << j
            out[i, j] += w * (table[both] - table[one] - table[other] + table[code])
    return out


def dividends(table):
    """Harsanyi dividends (2**n, C): the scores are their sums over subsets."""
    out = np.zeros_like(table)
    for code in range(len(table)):
        elements = [i for i in range(code.bit_length()) if code >> i & 1]
        for part in subsets(elements):
            out[code] += (-1) ** (len(elements) - len(part)) * table[code_of(part)]
    return out


def union_table(table, groups):
    """Scores of all unions of groups (lists of elements), (2**g, C)."""
    rows = []
    for code in range(2 ** len(groups)):
        chosen = [i for k, group in enumerate(groups) if code >> k & 1 for i in group]
        rows.append(table[code_of(chosen)])
    return np.array(rows)


def owen(table, groups):
    """Owen (1977): sums over unions of other groups and over parts of the own."""
    n, g = len(table).bit_length() - 1, len(groups)
    out = np.zeros((n, *table.shape[1:]))
    for k, group in enumerate(groups):
        for i in group:
            for chosen in subsets(set(range(g)) - {k}):
                outer = [e for h in chosen for e in groups[h]]
                for part in subsets(set(group) - {i}):
                    weight = 1 / (g * math.comb(g - 1, len(chosen)))
                    weight /= len(group) * math.comb(len(group) - 1, len(part))
                    code = code_of([*outer, *part])
                    out[i] += weight * (table[code | 1 << i] - table[code])
    return out


def owen_by_orders(table, groups):
    """The mean over all orders of arrival in which no group is interrupted."""
    n = len(table).bit_length() - 1
    out, count = np.zeros((n, *table.shape[1:])), 0
    for order in itertools.permutations(groups):
        for within in itertools.product(*map(itertools.permutations, order)):
            code, count = 0, count + 1
            for i in itertools.chain(*within):
                out[i] += table[code | 1 << i] - table[code]
                code |= 1 << i
    return out / count


def least_distance(features, k):
    """Least squared distance to segment means over all ways of cutting into k segments."""
    n, best = len(features), np.inf
    for cuts in itertools.combinations(range(1, n), k - 1):
        ends = [0, *cuts, n]
        parts = [features[a:b] for a, b in itertools.pairwise(ends)]
        best = min(best, sum(((part - part.mean(0)) ** 2).sum() for part in parts))
    return best

"""Masks and their regularisers in plain NumPy, float64: one pixel, one voxel at a time."""

import numpy as np


def plain_mask(small, shape, step, sigma):
    """(h, w) of one small mask: every pixel asks every cell that its window holds."""
    radius = 1 + int(np.ceil(sigma / step))
    padding = 1 + int(np.ceil(2 * sigma / step))
    rows, columns = small.shape
    mask = np.zeros(shape)
    for y in range(shape[0]):
        for x in range(shape[1]):
            values = []
            for i in range(2 * radius + 1):
                for j in range(2 * radius + 1):
                    cell_y = (y + sigma) // step + i - padding
                    cell_x = (x + sigma) // step + j - padding
                    far = np.hypot(y - step * cell_y, x - step * cell_x) / sigma
                    inside = 0 <= cell_y < rows and 0 <= cell_x < columns
                    cell = small[cell_y, cell_x] if inside else 0.0
                    values.append(cell * np.exp(-2 * max(far - 0.5, 0) ** 2))
            v = np.array(values)
            weights = np.exp(20 * v)
            mask[y, x] = (v * weights).sum() / weights.sum()
    return mask.clip(0, 1)


def plain_area_loss(mask, area):
    """Of one mask (t, h, w), by sorting it."""
    values = np.sort(np.asarray(mask, np.float64).ravel())
    zeros = int(len(values) * (1 - area) + 1e-4)
    reference = (np.arange(len(values)) >= zeros).astype(float)
    return ((values - reference) ** 2).mean()


def plain_core_loss(mask, area, kernel, ones):
    """Of one mask (t, h, w): boxes one by one, then the fullest."""
    frames, size, _ = kernel.shape
    t, h, w = mask.shape
    filled = [
        (mask[k : k + frames, y : y + size, x : x + size] * kernel).sum() / kernel.sum()
        for k in range(t - frames + 1)
        for y in range(0, h - size + 1, size)
        for x in range(0, w - size + 1, size)
    ]
    filled = np.sort(filled)[::-1]
    k = min(int(np.ceil(area * mask.size / ones - 1e-4)), len(filled))
    rest = filled[k:]
    return ((filled[:k] - 1) ** 2).mean() + ((rest**2).mean() if len(rest) else 0)


def plain_perturb(levels, mask):
    """(t, h, w, c) of levels (L, t, h, w, c) and a mask (t, h, w)."""
    n = len(levels)
    out = np.zeros(levels.shape[1:])
    for place in np.ndindex(mask.shape):
        at = mask[place] * (n - 1)
        below = int(np.clip(np.floor(at), 0, n - 2))
        above = at - below
        out[place] = (1 - above) * levels[below][place] + above * levels[below + 1][place]
    return out

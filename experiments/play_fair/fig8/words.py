"""The tables of figure 8 in Markdown, and its findings by rule."""

from __future__ import annotations

from typing import Any

from experiments.play_fair.figure import Finding, Verdict, markdown, plus_minus

TITLES = {
    "relative_error": "Relative error (%)",
    "lad_slope": "LAD slope",
    "pearson": "Pearson r",
}
AT = (256, 4)  # where the paper reads r and slope
_CORRELATION, _SLOPE = 0.99, 0.02
_NEAR = 0.95, 0.1  # still weaker, not contradicted
_MOST = 0.9  # share of steps that fall, for "reproduced"


def cell_text(name: str, value: float | None) -> str:
    """A number of one measure as the tables show it."""
    if value is None:
        return "-"
    if name == "pearson":
        return f"{value:.4f}"
    if name == "lad_slope":
        return f"{value:.3f}"
    return per_cent(value)


def per_cent(share: float) -> str:
    """Three significant digits or so."""
    share *= 100
    digits = 1 if share >= 10 else 2 if share >= 1 else 3
    return f"{share:.{digits}f}"


def table(numbers: dict[str, Any]) -> str:
    """All tables."""
    ms, ks = numbers["max_subsequences"], numbers["iterations"]
    head = ("m", *(f"k = {k}" for k in ks), "Surrogate(m)")
    parts = [
        f"{numbers['n_sequences']} of {numbers['n_sequences_long_enough']} sequences,"
        f" {numbers['n']} elements, true class, mean over sequences."
    ]
    for name, title in TITLES.items():
        rows = [
            (m, *(cell_text(name, value) for value in row))
            for m, row in zip(ms, numbers["true"][name], strict=True)
        ]
        parts.append(f"**{title}**\n\n{markdown(head, rows)}")
    shares = zip(ms, numbers["share_of_subsequences"], strict=True)
    rows = [(m, *map(per_cent, row)) for m, row in shares]
    title = f"**Distinct subsequences drawn (% of 2^{numbers['n']} - 1)**"
    parts.append(f"{title}\n\n{markdown(head[:-1], rows)}")
    heads = zip(ms, numbers["heads"], strict=True)
    rows = [(m, *(_count(count) for count in row)) for m, row in heads]
    title = f"**Head evaluations (exact: {numbers['all_heads']:,})**"
    parts.append(f"{title}\n\n{markdown(head, rows)}")
    if _there(numbers):
        parts.append(_other_ways(numbers))
    return "\n\n".join(parts)


def _count(count: float | None) -> str:
    return "-" if count is None else f"{count:,.0f}"


def _other_ways(numbers: dict[str, Any]) -> str:
    """The three measures at 256 x 4, over what they may be taken."""
    i, j = _place(numbers)
    names = {
        "true": "true class, mean over sequences",
        "pooled": "true class, elements of all sequences together",
        "all_classes": "all classes together, mean over sequences",
    }
    rows = [
        (title, *(cell_text(name, numbers[over][name][i][j]) for name in TITLES))
        for over, title in names.items()
    ]
    head = (f"at {AT[0]} x {AT[1]}, taken over", *TITLES.values())
    return markdown(head, rows)


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """The paper's two findings beside ours."""
    return [_shape(numbers), _quality(numbers)]


def _shape(numbers: dict[str, Any]) -> Finding:
    """Error falls along both axes.

    Reproduced: no step raises the error beyond noise (95 % interval of its change above 0), and
    nine tenths of the steps lower it. Contradicted: fewer than half lower it.
    """
    finding = "Algorithm 1: the error falls with subsequences per scale and with iterations"
    paper = "falls along both axes"
    steps = numbers["steps"]
    missing = _missing(numbers) or ("" if steps else "no step could be measured")
    if missing:
        return Finding(finding, paper, "", "not measured", missing)
    falls = sum(step["change"] < 0 for step in steps)
    clear = [step["step"] for step in steps if step["low"] > 0]
    verdict: Verdict = "weaker"
    if falls < len(steps) / 2:
        verdict = "contradicted"
    elif not clear and falls >= _MOST * len(steps):
        verdict = "reproduced"
    errors = numbers["true"]["relative_error"]
    ms, ks = numbers["max_subsequences"], numbers["iterations"]
    corners = [(0, 0), (0, -2), (-1, 0), (-1, -2)]  # the last column is the surrogate
    text = ", ".join(
        f"{cell_text('relative_error', errors[i][j])} % at {ms[i]} x {ks[j if j == 0 else -1]}"
        for i, j in corners
    )
    measured = f"falls in {falls} of {len(steps)} steps, rises clearly in {len(clear)}; {text}"
    rises = [step["step"] for step in steps if step["change"] >= 0]
    return Finding(finding, paper, measured, verdict, _list("no fall: ", rises))


def _quality(numbers: dict[str, Any]) -> Finding:
    """r and slope at 256 x 4: by the means over sequences."""
    finding = f"{AT[0]} subsequences per scale x {AT[1]} iterations are close to exact"
    paper = f"r = {_CORRELATION}, slope within {_SLOPE} of 1"
    missing = _missing(numbers) or ("" if _there(numbers) else "that budget was not asked for")
    if missing:
        return Finding(finding, paper, "", "not measured", missing)
    i, j = _place(numbers)
    r, slope, error = (_with_interval(numbers, name, i, j) for name in _ORDER)
    if r[0] is None or slope[0] is None:
        reason = "the exact values of each sequence are all alike"
        return Finding(finding, paper, "", "not measured", reason)
    verdict: Verdict = "contradicted"
    if r[0] >= _CORRELATION and abs(slope[0] - 1) <= _SLOPE:
        verdict = "reproduced"
    elif r[0] >= _NEAR[0] and abs(slope[0] - 1) <= _NEAR[1]:
        verdict = "weaker"
    measured = (
        f"r {plus_minus(*r, digits=4)}, slope {plus_minus(*slope, digits=3)}, error"
        f" {plus_minus(*(100 * x for x in error), digits=2)} %"
    )
    why = "" if verdict == "reproduced" else _why(numbers, i, j)
    return Finding(finding, paper, measured, verdict, why)


_ORDER = ("pearson", "lad_slope", "relative_error")


def slope_is_off(numbers: dict[str, Any]) -> bool:
    """Whether the slope at 256 x 4 is too far from 1 for the paper's finding."""
    if not _there(numbers):
        return False
    i, j = _place(numbers)
    slope = numbers["true"]["lad_slope"][i][j]
    return slope is not None and abs(slope - 1) > _SLOPE


def _why(numbers: dict[str, Any], i: int, j: int) -> str:
    """What the other numbers say about a cell that misses the mark."""
    true, pooled, parts = numbers["true"], numbers["pooled"]["pearson"][i][j], []
    if true["pearson"][i][j] < _CORRELATION and pooled is not None:
        parts.append(f"over the elements of all sequences together r is {pooled:.4f}")
    if slope_is_off(numbers):
        slopes, m, k = true["lad_slope"], numbers["max_subsequences"], numbers["iterations"]
        parts.append(
            f"slope {slopes[i][-2]:.3f} at {m[i]} x {k[-1]}, {slopes[-1][-2]:.3f} at"
            f" {m[-1]} x {k[-1]}"
        )
        if numbers["logits"] is not None:
            parts.append(f"of ESVs in logits {plus_minus(*numbers['logits'], digits=3)}")
            inside = numbers["logits"][1] <= 1 <= numbers["logits"][2]
            parts += ["it is the softmax of scores with sampling noise that bends it"] * inside
    return "; ".join(parts)


def _missing(numbers: dict[str, Any]) -> str:
    """Why nothing can be said of sequences as long as the paper's; "" where it can."""
    n, wanted = numbers["n"], numbers["wanted_n"]
    return f"the longest sequence has {n} elements, {wanted} are needed" if n < wanted else ""


def _there(numbers: dict[str, Any]) -> bool:
    return AT[0] in numbers["max_subsequences"] and AT[1] in numbers["iterations"]


def _place(numbers: dict[str, Any]) -> tuple[int, int]:
    return numbers["max_subsequences"].index(AT[0]), numbers["iterations"].index(AT[1])


def _with_interval(numbers: dict[str, Any], name: str, i: int, j: int) -> tuple[Any, Any, Any]:
    ends = numbers["intervals"][name]
    return numbers["true"][name][i][j], ends["low"][i][j], ends["high"][i][j]


def _list(before: str, names: list[str], most: int = 4) -> str:
    """The first few of some names, or nothing."""
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return before + "; ".join(names[:most]) + more

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from esv_jax.games.scoring import by_scale
from esv_jax.subsequences import SubsequencePlan
from esv_jax.subsequences.growth import grow_samples
from esv_jax.subsequences.lattice import make_lattice, membership, scale_ordered_codes
from esv_jax.subsequences.samples import count_distinct
from tests.reference import plain

grow = jax.jit(grow_samples, static_argnums=(1, 2))


@given(st.integers(0, 10))
def test_codes_are_complete_and_ordered_by_scale(n):
    codes = scale_ordered_codes(n)
    assert sorted(codes) == list(range(2**n))
    sizes = [bin(code).count("1") for code in codes]
    assert sizes == sorted(sizes)
    parts = by_scale(codes, n)
    assert [len(part) for part in parts] == [math.comb(n, s) for s in range(n + 1)]
    assert all((np.bitwise_count(part) == s).all() for s, part in enumerate(parts))


def test_code_tables_are_shared_and_read_only():
    assert scale_ordered_codes(5) is scale_ordered_codes(5)
    with pytest.raises(ValueError, match="read-only"):
        scale_ordered_codes(5)[0] = 1


def parents(code):
    """Codes of the subsequences one element shorter."""
    return {code & ~(1 << i) for i in plain.elements_of(code, 12)}


@given(st.integers(0, 2**12 - 1))
def test_membership_is_the_bits_of_a_code(code):
    elements = tuple(np.flatnonzero(membership(np.array(code), 12)))
    assert elements == plain.elements_of(code, 12)


@pytest.mark.parametrize(
    ("n", "n_low", "width"),
    [(1, None, None), (4, None, None), (8, None, None), (11, None, None), (12, None, None)]
    + [(6, 2, 1), (6, 2, 5), (6, 1, 3), (7, 3, 2), (5, 5, 1), (9, 4, 40), (14, None, None)],
)
def test_lattice_visits_every_subsequence_after_its_parents(n, n_low, width):
    lattice = make_lattice(n, n_low, width)
    codes = lattice.codes()
    assert sorted(codes[codes >= 0]) == list(range(2**n))
    done, slots = set(), {}
    for t in range(lattice.n_tiles):
        start = lattice.tile_start[t]
        tops = lattice.tile_code[t][lattice.tile_valid[t]]
        for b, top in enumerate(tops):
            expected = {slots[p] for p in parents(int(top))}
            given_slots = set(lattice.tile_parents[t, b].tolist()) - {lattice.n_slots}
            assert given_slots == expected
            assert int(top).bit_count() == lattice.tile_level[t]
        for b, top in enumerate(tops):
            slots = {code: slot for code, slot in slots.items() if slot != start + b}
            slots[int(top)] = int(start + b)
        done.update(codes[t][codes[t] >= 0].ravel().tolist())
    assert len(done) == 2**n


def test_lattice_is_cached_and_bounded():
    assert make_lattice(9) is make_lattice(9)
    with pytest.raises(ValueError, match=r"n: expected 1..24 elements"):
        make_lattice(25)
    with pytest.raises(ValueError, match=r"n: expected 1..24 elements"):
        make_lattice(0)


def sets_of(samples, scale):
    rows = np.asarray(samples.member[scale - 1])[np.asarray(samples.valid[scale - 1])]
    return [frozenset(np.flatnonzero(row)) for row in rows]


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 1), (5, 3), (9, 12), (20, 64), (33, 7)])
def test_growth_draws_distinct_extensions(n, m):
    samples = grow(jax.random.key(n), n, m)
    assert samples.member.shape == (n, max(n, m), n)
    before = sets_of(samples, 1)
    assert sorted(map(min, before)) == list(range(n))
    assert len(before) == n  # all singletons, whatever m is
    for s in range(2, n + 1):
        now = sets_of(samples, s)
        pool = {row | {i} for row in before for i in range(n) if i not in row}
        assert all(len(row) == s for row in now)
        assert len(set(now)) == len(now) == min(m, len(pool))
        assert set(now) <= pool
        before = now
    absent = ~np.asarray(samples.valid)
    assert not np.asarray(samples.member)[absent].any()


def test_growth_enumerates_where_all_fit():
    samples = grow(jax.random.key(0), 7, 35)
    assert [len(sets_of(samples, s)) for s in range(1, 8)] == [math.comb(7, s) for s in range(1, 8)]


def test_growth_depends_on_the_key_alone():
    first, again, other = (grow(jax.random.key(k), 9, 8) for k in (0, 0, 1))
    np.testing.assert_array_equal(first.member, again.member)
    assert (np.asarray(first.member) != np.asarray(other.member)).any()
    eager = grow_samples(jax.random.key(0), 9, 8)
    np.testing.assert_array_equal(first.member, eager.member)


@pytest.mark.parametrize("length", [1, pytest.param(3, marks=pytest.mark.slow), 6])
def test_growth_ignores_padding(length):
    padded = grow_samples(jax.random.key(5), 8, 6, length)
    bare = grow_samples(jax.random.key(5), length, 6)
    for s in range(1, length + 1):
        assert set(sets_of(padded, s)) == set(sets_of(bare, s))
    assert not np.asarray(padded.valid[length:]).any()
    assert not np.asarray(padded.member[:, :, length:]).any()


def test_growth_with_many_duplicates():
    """With m = 1 per 40 elements, the few smallest hashes can all be copies of few candidates."""
    from esv_jax.subsequences.growth import _smallest_distinct

    left = np.repeat(np.arange(6, dtype=np.uint32), 50)
    right = np.zeros(300, np.uint32)
    allowed = np.ones(300, bool)
    few = _smallest_distinct(*map(jax.numpy.asarray, (left, right, allowed)), 60, 5)
    everything = _smallest_distinct(*map(jax.numpy.asarray, (left, right, allowed)), 300, 5)
    assert int(few[1]) == 2
    assert int(everything[1]) == 5
    assert list(left[np.asarray(everything[0])]) == [0, 1, 2, 3, 4]


def draw_counts(draws, pool):
    places = {row: k for k, row in enumerate(pool)}
    counts = np.zeros(len(pool))
    for rows in draws:
        for row in rows:
            counts[places[row]] += 1
    return counts


@pytest.mark.parametrize(("n", "m"), [(6, 4), (8, 3)])
def test_growth_is_uniform_over_distinct_candidates(n, m):
    """The first step has one pool for all draws, pairs; later ones depend on the step before.

    Inclusion counts of a draw of m without replacement from N have variance p (1 - p) a draw and
    correlation -1/(N - 1): their chi-square sum, times (N - 1)/N / (1 - p), has N - 1 degrees.
    """
    repeats = 4000
    keys = jax.random.split(jax.random.key(7), repeats)
    samples = jax.jit(jax.vmap(lambda key: grow_samples(key, n, m)))(keys)
    member = np.asarray(samples.member)
    pool = [frozenset(c) for c in itertools.combinations(range(n), 2)]
    pairs = [[frozenset(np.flatnonzero(row)) for row in member[r, 1, :m]] for r in range(repeats)]
    counts, p = draw_counts(pairs, pool), m / len(pool)
    statistic = ((counts - repeats * p) ** 2).sum() / (repeats * p * (1 - p))
    statistic *= (len(pool) - 1) / len(pool)
    assert stats.chi2.sf(statistic, len(pool) - 1) > 1e-3

    # Pairs within one draw: jointly uniform as well.
    joint = {}
    for rows in pairs:
        for a, b in itertools.combinations(sorted(map(sorted, rows)), 2):
            joint[(tuple(a), tuple(b))] = joint.get((tuple(a), tuple(b)), 0) + 1
    n_pairs = math.comb(len(pool), 2)
    expected = repeats * math.comb(m, 2) / n_pairs
    values = np.array([*joint.values(), *[0] * (n_pairs - len(joint))])
    assert stats.chi2.sf(((values - expected) ** 2 / expected).sum(), n_pairs - 1) > 1e-4


def test_growth_two_steps_agrees_with_sets():
    """Scale-3 inclusion frequencies against the plain twin: two samples, one distribution."""
    n, m, repeats = 5, 2, 6000
    keys = jax.random.split(jax.random.key(3), repeats)
    ours = jax.jit(jax.vmap(lambda key: grow_samples(key, n, m)))(keys)
    member, valid = np.asarray(ours.member)[:, 2], np.asarray(ours.valid)[:, 2]
    rng = np.random.default_rng(0)
    pool = [frozenset(c) for c in itertools.combinations(range(n), 3)]
    a = draw_counts(
        [[frozenset(np.flatnonzero(x)) for x in member[r][valid[r]]] for r in range(repeats)], pool
    )
    b = draw_counts([plain.grow(rng, n, m)[2] for _ in range(repeats)], pool)
    assert stats.chi2_contingency(np.stack([a, b]))[1] > 1e-3


def test_count_distinct():
    samples = grow_samples(jax.random.key(0), 6, 5)
    twice = jax.tree.map(lambda leaf: jax.numpy.stack([leaf, leaf]), samples)
    expected = sum(len(sets_of(samples, s)) for s in range(1, 7))
    assert int(count_distinct(samples)) == int(count_distinct(twice)) == expected


def test_plan_from_membership():
    rows = [np.eye(3, dtype=bool), ~np.eye(3, dtype=bool)[:2], np.ones((1, 3), bool)]
    plan = SubsequencePlan.from_membership([rows, rows])
    assert (plan.n, plan.iterations) == (3, 2)
    np.testing.assert_array_equal(plan.samples.valid[0].sum(1), [3, 2, 1])
    padded = [np.concatenate([r, np.zeros((4 - len(r), 3), bool)]) for r in rows]
    same = SubsequencePlan.from_membership([padded])
    np.testing.assert_array_equal(same.samples.valid[0].sum(1), [3, 2, 1])


@pytest.mark.parametrize(
    ("iterations", "error", "match"),
    [
        ([], ValueError, "at least one iteration"),
        ([[np.ones((1, 1), bool)], []], ValueError, r"iterations\[1\]: expected 1 scales"),
        ([[np.eye(2, dtype=bool)]], ValueError, r"shape \(rows, n\) = \(rows, 1\)"),
        ([[np.ones((1, 1))]], TypeError, "a bool array"),
        (
            [[np.eye(2, dtype=bool), np.eye(2, dtype=bool)]],
            ValueError,
            "2 elements in every row, got 1 in row 0",
        ),
    ],
)
def test_bad_plans_are_refused(iterations, error, match):
    with pytest.raises(error, match=match):
        SubsequencePlan.from_membership(iterations)

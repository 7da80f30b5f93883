"""The `.ts` reader: real files, round trip, messages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esv_jax.data import read_ts

HEADER = """# a comment
@problemName Toy
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true ah eh
@data
"""
FIRST_ROW = HEADER.count("\n") + 1


def written(folder, text, name="Toy_TEST.ts", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def as_ts(sequences, labels, class_names):
    """Write values as the shortest decimals that read back to the same float32."""
    lines = ["@problemName Toy", "@timeStamps false", f"@dimensions {sequences[0].shape[1]}"]
    lines += ["@classLabel true " + " ".join(class_names), "@data"]
    for x, label in zip(sequences, labels, strict=True):
        channels = [",".join(repr(float(value)) for value in channel) for channel in x.T]
        lines.append(":".join([*channels, class_names[label]]))
    return "\n".join(lines) + "\n"


# Real files


@pytest.mark.parametrize(
    ("name", "n_cases", "dims", "shortest", "longest", "n_classes"),
    [
        ("JapaneseVowels_TRAIN", 270, 12, 7, 26, 9),
        ("JapaneseVowels_TEST", 370, 12, 7, 29, 9),
        ("BasicMotions_TRAIN", 40, 6, 100, 100, 4),
        ("BasicMotions_TEST", 40, 6, 100, 100, 4),
    ],
)
def test_real_files(shared, name, n_cases, dims, shortest, longest, n_classes):
    data = read_ts(shared / "data" / "series" / f"{name}.ts")
    assert len(data) == len(data.sequences) == len(data.uids) == n_cases
    assert data.labels.shape == (n_cases,) and data.labels.dtype == np.int64
    assert {x.shape[1] for x in data.sequences} == {dims}
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in data.sequences)
    assert (data.lengths.min(), data.lengths.max()) == (shortest, longest)
    assert len(data.class_names) == n_classes
    assert set(data.labels) == set(range(n_classes))
    assert data.uids[17] == f"{name}-17"
    assert data.problem == name.partition("_")[0]


def test_first_values_of_a_real_file(shared):
    data = read_ts(shared / "data" / "series" / "JapaneseVowels_TEST.ts")
    np.testing.assert_array_equal(data.sequences[0][:2, 0], np.float32([1.635533, 1.547694]))
    np.testing.assert_array_equal(data.sequences[0][:2, 1], np.float32([0.024848, 0.008754]))
    assert data.class_names == tuple("123456789")


def test_class_order_follows_the_header(shared):
    data = read_ts(shared / "data" / "series" / "BasicMotions_TRAIN.ts")
    assert data.class_names == ("Standing", "Running", "Walking", "Badminton")
    assert data.labels[0] == 0


# Round trip


@given(data=st.data(), dims=st.integers(1, 4), n_cases=st.integers(1, 5))
def test_round_trip(tmp_path_factory, data, dims, n_cases):
    class_names = ("ah", "eh", "10", "naïve")
    values = st.floats(width=32, allow_nan=False, allow_infinity=False)
    sequences = [
        data.draw(hnp.arrays(np.float32, (data.draw(st.integers(1, 6)), dims), elements=values))
        for _ in range(n_cases)
    ]
    labels = data.draw(st.lists(st.integers(0, 3), min_size=n_cases, max_size=n_cases))
    path = written(tmp_path_factory.mktemp("ts"), as_ts(sequences, labels, class_names))
    read = read_ts(path)
    assert read.class_names == class_names
    np.testing.assert_array_equal(read.labels, labels)
    for got, want in zip(read.sequences, sequences, strict=True):
        np.testing.assert_array_equal(got, want)


def test_comments_blank_lines_crlf_spaces_and_a_byte_order_mark(tmp_path):
    text = "\ufeff" + HEADER + "\n# between\n1, 2 :3,4:  ah  \n\n \n5:6:eh\t\n\n"
    data = read_ts(written(tmp_path, text.replace("\n", "\r\n")))
    np.testing.assert_array_equal(data.sequences[0], [[1, 3], [2, 4]])
    np.testing.assert_array_equal(data.sequences[1], [[5, 6]])
    np.testing.assert_array_equal(data.labels, [0, 1])
    assert data.uids == ("Toy_TEST-0", "Toy_TEST-1")
    assert data.sequences[0].flags.c_contiguous


def test_latin_1_comments(tmp_path):
    path = written(tmp_path, "# Müller\n" + HEADER + "1:2:ah\n", encoding="latin-1")
    assert len(read_ts(path)) == 1


def test_header_keys_are_case_insensitive_and_unknown_ones_ignored(tmp_path):
    text = "@PROBLEMNAME Two Words\n@licence free\n@CLASSLABEL TRUE a b\n@Data\n1,2:3,4:b\n"
    data = read_ts(written(tmp_path, text))
    assert data.problem == "Two Words"
    assert data.sequences[0].shape == (2, 2)


def test_univariate_and_unnamed(tmp_path):
    data = read_ts(written(tmp_path, "@univariate true\n@classLabel true a b\n@data\n1,2,3:b\n"))
    assert data.sequences[0].shape == (3, 1)
    assert data.problem == "Toy_TEST"


def test_unlabelled(tmp_path):
    data = read_ts(written(tmp_path, "@dimension 2\n@classLabel false\n@data\n1,2:3,4\n"))
    assert data.labels is None
    assert data.class_names == ()
    np.testing.assert_array_equal(data.sequences[0], [[1, 3], [2, 4]])


# Missing values


def test_missing_values_are_interpolated_linearly(tmp_path):
    path = written(tmp_path, HEADER + "?,1,?,NaN,4,?:0,0,0,0,0, ? :ah\n")
    np.testing.assert_array_equal(read_ts(path).sequences[0][:, 0], [1, 1, 2, 3, 4, 4])
    np.testing.assert_array_equal(read_ts(path).sequences[0][:, 1], np.zeros(6))


@given(
    hnp.arrays(np.float64, (6, 2), elements=st.floats(-1e3, 1e3)),
    hnp.arrays(np.bool_, (6, 2)),
)
def test_interpolation_keeps_known_values_and_stays_between_them(tmp_path_factory, x, gone):
    gone[0] = False
    cells = np.where(gone, "?", x.astype(np.str_))
    row = ":".join(",".join(column) for column in cells.T) + ":ah\n"
    read = read_ts(written(tmp_path_factory.mktemp("ts"), HEADER + row)).sequences[0]
    np.testing.assert_array_equal(read[~gone], x[~gone].astype(np.float32))
    for c in range(2):
        known = x[~gone[:, c], c].astype(np.float32)
        assert known.min() <= read[:, c].min() and read[:, c].max() <= known.max()


# Messages


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: expected a \.ts file, got '.*absent\.ts'"):
        read_ts(tmp_path / "absent.ts")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("1,x:2,3:ah", "a number, got 'x' as value 1 of channel 0"),
        ("1,2:3,:ah", "a number, got '' as value 1 of channel 1"),
        ("1,5?:3,4:ah", r"a number, got '5\?' as value 1 of channel 0"),
        ("1,2:inf,4:ah", "finite float32 values, got inf as value 0 of channel 1"),
        ("1,2:3,1e39:ah", "finite float32 values, got 1e39 as value 1 of channel 1"),
        ("1,2:ah", r"2 channel\(s\) and a class label, .* got 1 channel\(s\). The file may be cut"),
        ("1,2", r"2 channel\(s\) and a class label, .* got 0 channel"),
        ("1:2:3:ah", r"2 channel\(s\) and .*, got 3 channel\(s\)\.$"),
        ("1:2:Ahh", "one of the classes .*, got 'Ahh'. Did you mean 'ah'"),
        ("1:2:", "one of the classes .*, got ''"),
        ("1,2::ah", "values, got nothing in channel 1"),
        ("1,2,3:4,5:ah", "channels of one length, got 3 values, but 2 in channel 1. Write "),
        ("1,2:?,?:ah", "a known value in every channel, got channel 1 wholly missing. Drop"),
    ],
)
def test_malformed_rows_name_file_and_line(tmp_path, row, text):
    path = written(tmp_path, f"{HEADER}1,2:3,4:eh\n# between\n{row}\n")
    place = rf"Toy_TEST\.ts, line {FIRST_ROW + 2}: expected "
    with pytest.raises(ValueError, match=place + text):
        read_ts(path)


def test_rows_must_have_equal_channels_without_a_header(tmp_path):
    path = written(tmp_path, "@classLabel true a b\n@data\n1:2:a\n1:2:3:b\n")
    with pytest.raises(ValueError, match=r"line 4: expected 2 channel\(s\) .*, got 3"):
        read_ts(path)


@pytest.mark.parametrize("extra", ["@equalLength true\n@seriesLength 2\n", "@equalLength true\n"])
def test_equal_length_is_enforced(tmp_path, extra):
    path = written(tmp_path, extra + "@classLabel true a b\n@data\n1,2:a\n1,2,3:b\n")
    with pytest.raises(ValueError, match=r"expected 2 values a channel, got 3\. Set '@equalLength"):
        read_ts(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"Toy_TEST\.ts: expected an '@data' line, got an empty file without one"),
        ("\n \n", "expected an '@data' line, got an empty file"),
        ("@classLabel true a b\n", "expected an '@data' line, got 2 line"),
        (HEADER, r"Toy_TEST\.ts: expected at least one sequence after @data, got none"),
        ("@data\n1:a\n", "expected a '@classLabel' line, got a header without. Write"),
        ("1,2:a\n@data\n", "line 1: expected a header line, then '@data', got '1,2:a'"),
        ("@classLabel true\n@data\n1:a\n", r"line 1: expected distinct class names .*, got \[\]"),
        ("@classLabel true a a\n@data\n1:a\n", "line 1: expected distinct class names"),
        ("@classLabel\n@data\n1:a\n", "line 1: expected '@classLabel true' or 'false', got ''"),
        ("@missing no\n@univariate maybe\n@classLabel false\n@data\n1\n", "line 2: .* got 'maybe'"),
        (
            "@dimensions two\n@classLabel false\n@data\n1\n",
            "line 1: expected '@dimensions' and a positive integer, got 'two'",
        ),
        ("@seriesLength 0\n@classLabel false\n@data\n1\n", "line 1: expected '@seriesLength' and"),
        ("@timeStamps true\n@data\n", "expected '@timeStamps false', got .* Remove the timestamps"),
        ("@targetLabel true\n@data\n", "expected '@targetLabel false', got .* Only class labels"),
    ],
)
def test_malformed_headers(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        read_ts(written(tmp_path, text))


@given(st.integers(0, 400))
def test_truncated_files_are_read_in_part_or_refused(tmp_path_factory, end):
    rows = "".join(f"{i},2,3:4,5,6:{('ah', 'eh')[i % 2]}\n" for i in range(12))
    text = HEADER + rows
    path = written(tmp_path_factory.mktemp("ts"), text[:end])
    try:
        read = read_ts(path)
    except ValueError as error:
        assert str(error).startswith("Toy_TEST.ts")
    else:  # whole rows only
        assert len(read) == text[:end].count(":ah") + text[:end].count(":eh")

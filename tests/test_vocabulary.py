"""The vocabulary: classes and label ids, from its file or from rated shards."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import index_videos, make_video
from yt8m.common.errors import UserError
from yt8m.data.vocabulary import VOCABULARY_FILE, Vocabulary, derive_vocabulary, load_vocabulary, save_vocabulary

RATED = [
    [make_video(0, 9, (9,), ((0, 20, 1.0), (0, 7, 0.0), (5, 20, 0.0))), make_video(1, 9)],
    [make_video(2, 9, (1, 2), ((0, 7, 0.0), (5, 3000, 1.0), (900, 20, 1.0)))],
]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.integers(0, 3861), min_size=1, unique=True), st.lists(st.integers(-5, 4000)))
def test_classes_are_the_rows_of_the_labels_and_minus_one_for_all_others(known, labels):
    vocabulary = Vocabulary(np.array(known), tuple(map(str, known)))
    rows = {label: row for row, label in enumerate(known)}
    for kind in (np.int32, np.int64):
        classes = vocabulary.classes(np.array(labels, kind))
        assert classes.dtype == np.int64
        assert classes.tolist() == [rows.get(label, -1) for label in labels]
    assert vocabulary.classes(vocabulary.labels).tolist() == list(range(len(vocabulary)))


def test_classes_have_the_shape_of_the_labels():
    vocabulary = Vocabulary(np.array([3, 5]), ("a", "b"))
    assert vocabulary.classes(np.array([[5, 4], [3, 6]])).tolist() == [[1, -1], [0, -1]]


def test_derived_from_ratings(tmp_path):
    table = derive_vocabulary(index_videos(tmp_path, RATED), None)
    assert table.to_dict("list") == {
        "Index": [7, 20, 3000],
        "KnowledgeGraphId": [""] * 3,
        "Name": ["label 7", "label 20", "label 3000"],
        "PositiveSegmentCount": [0, 2, 1],
        "TotalSegmentCount": [2, 3, 1],
    }


def test_names_come_from_the_official_vocabulary(tmp_path):
    official = tmp_path / "vocabulary.csv"
    official.write_text(
        "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl\n"
        '20,5,/m/020,"Guitar, electric",https://en.wikipedia.org\n7,6,/m/07,None,\n1,9,/m/01,Game,\n'
    )
    table = derive_vocabulary(index_videos(tmp_path, RATED), official)
    assert table["Index"].tolist() == [7, 20, 3000]
    assert table["Name"].tolist() == ["None", "Guitar, electric", "label 3000"]
    assert table["KnowledgeGraphId"].tolist() == ["/m/07", "/m/020", ""]


def test_a_saved_table_loads_as_the_same_vocabulary(tmp_path):
    table = derive_vocabulary(index_videos(tmp_path, RATED), None)
    path = save_vocabulary(table, tmp_path)
    assert path == tmp_path / VOCABULARY_FILE
    assert path.read_text().splitlines()[:2] == [
        "Index,KnowledgeGraphId,Name,PositiveSegmentCount,TotalSegmentCount",
        "7,,label 7,0,2",
    ]
    vocabulary = load_vocabulary(tmp_path)
    assert len(vocabulary) == 3
    assert vocabulary.labels.tolist() == [7, 20, 3000]
    assert vocabulary.names == ("label 7", "label 20", "label 3000")
    pd.testing.assert_frame_equal(pd.read_csv(path, keep_default_na=False), table, check_dtype=False)


@pytest.mark.parametrize(
    "content", ["Index\n31\n30\n", "Index;Name\r\n31;a\r\n30;b\r\n", "\ufeffName,Index\na,31\n,30\n"]
)
def test_any_order_and_dialect_is_taken_and_the_row_is_the_class(content, tmp_path):
    (tmp_path / VOCABULARY_FILE).write_text(content, encoding="utf-8", newline="")
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.labels.tolist() == [31, 30]
    assert vocabulary.classes(np.array([30, 31, 29])).tolist() == [1, 0, -1]


def test_blank_names_are_shown_as_their_labels():
    assert Vocabulary(np.array([5, 2]), (" ", "b ")).names == ("label 5", "b")


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.permutations(range(7)), st.permutations(range(7)))
def test_vocabularies_of_the_same_labels_are_mapped_by_label(first, second):
    ids = np.array([31, 30, 7, 9, 100, 4, 5])
    one, other = (Vocabulary(ids[list(order)], ("",) * 7, name) for order, name in ((first, "one"), (second, "other")))
    assert other.labels[one.rows_in(other)].tolist() == one.labels.tolist()


def test_other_labels_are_refused_by_name():
    one = Vocabulary(np.array([1, 2, 3]), ("a", "b", "c"), "one")
    other = Vocabulary(np.array([3, 9, 1]), ("c", "z", "a"), "other")
    with pytest.raises(UserError) as caught:
        one.rows_in(other)
    assert str(caught.value) == "other: other classes than those of one: only other has 9 (z); only one has 2 (b)"


def test_names_that_look_like_missing_values_stay_names(tmp_path):
    (tmp_path / VOCABULARY_FILE).write_text("Index,Name\n1,NA\n2,nan\n5,12\n")
    assert load_vocabulary(tmp_path).names == ("NA", "nan", "12")


def test_no_ratings_is_an_error_naming_the_folder(tmp_path):
    index = index_videos(tmp_path, [[make_video(0, 9, (9,))]])
    with pytest.raises(UserError, match="no record has segment ratings") as caught:
        derive_vocabulary(index, None)
    assert str(index.folder) in str(caught.value)


def test_a_missing_file_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="prepare_vocabulary") as caught:
        load_vocabulary(tmp_path)
    assert str(tmp_path / VOCABULARY_FILE) in str(caught.value)


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "expected a header with the columns Index"),
        ("Label,Name\n1,a\n", "expected a header with the columns Index, found 'Label,Name'"),
        ("Index,Name\n", "no row below the header"),
        ("Index,Name\n1,a\ntwo,b\n", "line 3: Index 'two' is not a label id; expected in column Index distinct"),
        ("Index,Name\n1,a\n,b\n", "line 3: Index '' is not a label id"),
        ("Index,Name\n1.5,a\n2,b\n", "line 2: Index '1.5' is not a label id"),
        ("Index,Name\n1,a\n2,c\n1,b\n", "line 4: Index 1 is on line 2 already"),
        ("Index,Name\n-1,a\n1,b\n", "line 2: Index '-1' is not a label id"),
        ("Index,Name\n99999999999,a\n", "line 2: Index '99999999999' is not a label id"),
        ("Index,Name\n1,a\n2,b,c,d\n", "line 3: expected 2 fields"),
        ("Index,Name\n1,\xe9\n", "not UTF-8"),
    ],
)
def test_a_malformed_file_is_an_error_naming_it(content, said, tmp_path):
    (tmp_path / VOCABULARY_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        load_vocabulary(tmp_path)
    assert str(tmp_path / VOCABULARY_FILE) in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, said", [(None, "no such file"), ("", "expected a header"), ("Index,Name\n7,a\n", "expected a header")]
)
def test_a_malformed_official_vocabulary_is_an_error_naming_it(content, said, tmp_path):
    official = tmp_path / "vocabulary.csv"
    if content is not None:
        official.write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        derive_vocabulary(index_videos(tmp_path, RATED), official)
    assert str(official) in str(caught.value)

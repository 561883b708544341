"""A folder of labelled pictures: what is in it, and which class a folder's name means."""

import pytest

from hotpool.errors import BadLabels
from hotpool.labelled import find_classes, read_labelled

LABELS = ("cat", "dog", "crane", "7", "crane")


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_every_file_below_a_class_is_a_picture_but_hidden_ones(tmp_path):
    fill(tmp_path, "dog/b.png", "cat/2.jpg", "cat/1.jpg", "cat/deep/er.webp", "cat/.DS_Store", "cat/.cache/x", ".git/x")
    fill(tmp_path, "README")
    found = read_labelled(tmp_path)
    assert [(name, str(path.relative_to(tmp_path))) for name, path in found.pictures] == [
        ("cat", "cat/1.jpg"), ("cat", "cat/2.jpg"), ("cat", "cat/deep/er.webp"), ("dog", "dog/b.png"),
    ]  # fmt: skip
    assert len(found) == 4


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "has no folders in it; expected is a folder for each class"),
        (["1.jpg", "2.jpg"], "has no folders in it; expected is a folder for each class"),
        (["cat/.hidden", "dog/.hidden"], "has 2 folders and no picture in any of them"),
    ],
)
def test_a_folder_without_labelled_pictures_is_refused_with_the_layout_that_is_expected(names, said, tmp_path):
    fill(tmp_path, *names)
    with pytest.raises(BadLabels, match=said) as caught:
        read_labelled(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_is_not_there_or_is_a_file_is_refused(tmp_path):
    fill(tmp_path, "file")
    for name in ("none", "file"):
        with pytest.raises(BadLabels, match=f"{name} can't be read: .*expected is a folder for each class"):
            read_labelled(tmp_path / name)


def test_a_folder_is_named_by_a_label_or_else_by_an_index():
    assert find_classes(["dog", "0", "004", "7"], LABELS, "v1") == {"dog": 1, "0": 0, "004": 4, "7": 3}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dogs", "folder 'dogs': version v1 has no such class; .* an index from 0 to 4; did you mean 'dog'?"),
        ("5", "folder '5': version v1 has no such class"),
        ("-1", "folder '-1': version v1 has no such class"),
        ("crane", "folder 'crane': in version v1 classes 2 and 4 have this label; name it by the index"),
    ],
)
def test_a_name_that_is_no_class_or_more_than_one_is_refused(name, said):
    with pytest.raises(BadLabels, match=said):
        find_classes([name], LABELS, "v1")


@pytest.mark.parametrize(("n", "few"), [(4, 3), (300, 3), (1000, 10)])
def test_a_few_pictures_may_be_unreadable(n, few, tmp_path):
    fill(tmp_path, *(f"cat/{i}" for i in range(n)))
    assert read_labelled(tmp_path).may_be_unreadable == few

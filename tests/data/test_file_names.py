import pytest

from ltcli.core.errors import DataError
from ltcli.data.file_names import find_shards


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def refused(root):
    with pytest.raises(DataError) as caught:
        find_shards(root, (".npz", ".csv"))
    return [str(caught.value), caught.value.hint]


def test_the_start_of_a_name_says_the_part(tmp_path):
    names = ["train-00001-of-2.npz", "train-00000-of-2.npz", "train.csv", "README.md"]
    names += ["deep/validation-0.npz", "val_1.npz", "test.npz"]
    touch(tmp_path, *names)
    shards = find_shards(tmp_path, (".npz", ".csv"))
    assert {part: [path.name for path in paths] for part, paths in shards.items()} == {
        "train": ["train-00000-of-2.npz", "train-00001-of-2.npz", "train.csv"],
        "val": ["validation-0.npz", "val_1.npz"],
        "test": ["test.npz"],
    }


def test_links_and_hidden_files_are_passed_over(tmp_path):
    root = tmp_path / ".hidden" / "data"
    touch(root, "train.csv", ".ipynb_checkpoints/train-checkpoint.csv", "__MACOSX/train.csv")
    (root / "train-copy.csv").symlink_to(root / "train.csv")
    assert find_shards(root, (".csv",)) == {"train": [root / "train.csv"]}


def test_one_file_is_the_training_part_whatever_its_name(tmp_path):
    touch(tmp_path, "test.npz")
    assert find_shards(tmp_path / "test.npz", (".npz",)) == {"train": [tmp_path / "test.npz"]}


def test_what_says_no_part_is_refused(tmp_path):
    root = tmp_path / "none"
    assert refused(root) == [f"{root}: no such file or folder", "name the data set with --root"]
    line = f"{tmp_path}: must hold a file train*.npz or train*.csv, got none"
    assert refused(tmp_path) == [line, None]
    touch(tmp_path, "a.txt", "testing.npz")
    assert refused(tmp_path / "a.txt") == [
        f"{tmp_path}/a.txt: suffix must be one of .npz, .csv",
        None,
    ]
    rule = "file name must start with train, validation, val or test"
    assert refused(tmp_path) == [f"{tmp_path}/testing.npz: {rule}", "rename the file"]

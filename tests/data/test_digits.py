import numpy as np
import pytest
import torch
from sklearn import datasets

from ltcli.core.errors import DataError
from ltcli.data.digits import PATH, load_digits


def test_the_digits_are_those_of_scikit_learn_in_order():
    pool, original = load_digits(), datasets.load_digits()
    assert (pool.train.data.dtype, pool.train.data.shape) == (torch.uint8, (1797, 8, 8, 3))
    assert (pool.train.labels.dtype, pool.train.labels.tolist()) == (
        torch.int64,
        original.target.tolist(),
    )
    for channel in range(3):
        assert (pool.train.data[..., channel].numpy() == np.rint(original.images * 255 / 16)).all()
    assert pool.class_names == tuple("0123456789")
    assert pool.val is None
    assert pool.test is None


def test_ink_is_scaled_to_the_full_range():
    values = load_digits().train.data.unique().tolist()
    assert values == [round(ink * 255 / 16) for ink in range(17)]


def test_a_changed_file_is_refused(tmp_path):
    content = bytearray(PATH.read_bytes())
    content[-1] ^= 1
    path = tmp_path / "digits.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_digits(path)
    assert str(caught.value).startswith(f"{path}: sha256 must be 2368626786ff..., got ")
    assert caught.value.hint == "install ltcli again"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        load_digits(tmp_path / "digits.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/digits.safetensors: cannot be read: no such file or directory"
    )
    assert caught.value.hint == "install ltcli again"


def test_the_licence_note_is_beside_the_file():
    note = PATH.with_suffix(".md").read_text()
    for word in ("Alpaydin", "Kaynak", "10.24432/C50P49", "CC BY 4.0", "scikit-learn"):
        assert word in note

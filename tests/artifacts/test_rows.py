import os

import pytest
import torch

from ltcli.artifacts.rows import is_finite
from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ArtifactError

ORDERS = [[0], [4, 1, 3], [0, 1, 2, 3, 4], [2, 2, 1], [3, 4, 0, 1], []]


def saved(path, **tensors):
    state = {f"state.{name}": tensor for name, tensor in tensors.items()}
    facts = {"parameters": {}, "inputs": {}, "info": {"position": 0}}
    save(path, "checkpoint", state, stage="here", **facts)
    return path


@pytest.mark.parametrize("index", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_rows_are_those_of_the_loaded_tensor(tmp_path, dtype, index):
    # A tensor before it whose size is no multiple of 8.
    whole = torch.arange(30).reshape(5, 2, 3).to(dtype)
    path = saved(tmp_path / "a.safetensors", before=torch.zeros(3, dtype=torch.bool), whole=whole)
    with open_artifact(path) as artifact:
        rows = artifact.rows("state.whole")
        found = rows[torch.tensor(index, dtype=torch.int64)]
    assert rows.shape == whole.shape
    assert found.dtype == dtype
    assert torch.equal(found, whole[index])


def test_rows_that_follow_each_other_are_read_at_once_and_no_others(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.safetensors", whole=torch.randn(100, 4))
    with open_artifact(path) as artifact:
        rows, sizes, real = artifact.rows("state.whole"), [], os.preadv

        def noted(descriptor, buffers, position):
            sizes.append(len(buffers[0]))
            return real(descriptor, [buffers[0][:20]], position)  # as a signal would cut it

        monkeypatch.setattr(os, "preadv", noted)
        found = rows[torch.tensor([7, 8, 9, 50])]
        monkeypatch.undo()
        assert torch.equal(found, artifact.tensor("state.whole")[[7, 8, 9, 50]])
    assert sizes == [48, 28, 8, 16]


def test_rows_come_from_the_file_that_was_verified(tmp_path):
    path = saved(tmp_path / "a.safetensors", whole=torch.zeros(2, 2))
    with open_artifact(path) as artifact:
        saved(path, whole=torch.ones(2, 2))
        assert not artifact.rows("state.whole")[torch.tensor([0, 1])].any()


def test_a_missing_tensor_a_shortened_file_and_nan_are_named(tmp_path):
    path = saved(tmp_path / "a.safetensors", whole=torch.zeros(2, 2))
    with open_artifact(path) as artifact:
        with pytest.raises(ArtifactError) as caught:
            artifact.rows("state.other")
        assert str(caught.value) == f"{path}: has no tensor state.other"
        rows, size = artifact.rows("state.whole"), path.stat().st_size
        with path.open("r+b") as file:
            file.seek(size - 4)
            file.write(b"\xff\xff\xff\x7f")
        with pytest.raises(ArtifactError) as caught:
            rows[torch.tensor([1])]
        assert str(caught.value) == f"{path}: state.whole must be finite, got NaN or infinity"
        os.truncate(path, size - 8)
        with pytest.raises(ArtifactError) as caught:
            rows[torch.tensor([1])]
        assert str(caught.value) == f"{path}: cannot be read: it has become shorter"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(dtype, value):
    for position in (0, 50, 99):
        tensor = torch.linspace(-1, 1, 100).to(dtype).reshape(10, 10)
        assert is_finite(tensor)
        tensor.view(-1)[position] = value
        assert not is_finite(tensor)


def test_no_values_and_whole_numbers_are_finite():
    assert is_finite(torch.zeros(0, 3))
    assert is_finite(torch.tensor([2**62]))

import json
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltcli.artifacts.header import verify
from ltcli.artifacts.store import locked, open_artifact, save
from ltcli.core.errors import ArtifactError, NumericalError, ResourceError

SAVED = {
    "bool": torch.tensor([[True, False], [False, True]]),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "int8": torch.tensor([-128, 0, 127], dtype=torch.int8),
    "int16": torch.tensor([[-(2**15)], [2**15 - 1]], dtype=torch.int16),
    "int32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "float16": torch.tensor([6e-8, -0.0, 65504.0], dtype=torch.float16),
    "bfloat16": torch.tensor([1e-40, -0.0, 3e38], dtype=torch.bfloat16),
    "float32": torch.tensor([1e-45, -0.0, 3.4e38]),
    "float64": torch.tensor([[[5e-324, -0.0, 1.7e308]]], dtype=torch.float64),
    "one number": torch.tensor(3.5),
    "no rows": torch.zeros(0, 7),
    "no columns": torch.zeros(7, 0, dtype=torch.int64),
}


def save_state(path: Path, tensors: dict[str, torch.Tensor], **position: object) -> str:
    """Save the kind whose tensors may have any name, dtype and shape."""
    return save(
        path,
        "checkpoint",
        {f"state.{name}": tensor for name, tensor in tensors.items()},
        stage="pretrain",
        parameters={"lr": 0.1, "epochs": 5},
        inputs={"split": "5" * 64},
        info={"position": position},
    )


def names_in(folder: Path) -> list[str]:
    """Return the files of a folder, without locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


@pytest.mark.parametrize("name", SAVED)
def test_a_tensor_comes_back_bit_by_bit(out, name):
    save_state(out, {"t": SAVED[name]})
    with open_artifact(out) as artifact:
        back = artifact.tensor("state.t")
    assert (back.dtype, back.shape) == (SAVED[name].dtype, SAVED[name].shape)
    assert (
        back.numpy(force=True).tobytes() == SAVED[name].numpy().tobytes()
        if (back.dtype is not torch.bfloat16)
        else torch.equal(back.view(torch.int16), SAVED[name].view(torch.int16))
    )

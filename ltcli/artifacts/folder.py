"""The artifacts of a folder, by name."""

import os
from pathlib import Path

from ltcli.artifacts.header import Header, read_header
from ltcli.core.errors import ArtifactError, cause


def list_folder(folder: Path) -> list[Path]:
    """Return the files of a folder that have an artifact's suffix, in order of their names.

    Raises:
        ArtifactError: There is no such folder, or it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except FileNotFoundError:
        hint = "name the folder that holds the artifacts"
        raise ArtifactError(folder, "no such folder", hint) from None
    except OSError as error:
        raise ArtifactError(folder, f"cannot be read: {cause(error)}") from None
    return [folder / name for name in names if name.endswith(".safetensors")]


def read_folder(folder: Path, hint: str) -> list[Header]:
    """Return the headers of all artifacts of a folder, in order of their names.

    Args:
        folder: The folder.
        hint: Remedy for a file that is not a sound artifact.

    Raises:
        ArtifactError: The folder cannot be read, or a file is not a sound artifact.
    """
    paths = list_folder(folder)
    try:
        return [read_header(path) for path in paths]
    except ArtifactError as error:
        raise ArtifactError(error.where, error.message, hint) from None

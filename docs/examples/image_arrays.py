"""Images in one npz file: ``images`` uint8 [N, H, W, 3] and ``labels``, whole numbers [N]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.core.errors import DataError
from ltcli.data.source_table import Request

if TYPE_CHECKING:
    from ltcli.data.pool import Pool


def read(request: Request) -> Pool:
    """Return the images of the file.

    Raises:
        DataError: The file lacks one of the two arrays.
    """
    import numpy as np
    import torch

    from ltcli.data.pool import Part, Pool

    with np.load(request.root, allow_pickle=False) as arrays:
        missing = {"images", "labels"} - set(arrays)
        if missing:
            raise DataError(request.root, f"must hold {' and '.join(sorted(missing))}, got none")
        images = torch.from_numpy(arrays["images"])
        labels = torch.from_numpy(arrays["labels"]).long()
    names = tuple(str(label) for label in range(int(labels.max()) + 1))
    # split checks dtypes, shapes and labels, and cuts validation and test images.
    return Pool(names, Part(images, labels))

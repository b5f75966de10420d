"""What a source hands to ``split``: all its images in memory, and the rules they must keep."""

from dataclasses import dataclass

import torch

from ltcli.core.errors import DataError


@dataclass(frozen=True)
class Pool:
    """Everything a source offers, before any of it is cut.

    Args:
        images: uint8 [N, H, W, 3], RGB of the training images.
        labels: int64 [N], class of each training image, 0..C-1.
        class_names: Name of each class, in label order, all different.
        test_images: uint8 [M, H, W, 3]; None where the source has no test part of its own, and
            ``split`` cuts one.
        test_labels: int64 [M], 0..C-1; None together with ``test_images``.
        files: Relative path of each training image, then of each test image, with ``/``; empty
            where images are not files of their own.
        skipped: One line ``path: reason`` for each file left out.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    test_images: torch.Tensor | None
    test_labels: torch.Tensor | None
    files: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def check(pool: Pool, where: object) -> None:
    """Refuse a pool that cannot be split, trained on or scored.

    Args:
        pool: What a source gave.
        where: The source or its folder, for the message.

    Raises:
        DataError: Fewer than two classes, equal class names, no images, a class without images,
            labels out of range, or tensors that do not fit each other.
    """
    if len(pool.class_names) < 2:
        raise DataError(where, f"number of classes must be at least 2, got {len(pool.class_names)}")
    repeated = [name for name in pool.class_names if pool.class_names.count(name) > 1]
    if repeated:
        raise DataError(where, f"class names must all be different, got '{repeated[0]}' twice")
    _check_part(pool.images, pool.labels, pool.class_names, where, "training")
    num_images = len(pool.images)
    if (pool.test_images is None) != (pool.test_labels is None):
        raise DataError(where, "test images and test labels must come together, got one of them")
    if pool.test_images is not None and pool.test_labels is not None:
        _check_part(pool.test_images, pool.test_labels, pool.class_names, where, "test")
        num_images += len(pool.test_images)
        if pool.test_images.shape[1:] != pool.images.shape[1:]:
            size, test_size = list(pool.images.shape[1:]), list(pool.test_images.shape[1:])
            raise DataError(where, f"test images must be {size} like the others, got {test_size}")
    if pool.files and len(pool.files) != num_images:
        raise DataError(where, f"files must be one per image, got {len(pool.files)}")


def _check_part(
    images: torch.Tensor,
    labels: torch.Tensor,
    class_names: tuple[str, ...],
    where: object,
    part: str,
) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        shape = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        raise DataError(where, f"{part} images must be uint8 [N, H, W, 3], got {shape}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        shape = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
        raise DataError(where, f"{part} labels must be int64 [{len(images)}], got {shape}")
    if images.numel() == 0:
        raise DataError(where, f"number of {part} images must be at least 1, got 0")
    num_classes = len(class_names)
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        rule = f"{part} labels must be from 0 to {num_classes - 1}, got {int(outside[0])}"
        raise DataError(where, rule)
    empty = (torch.bincount(labels, minlength=num_classes) == 0).nonzero().flatten().tolist()
    if empty:
        raise DataError(
            where,
            f"class '{class_names[empty[0]]}' must have at least 1 {part} image, got 0",
            "leave out classes without images",
        )

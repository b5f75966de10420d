"""The 1,797 UCI hand-written digits that come with ltcli, so that everything can be tried offline.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository 1998, doi 10.24432/C50P49, CC BY 4.0; see digits.md.
"""

import hashlib
from pathlib import Path

import safetensors.torch
import torch

from ltcli.core.errors import DataError, cause
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import Request

PATH = Path(__file__).with_name("digits.safetensors")
SHA256 = "2368626786ff35f80b63c9e5aefbf839091368ee2e6274f3cc17d63b184883fb"
LARGEST = 16


def read(_request: Request) -> Pool:
    """Return the digits; they have no options."""
    return load_digits()


def load_digits(path: Path = PATH) -> Pool:
    """Return the digits as grey images uint8 [1797, 8, 8, 3] and labels int64 [1797].

    Ink v of 0..16 becomes round(255 v / 16) in all channels. There is no test part.

    Raises:
        DataError: The file is missing or is not the one that was shipped.
    """
    hint = "install ltcli again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read: {cause(error)}", hint) from error
    # Results on the digits are compared between machines, so the file must be the shipped one.
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise DataError(path, f"sha256 must be {SHA256[:12]}..., got {digest[:12]}...", hint)
    tensors = safetensors.torch.load(content)
    # Adding half of the divisor rounds: the only tie, v = 8, goes up to 128, the even neighbour.
    grey = (tensors["images"].int() * 255 + LARGEST // 2) // LARGEST
    images = grey.to(torch.uint8)[..., None].repeat(1, 1, 1, 3)
    names = tuple(str(digit) for digit in range(10))
    return Pool(names, Part(images, tensors["labels"].long()))

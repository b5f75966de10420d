"""Derive independent seeds from what they are for."""

import hashlib
import json


def derive(*parts: int | str) -> int:
    """Return a seed that depends on every part, their order and their types, and on nothing else.

    The parts are written as a JSON list (ASCII, no spaces) and hashed with SHA-256; the seed is the
    first 63 bits of the digest. Python's own hash() is not used, so the seed is the same in every
    process, on every machine and in every version: this recipe must never change.

    Args:
        *parts: The purpose in words first, then numbers such as seed and epoch.

    Returns:
        A seed from 0 to 2^63 - 1. Generators that keep 32 bits take the low ones, which are as
        well mixed as the rest.
    """
    text = json.dumps(list(parts), ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> 1

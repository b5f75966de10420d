"""Independent seeds, derived from their purpose."""

import hashlib
import json


def derive(*parts: int | str) -> int:
    """Seed, 0 ... 2^63 - 1, that depends on the parts, their order and their types alone.

    The parts are the purpose in words, then numbers such as seed and epoch. They are written as a
    JSON list (ASCII, no spaces) and hashed with SHA-256; the seed is the first 63 bits.
    """
    # This recipe must never change: old runs could not be repeated. hash() differs by process.
    text = json.dumps(list(parts), ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).digest()
    # 63 bits fit a signed int64; generators that keep 32 take the low ones, as well mixed.
    return int.from_bytes(digest[:8], "big") >> 1

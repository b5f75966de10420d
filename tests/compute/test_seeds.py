import hashlib

import pytest

from ltcli.compute.seeds import derive


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        ((), 2858069222894195974),
        (("order", 0, 0), 9015108255360037751),
        (("order", 0, 1), 5946387489172317919),
        (("é", -1, 2**70), 4625721200662358168),
    ],
)
def test_seeds_never_change(parts, seed):
    assert derive(*parts) == seed


def test_a_seed_is_the_first_63_bits_of_the_digest_of_the_json():
    digest = hashlib.sha256(b'["order",0,1]').hexdigest()
    assert derive("order", 0, 1) == int(digest[:16], 16) // 2


def test_every_part_its_place_and_its_type_count():
    calls = [(), (1,), ("1",), (1, 2), (2, 1), (12,), ("1", "2"), ("1,2",), ("",), ("", "")]
    assert len({derive(*parts) for parts in calls}) == len(calls)


def test_seeds_fill_63_bits_and_no_more():
    seeds = [derive("a", number) for number in range(1000)]
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62
    assert len({seed % 2**32 for seed in seeds}) == 1000

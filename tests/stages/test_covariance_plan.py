import pytest

from ltcli.core.errors import ParamError, ResourceError
from ltcli.stages.covariance_plan import memory_of, planned

COUNTS = [5, 3, 1, 0]


def test_sizes_by_hand():
    # A vector of 4 features has 16 bytes; there are 4 classes, and 4 + 3 + 1 rows.
    plan = planned("low-rank", "4GB", 2, COUNTS, 4)
    assert plan.sizes == {
        "full": 64 + 16 * 4 * 4,
        "factor": 64 + 16 * (4 + 3 + 1),
        "low-rank": 64 + 16 * (2 + 2 + 1) + 64,
        "diagonal": 64 + 64,
    }


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4e9), ("512MB", 5.12e8), ("1.5KB", 1500), ("2TB", 2e12)]
)
def test_memory_is_read_in_powers_of_ten(text, size):
    assert memory_of(text) == size


@pytest.mark.parametrize(
    "text", ["4", "4 GB", "GB", "4gb", "4GiB", "-4GB", "1e3MB", "4GB ", ".5GB"]
)
def test_memory_written_otherwise_is_refused(text):
    with pytest.raises(ParamError) as caught:
        memory_of(text)
    expected = f"covariances: memory must be a size such as 4GB or 512MB, got {text}"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("memory", "form", "rank"),
    [
        ("0.32KB", "full", None),
        ("0.319KB", "factor", None),
        ("0.192KB", "factor", None),
        ("0.191KB", "low-rank", 1),
        ("0.176KB", "low-rank", 1),
        ("0.175KB", "diagonal", None),
        ("0.128KB", "diagonal", None),
    ],
)
def test_auto_takes_the_most_exact_form_that_fits(memory, form, rank):
    plan = planned("auto", memory, None, COUNTS, 4)
    assert (plan.form, plan.rank) == (form, rank)


def test_auto_takes_the_factor_where_there_are_many_features():
    assert planned("auto", "4GB", None, [300] * 10, 256).form == "full"
    assert planned("auto", "4GB", None, [300] * 10, 257).form == "factor"


def test_the_sizes_of_inaturalist_are_known_before_anything_is_allocated():
    counts = [1000] * 200 + [57] * 7942
    plan = planned("auto", "4GB", None, counts, 768)
    assert plan.form == "factor"
    assert plan.sizes["full"] == 4 * 8142 * 768 * 769
    assert plan.table[0] == ["full", "19,234.4 MB", "exact", "too large"]
    assert plan.table[1] == ["factor", "1,887.5 MB", "exact", "chosen"]
    low = planned("auto", "1GB", None, counts, 768)
    assert (low.form, low.sizes["low-rank"] <= 1e9) == ("low-rank", True)
    assert planned("low-rank", "9GB", low.rank + 1, counts, 768).sizes["low-rank"] > 1e9


@pytest.mark.parametrize(
    ("form", "hint"),
    [("auto", "raise --memory"), ("full", "raise --memory, or use --form auto")],
)
def test_what_does_not_fit_is_refused(form, hint):
    with pytest.raises(ResourceError) as caught:
        planned(form, "0.1KB", None, COUNTS, 4)
    kind, size = ("diagonal", "1.28e-07") if form == "auto" else ("full", "3.2e-07")
    rule = f"{kind} covariances of 4 classes must take at most 0.1KB, got {size} GB"
    assert (str(caught.value), caught.value.hint) == (f"covariances: {rule}", hint)


def test_a_rank_of_another_form_is_refused():
    with pytest.raises(ParamError) as caught:
        planned("auto", "4GB", 3, COUNTS, 4)
    assert str(caught.value) == "covariances: rank needs --form low-rank, got auto"

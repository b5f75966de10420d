import numpy as np
import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ParamError, ResourceError
from ltcli.stages.covariances import memory_of, planned

COUNTS = [5, 3, 1, 0]


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def made(ltcli, folder, form, *options):
    out = folder / f"{form}.safetensors"
    assert ltcli("covariances", "--form", form, *options, "--out", out, "-d", folder).code == 0
    return tensors_of(out)


@pytest.mark.parametrize(("divisor", "ddof"), [("n-1", 1), ("n", 0)])
def test_every_form_agrees_with_numpy_on_the_dumped_features(ltcli, copy, divisor, ddof):
    bank = tensors_of(copy / "dump-features.safetensors")
    features, labels = bank["train.features"].double().numpy(), bank["train.labels"].numpy()
    full, diagonal, factor = (
        made(ltcli, copy, form, "--divisor", divisor) for form in ("full", "diagonal", "factor")
    )
    offsets = factor["offsets"].tolist()
    assert offsets[0] == 0
    assert offsets[-1] == len(factor["rows"])
    for c in range(10):
        own = features[labels == c]
        expected = np.cov(own, rowvar=False, ddof=ddof)
        scale = np.abs(expected).max()
        rows = factor["rows"][offsets[c] : offsets[c + 1]].double().numpy()
        np.testing.assert_allclose(full["full"][c].numpy(), expected, atol=1e-5 * scale)
        np.testing.assert_allclose(rows.T @ rows, expected, atol=1e-5 * scale)
        variances = np.diag(expected)
        np.testing.assert_allclose(diagonal["diagonal"][c].numpy(), variances, atol=1e-5 * scale)
        for tensors in (full, diagonal, factor):
            np.testing.assert_allclose(
                tensors["means"][c].numpy(), own.mean(0), rtol=1e-5, atol=1e-6
            )
            assert tensors["counts"][c] == len(own)


def test_the_header_says_which_form_and_where_it_comes_from(chain):
    header = read_header(chain / "covariances.safetensors")
    assert header.info["form"] == "full"
    assert header.info["single_image_classes"] == 0
    assert header.info["model"] == read_header(chain / "pretrain.safetensors").digest
    assert header.tensors["full"] == ("F32", (10, 64, 64))


def test_classes_with_one_image_are_reported_and_have_no_spread(ltcli, copy):
    bank = copy / "dump-features.safetensors"
    with open_artifact(bank) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    labels = tensors["train.labels"]
    first = (labels == 3).nonzero()[0]
    keep = (labels != 3) | (torch.arange(len(labels)) == first)
    for name in ("features", "labels"):
        tensors[f"train.{name}"] = tensors[f"train.{name}"][keep]
    del tensors["train.views"], tensors["train.maps"]
    counts = tensors["train.labels"].bincount(minlength=10).tolist()
    info = header.info | {"class_counts": counts}
    facts = {"parameters": header.parameters, "inputs": header.inputs, "info": info}
    save(bank, "features", tensors, stage="dump-features", **facts)
    for form in ("full", "diagonal", "factor"):
        out = copy / f"{form}.safetensors"
        done = ltcli("covariances", "--form", form, "--out", out, "-d", copy)
        assert done.code == 0
        assert "covariances: zero for 1 class with one image: 3" in done.err
        assert read_header(out).info["single_image_classes"] == 1
    assert tensors_of(copy / "full.safetensors")["full"][3].eq(0).all()
    assert tensors_of(copy / "diagonal.safetensors")["diagonal"][3].eq(0).all()
    factor = tensors_of(copy / "factor.safetensors")
    start, stop = factor["offsets"][3:5].tolist()
    assert factor["rows"][start:stop].eq(0).all()


def test_the_most_exact_form_that_fits_is_made_and_the_others_are_shown(ltcli, copy):
    out = copy / "o.safetensors"
    done = ltcli("covariances", "--memory", "60KB", "--out", out, "-d", copy)
    assert done.code == 0
    header = read_header(out)
    rank, counts = header.info["rank"], header.info["class_counts"]
    assert header.info["form"] == "low-rank"
    size = sum(tensors_of(out)[name].nbytes for name in ("means", "rows", "diagonal"))
    assert size <= 60_000 < size + 4 * 64 * sum(n > rank for n in counts)
    exact = "exact".ljust(len(f"rank {rank}"))
    assert done.err.splitlines()[1:6] == [
        f"  full      0.2 MB  {exact}  too large",
        f"  factor    0.1 MB  {exact}  too large",
        f"  low-rank  0.1 MB  rank {rank}  chosen",
        "  diagonal  0.0 MB",
        f"covariances: rank {rank}, mean relative error {header.info['relative_error']:.2g}",
    ]


def test_the_low_rank_form_has_the_error_that_its_header_says(ltcli, copy):
    exact = made(ltcli, copy, "full")["full"].double()
    tensors = made(ltcli, copy, "low-rank", "--rank", "4")
    rows = torch.split(tensors["rows"].double(), tensors["offsets"].diff().tolist())
    found = torch.stack([part.T @ part for part in rows])
    found += torch.diag_embed(tensors["diagonal"].double())
    errors = torch.linalg.matrix_norm(found - exact) / torch.linalg.matrix_norm(exact)
    said = read_header(copy / "low-rank.safetensors").info["relative_error"]
    assert said == pytest.approx(float(errors.mean()), rel=1e-4)
    assert 0.01 < said < 1


def test_every_form_trains_isda_and_risda(ltcli, copy):
    short = ("--epochs", "1", "--batch-size", "512")
    for form in ("factor", "low-rank", "diagonal"):
        out = copy / f"{form}.safetensors"
        assert ltcli("covariances", "--form", form, "--out", out, "-d", copy).code == 0
        for method in (("risda",), ("isda", "--source", "artifact")):
            own = ("--covariances", out, "--out", copy / "o.safetensors", "--force")
            done = ltcli("finetune", "--method", *method, *short, *own, "-d", copy)
            assert done.code == 0, done.err


def test_a_form_that_takes_too_much_is_refused_before_any_work(ltcli, copy):
    done = ltcli("covariances", "--form", "full", "--memory", "0.1MB", "-d", copy)
    rule = "full covariances of 10 classes must take at most 0.1MB, got 0.000166 GB"
    hint = "raise --memory, or use --form auto"
    assert (done.code, done.lines) == (6, [f"error: covariances: {rule}", f"hint: {hint}"])
    done = ltcli("covariances", "--memory", "4 gigs", "-d", copy)
    message = "covariances: memory must be a size such as 4GB or 512MB, got 4 gigs"
    assert (done.code, done.lines) == (2, [f"error: {message}"])
    done = ltcli("covariances", "--rank", "4", "-d", copy)
    message = "covariances: rank needs --form low-rank, got auto"
    assert (done.code, done.lines) == (2, [f"error: {message}"])


def test_estimating_again_gives_the_same_bytes(ltcli, copy):
    path = copy / "covariances.safetensors"
    before = path.read_bytes()
    assert ltcli("covariances", "--force", "-d", copy).code == 0
    assert path.read_bytes() == before


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
    ("form", "hint"), [("auto", "raise --memory"), ("full", "raise --memory, or use --form auto")]
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

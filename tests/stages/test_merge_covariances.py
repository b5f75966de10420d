import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save

FORMS = ("full", "diagonal", "factor")


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def part(bank, out, keep, split):
    """A bank of some of the training images, as one of another split of the same model."""
    with open_artifact(bank) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    del tensors["train.views"], tensors["train.maps"]
    for name in ("features", "labels"):
        tensors[f"train.{name}"] = tensors[f"train.{name}"][keep]
    counts = torch.bincount(tensors["train.labels"], minlength=10).tolist()
    info = header.info | {"split": split, "class_counts": counts}
    facts = {"parameters": header.parameters, "inputs": header.inputs, "info": info}
    save(out, "features", tensors, stage="dump-features", **facts)


@pytest.fixture
def parts(copy):
    """Banks of two parts, interleaved; class 9 is in the first alone, class 8 in the second."""
    bank = copy / "dump-features.safetensors"
    labels = tensors_of(bank)["train.labels"]
    first = torch.rand(len(labels), generator=torch.Generator().manual_seed(1)) < 0.3
    first[labels == 9], first[labels == 8] = True, False
    part(bank, copy / "a.safetensors", first, "a" * 64)
    part(bank, copy / "b.safetensors", ~first, "b" * 64)
    return copy


def summarised(ltcli, folder, name, *options):
    """Covariances of a bank."""
    out = folder / f"covariances-{name}.safetensors"
    named = ("--features", folder / f"{name}.safetensors", "--out", out)
    assert ltcli("covariances", *named, *options, "-d", folder).code == 0
    return out


def merged(ltcli, folder, first, other, *options):
    out = folder / "merged.safetensors"
    named = ("--covariances", first, "--other", other, "--out", out)
    return ltcli("merge-covariances", *named, *options, "-d", folder), out


def matrices(path):
    """What a file's form stands for, [C, D, D] or variances [C, D]."""
    tensors, form = tensors_of(path), read_header(path).info["form"]
    if form in ("full", "diagonal"):
        return tensors[form].double()
    rows = torch.split(tensors["rows"].double(), tensors["offsets"].diff().tolist())
    total = torch.stack([part.T @ part for part in rows])
    if form == "low-rank":
        total += torch.diag_embed(tensors["diagonal"].double())
    return total


@pytest.mark.parametrize("divisor", ["n-1", "n"])
@pytest.mark.parametrize("form", FORMS)
def test_merged_parts_have_the_moments_of_all_images(ltcli, parts, form, divisor):
    options = ("--form", form, "--divisor", divisor)
    whole = summarised(ltcli, parts, "dump-features", *options)
    pair = [summarised(ltcli, parts, name, *options) for name in "ab"]
    done, out = merged(ltcli, parts, *pair, "--divisor", divisor)
    assert done.code == 0, done.err
    expected, found = matrices(whole), matrices(out)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6
    one, both = tensors_of(whole), tensors_of(out)
    torch.testing.assert_close(both["means"], one["means"], rtol=1e-6, atol=1e-6)
    assert torch.equal(both["counts"], one["counts"])
    if form == "factor":
        assert torch.equal(both["offsets"], one["offsets"])


def test_merged_factors_can_be_made_low_rank(ltcli, parts):
    options = ("--form", "low-rank", "--rank", "5")
    whole = summarised(ltcli, parts, "dump-features", *options)
    pair = [summarised(ltcli, parts, name, "--form", "factor") for name in "ab"]
    done, out = merged(ltcli, parts, *pair, "--rank", "5")
    assert done.code == 0, done.err
    expected, found = matrices(whole), matrices(out)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6
    error = read_header(whole).info["relative_error"]
    assert 0.01 < error < 1
    assert read_header(out).info["relative_error"] == pytest.approx(error, rel=1e-5)


def test_the_header_names_both_and_merging_goes_on(ltcli, parts):
    pair = [summarised(ltcli, parts, name) for name in "ab"]
    done, out = merged(ltcli, parts, *pair)
    assert done.code == 0, done.err
    header, whole = read_header(out), read_header(parts / "covariances.safetensors")
    assert header.inputs == {
        "covariances": read_header(pair[0]).digest,
        "other": read_header(pair[1]).digest,
    }
    assert header.info["splits"] == ["a" * 64, "b" * 64]
    assert header.info["split"] is None
    for fact in ("class_counts", "class_names", "model", "form"):
        assert header.info[fact] == whole.info[fact]
    again = parts / "again.safetensors"
    done = ltcli("merge-covariances", "--other", out, "--out", again, "-d", parts)
    assert done.code == 0, done.err
    assert len(read_header(again).info["splits"]) == 3
    assert tensors_of(again)["counts"].tolist() == [2 * n for n in whole.info["class_counts"]]


def test_merged_covariances_train_a_classifier_of_the_whole(ltcli, parts):
    pair = [summarised(ltcli, parts, name) for name in "ab"]
    _, out = merged(ltcli, parts, *pair)
    short = ("--epochs", "1", "--batch-size", "512", "-d", parts)
    done = ltcli("finetune", "--method", "risda", "--covariances", out, *short)
    assert done.code == 0, done.err


def test_the_same_parts_give_the_same_bytes(ltcli, parts):
    pair = [summarised(ltcli, parts, name) for name in "ab"]
    _, out = merged(ltcli, parts, *pair)
    before = out.read_bytes()
    done, _ = merged(ltcli, parts, *pair, "--force")
    assert (done.code, out.read_bytes()) == (0, before)


def assert_wrong(done, code, message, hint):
    assert (done.code, done.lines) == (code, [f"error: {message}", f"hint: {hint}"])


def test_what_cannot_be_merged_is_refused(ltcli, parts):
    first = summarised(ltcli, parts, "a")
    done = ltcli("merge-covariances", "-d", parts)
    message = "merge-covariances: other must be given"
    assert_wrong(done, 2, message, "name it with --other")

    done, _ = merged(ltcli, parts, first, first)
    message = f"{first}: must come from other images than {first}, got the same split"
    assert_wrong(done, 3, message, "merge covariances of disjoint splits")

    other = summarised(ltcli, parts, "b", "--form", "low-rank", "--rank", "2")
    done, _ = merged(ltcli, parts, first, other)
    message = f"{other}: form must be exact to be merged, got low-rank"
    assert_wrong(done, 3, message, "merge factors, with --rank")

    other = summarised(ltcli, parts, "b", "--form", "diagonal")
    done, _ = merged(ltcli, parts, first, other)
    message = f"{other}: form must be full, as in {first}, got diagonal"
    assert_wrong(done, 3, message, "make both with one --form")

    other = summarised(ltcli, parts, "b")
    done, _ = merged(ltcli, parts, first, other, "--rank", "3")
    message = f"{first}: form must be factor for --rank, got full"
    assert_wrong(done, 3, message, "make both with --form factor")

    other = summarised(ltcli, parts, "b", "--divisor", "n")
    done, _ = merged(ltcli, parts, first, other)
    message = f"{other}: divisor must be n-1, got n"
    assert_wrong(done, 3, message, "make both with one --divisor, and name it")


def test_parts_from_other_epochs_of_the_model_are_refused(ltcli, parts):
    with open_artifact(parts / "b.safetensors") as artifact:
        header, tensors = artifact.header, artifact.load("*")
    known = {"parameters": header.parameters, "inputs": header.inputs}
    info = header.info | {"epoch": 2}
    save(parts / "c.safetensors", "features", tensors, stage="dump-features", info=info, **known)
    first, other = (summarised(ltcli, parts, name) for name in "ac")
    done, _ = merged(ltcli, parts, first, other)
    message = f"{other}: must come from the same epoch of the model as {first}"
    assert_wrong(done, 3, message, "use one --from-epoch in dump-features")

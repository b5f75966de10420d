"""diagnose: what is measured from which inputs, and refusal of what does not belong."""

import shutil

import pytest
import torch
from PIL import Image

from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.cli.main import run
from ltcli.compute.seeds import derive
from ltcli.data.batches import ImageBatches
from ltcli.engine.infer import features_of
from ltcli.models.generator import load_generator
from ltcli.models.network import load_network
from ltcli.stages.diagnosis_tables import read
from ltcli.stats.confusion import class_graph
from ltcli.stats.covariance_forms import estimate
from ltcli.stats.diagnosis import divergences

CPU = torch.device("cpu")
APART = "make both from the same artifacts, or name others"
ISDA = ("finetune", "--method", "isda", "--epochs", "1")


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def saved_again(path, out, *, parameters=None, **info):
    """Save an artifact once more, with some parameters and metadata exchanged."""
    with open_artifact(path) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    save(
        out,
        header.kind,
        tensors,
        stage=header.stage,
        parameters=header.parameters | (parameters or {}),
        inputs=header.inputs,
        info=header.info | info,
    )
    return out


def inputs_in(folder):
    """Every optional input of diagnose, by option."""
    files = {
        "confusion": "confusion",
        "generator": "stg-train",
        "learned": "finetune-isda",
        "oracle": "oracle",
        "before": "evaluate-pretrain",
        "after": "evaluate-finetune-crt",
        "split": "split",
    }
    return {role: folder / f"{stem}.safetensors" for role, stem in files.items()}


def options(folder, *roles):
    named = inputs_in(folder)
    return [word for role in roles or named for word in (f"--{role}", str(named[role]))]


@pytest.fixture(scope="module")
def folder(chain, tmp_path_factory):
    """The tiny chain with everything that diagnose reads, and a diagnosis of it all."""
    target = tmp_path_factory.mktemp("diagnose") / "chain"
    shutil.copytree(chain, target)
    common = ["-q", "-d", str(target)]
    full, oracle = str(target / "full.safetensors"), str(target / "oracle.safetensors")
    assert run([*ISDA, *common]) == 0
    assert run(["split", "digits", "--imbalance-factor", "1", "--out", full, *common]) == 0
    dump = ["dump-features", "--split", full, "--other-split", "--precision", "fp32"]
    assert run([*dump, "--out", oracle, *common]) == 0
    assert run(["diagnose", *options(target), *common]) == 0
    return target


@pytest.fixture
def own(folder, tmp_path):
    """A copy of this folder that a test may change."""
    return shutil.copytree(folder, tmp_path / "own")


@pytest.fixture(scope="module")
def made(folder):
    return tensors_of(folder / "diagnose.safetensors")


def read_in(folder):
    return read(read_header(folder / "diagnose.safetensors"))


@pytest.fixture(scope="module")
def found(folder):
    return read_in(folder)


# What is measured.


def test_features_alone_are_enough_and_give_what_needs_no_more(ltcli, copy):
    done = ltcli("diagnose", "-d", copy)
    assert done.code == 0, done.err
    header = read_header(copy / "diagnose.safetensors")
    assert list(header.inputs) == ["features"]
    parts = {name.split(".")[0] for name in header.tensors}
    assert parts == {"tail", "smallest", "spectrum", "samples", "neighbours", "donors"}
    assert set(read(header).neighbours()) == {"real", "gaussian"}
    assert "captured" not in done.out
    assert "KL divergence" not in done.out


def test_spectra_are_those_of_the_covariances_artifact(folder, made, found):
    full = tensors_of(folder / "covariances.safetensors")["full"].double()
    for c in range(10):
        expected = torch.linalg.eigvalsh(full[c]).flip(0)
        torch.testing.assert_close(made["spectrum.estimated"][c], expected, atol=1e-5, rtol=1e-4)
        trace = found.covariances()["trace"]["estimated"][c]
        assert trace == pytest.approx(float(full[c].trace()), rel=1e-5)


def test_learned_spectra_are_those_that_the_run_kept(folder, made):
    model = tensors_of(folder / "finetune-isda.safetensors")
    expected = torch.linalg.eigvalsh(model["method.covariances"].double()).flip(1)
    torch.testing.assert_close(made["spectrum.learned"], expected, atol=1e-6, rtol=1e-5)
    # One pass over the features: the population covariance of almost the same features.
    assert tables_close(made["spectrum.learned"], made["spectrum.estimated"])


def tables_close(one, other):
    return bool(((one - other).abs().sum(1) < 0.35 * other.sum(1)).all())


def test_the_oracle_is_of_the_balanced_images_as_the_model_sees_them(folder, made):
    model, split = folder / "pretrain.safetensors", folder / "full.safetensors"
    with open_artifact(model) as network, open_artifact(split) as images:
        backbone = backbone_of(network.header)
        batches = ImageBatches(images.tensor("train.images"), backbone.mean, backbone.std, CPU)
        labels = images.tensor("train.labels")
        features = features_of(load_network(network, CPU), batches, torch.float32)
    assert tuple(read_header(split).info["mean"]) != backbone.mean
    full = estimate(features, labels, 10, "full", ddof=1).tensors["full"].double()
    expected = torch.linalg.eigvalsh(full).flip(1)
    torch.testing.assert_close(made["spectrum.oracle"], expected, atol=1e-4, rtol=1e-3)


def test_the_oracle_captures_most_of_itself(found):
    captured = found.covariances()["captured"]
    for which in ("estimated", "learned"):
        for share, best in zip(captured[which], captured["oracle"], strict=True):
            assert 0 <= share <= best + 1e-9 <= 1 + 2e-9


def test_an_oracle_that_is_the_bank_itself_is_no_different(ltcli, own):
    bank = own / "dump-features.safetensors"
    assert ltcli("diagnose", "--oracle", bank, "-d", own, "--force").code == 0
    table = read_in(own).covariances()
    assert table["angle"]["estimated-oracle"] == pytest.approx([0] * 10, abs=1e-3)
    assert table["captured"]["estimated"] == pytest.approx(table["captured"]["oracle"])
    assert table["trace"]["estimated"] == table["trace"]["oracle"]


def test_confusion_is_counted_from_predictions(folder, made, found):
    for name, stem in (("before", "evaluate-pretrain"), ("after", "evaluate-finetune-crt")):
        predictions = tensors_of(folder / f"{stem}.safetensors")
        graph = class_graph(predictions["logits"].argmax(1), predictions["labels"], 10)
        assert torch.equal(made[f"confusion.{name}"], graph)
    head = torch.ones(10, dtype=torch.bool)
    head[made["tail"]] = False
    expected = made["confusion.after"][~head][:, head].sum(1).mean()
    assert found.errors()["after"]["rates"]["tail-head"] == pytest.approx(float(expected))
    assert found.predictions["after"] == {"on": "test", "method": "crt"}


def test_samples_are_of_the_smallest_classes_and_augmented_ones_follow_their_image(folder, made):
    bank = tensors_of(folder / "dump-features.safetensors")
    counts = torch.bincount(bank["train.labels"])
    origin, labels, row = (made[f"samples.{name}"] for name in ("origin", "labels", "row"))
    assert torch.equal(labels, bank["train.labels"][row])
    real = made["samples.features"][origin == 0]
    assert torch.equal(real, bank["train.features"][row[origin == 0]])
    smallest = counts.argsort(stable=True)[:3].tolist()
    for number in (1, 2):
        assert set(labels[origin == number].tolist()) == set(smallest)
        count = int((origin == number).sum())
        assert torch.equal(row[origin == number], row[:count])
        assert not torch.equal(made["samples.features"][origin == number], real[:count])
    assert int((origin == 1).sum()) == int(counts[smallest].clamp(max=50).sum())


def test_the_smallest_classes_come_first(ltcli, own):
    counts = torch.tensor(read_header(own / "dump-features.safetensors").info["class_counts"])
    for number in (1, 2):
        assert ltcli("diagnose", "--smallest", number, "-d", own, "--force").code == 0
        assert read_in(own).smallest == counts.argsort(stable=True)[:number].tolist()


def test_gaussian_features_have_their_own_class_s_covariance(folder, made):
    bank = tensors_of(folder / "dump-features.safetensors")
    own = bank["train.features"], bank["train.labels"]
    factors = estimate(*own, 10, "factor", ddof=1).tensors
    rows, offsets = factors["rows"], factors["offsets"]
    for c in made["smallest"].tolist():
        mine = made["samples.labels"] == c
        real, drawn = (
            made["samples.features"][mine & (made["samples.origin"] == n)] for n in (0, 1)
        )
        seed = derive("diagnose-gaussian", 0, c)
        noise = torch.randn(len(real), int(offsets[c + 1] - offsets[c]), generator=of(seed))
        expected = real + 0.5**0.5 * noise @ rows[offsets[c] : offsets[c + 1]]
        torch.testing.assert_close(drawn, expected)


def of(seed):
    return torch.Generator().manual_seed(seed)


def test_with_mask_0_the_generator_changes_nothing(ltcli, own):
    assert (
        ltcli("diagnose", *options(own, "generator"), "--mask", 0, "-d", own, "--force").code == 0
    )
    found = tensors_of(own / "diagnose.safetensors")
    origin, features = found["samples.origin"], found["samples.features"]
    count = int((origin == 1).sum())
    assert torch.equal(features[origin == 2], features[:count])
    assert not torch.equal(features[origin == 1], features[:count])


def test_divergences_are_of_predictions_with_the_nearest_head_s_token(folder, made):
    sample = made["divergences.sample"]
    with open_artifact(folder / "stg-train.safetensors") as artifact:
        generator = load_generator(artifact, CPU)
    features = made["samples.features"][sample]
    mean, variance = generator(features, generator.nearest_head(features))
    torch.testing.assert_close(made["divergences"], divergences(mean, variance))


def test_without_strength_augmented_features_are_the_real_ones(ltcli, own):
    none = ("--strength", "0", "--stg-strength", "0")
    assert ltcli("diagnose", *options(own, "generator"), *none, "-d", own, "--force").code == 0
    found, shares = tensors_of(own / "diagnose.safetensors"), read_in(own).neighbours()
    origin, features = found["samples.origin"], found["samples.features"]
    count = int((origin == 1).sum())
    for number in (1, 2):
        assert torch.equal(features[origin == number], features[:count])
    assert shares["real"] == shares["gaussian"] == shares["generator"]


def test_neighbours_leave_the_own_image_out_and_shares_add_up(folder, made, found):
    labels = tensors_of(folder / "dump-features.safetensors")["train.labels"]
    assert not (made["neighbours.row"] == made["samples.row"].unsqueeze(1)).any()
    assert torch.equal(made["neighbours.labels"], labels[made["neighbours.row"]])
    assert (made["neighbours.distances"].diff(dim=1) >= 0).all()
    for by_class in found.neighbours().values():
        for shares in by_class:
            assert shares["own"] + shares["head"] + shares["tail"] == pytest.approx(1)
    mine = (made["samples.origin"] == 2) & (made["samples.labels"] == found.smallest[0])
    own = made["neighbours.labels"][mine] == found.smallest[0]
    share = found.neighbours()["generator"][0]
    assert share["own"] == pytest.approx(float(own.double().mean()))
    assert share["first"] == pytest.approx(float(own[:, 0].double().mean()))


def test_divergences_are_of_the_real_samples(made, found):
    sample, matrix = made["divergences.sample"], made["divergences"]
    assert (made["samples.origin"][sample] == 0).all()
    assert matrix.shape == (len(sample), len(sample))
    labels, heads = made["samples.labels"][sample], made["samples.head"][sample]
    c = found.smallest[0]
    values = [
        float(matrix[i, j])
        for i in range(len(sample))
        for j in range(len(sample))
        if i != j and labels[i] == labels[j] == c and heads[i] == heads[j]
    ]
    expected = None if not values else pytest.approx(sum(values) / len(values))
    assert found.divergences()[0]["within"] == expected
    assert found.divergences()[0]["images"] == int((labels == c).sum())


def test_donors_of_each_method_have_rows_of_1(folder, made):
    for name in ("risda", "feature-fusion", "stg"):
        shares = made[f"donors.{name}"]
        assert shares.shape == (len(made["tail"]), 10)
        torch.testing.assert_close(shares.sum(1), torch.ones(len(shares), dtype=torch.float64))
    assert (made["donors.stg"][:, made["tail"]] == 0).all()
    # The artifact's three most confusing classes are the donors.
    top = tensors_of(folder / "confusion.safetensors")["top"][made["tail"]]
    assert (made["donors.feature-fusion"].gather(1, top) > 0).all()


def test_pictures_are_training_images(folder, made):
    images = tensors_of(folder / "split.safetensors")["train.images"]
    chosen = made["pictures.sample"]
    assert torch.equal(made["pictures.source"], images[made["samples.row"][chosen]])
    assert torch.equal(made["pictures.nearest"], images[made["neighbours.row"][chosen]])
    assert len(chosen) == 3 * 3 * 2


def test_the_same_again_is_up_to_date_and_forced_gives_the_same_bytes(ltcli, own):
    path = own / "diagnose.safetensors"
    before = path.read_bytes()
    done = ltcli("diagnose", *options(own), "-d", own)
    assert (done.code, done.err) == (0, "diagnose: up to date\n")
    assert ltcli("diagnose", *options(own), "-d", own, "--force").code == 0
    assert path.read_bytes() == before
    done = ltcli("diagnose", *options(own, "confusion"), "-d", own)
    assert done.err.startswith("diagnose: starting (after changed)")


def test_a_person_reads_every_table(ltcli, folder):
    lines = ltcli("diagnose", *options(folder), "-d", folder).out.splitlines()
    names = "trace: estimated learned oracle rank: estimated learned oracle"
    assert any(" ".join(line.split()).endswith(names) for line in lines)
    starts = ("covariances:", "leading directions:", "confusion on test", "nearest other")
    for start in (*starts, "KL divergence", "classes that lend"):
        assert sum(line.startswith(start) for line in lines) == 1, start
    (line,) = [line for line in lines if "tail taken for a head class" in line]
    table = read_in(folder).errors()
    before, after = (100 * table[name]["rates"]["tail-head"] for name in ("before", "after"))
    assert f"{before:.2f}" in line
    assert line.endswith(f"{after - before:+.2f}")
    # Each row of donors starts with the class that lends most.
    made, names = tensors_of(folder / "diagnose.safetensors"), read_in(folder).names
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("classes that lend")) :]
    for c, shares in zip(made["tail"].tolist(), made["donors.stg"], strict=True):
        (row,) = [row for row in rows[2:] if row.split()[0] == names[c]]
        assert f"  {names[int(shares.argmax())]} {100 * float(shares.max()):.0f}" in row


# What does not belong.


def assert_wrong(done, code, message, hint=None):
    assert done.code == code
    assert done.lines == [f"error: {message}", *([f"hint: {hint}"] if hint else [])]


def test_another_split_must_be_asked_for(ltcli, own):
    model, split = own / "pretrain.safetensors", own / "full.safetensors"
    done = ltcli("dump-features", "--split", split, "-d", own)
    message = f"dump-features: {model} belongs to another split than {split}"
    assert_wrong(done, 3, message, APART)
    # Whoever takes such features for those of the model's own split is told.
    done = ltcli(*ISDA, "--features", own / "oracle.safetensors", "-d", own, "--force")
    message = f"finetune: {own / 'oracle.safetensors'} belongs to another split than {model}"
    assert_wrong(done, 3, message, APART)


def test_another_split_must_have_the_same_classes(ltcli, own):
    model, split = own / "pretrain.safetensors", own / "turned.safetensors"
    names = list(reversed(read_header(model).info["class_names"]))
    saved_again(own / "full.safetensors", split, class_names=names)
    done = ltcli("dump-features", "--split", split, "--other-split", "-d", own)
    message = f"dump-features: {model} belongs to another list of classes than {split}"
    assert_wrong(done, 3, message, APART)


def test_another_split_must_have_the_model_s_image_size(ltcli, own):
    model = own / "pretrain.safetensors"
    record = {**read_header(model).info["backbone"], "image_size": [16, 8]}
    other = saved_again(model, own / "large.safetensors", backbone=record)
    done = ltcli("dump-features", "--model", other, "-d", own)
    message = f"{own / 'split.safetensors'}: "
    message += "must hold images of 16x8 pixels, as the model takes, got images of 8x8 pixels"
    assert_wrong(done, 3, message, "make the split as that of the model")


def test_an_oracle_of_another_model_is_refused(ltcli, own):
    other = saved_again(own / "oracle.safetensors", own / "o.safetensors", model="0" * 64)
    done = ltcli("diagnose", "--oracle", other, "-d", own)
    message = f"diagnose: {other} belongs to another model than {own / 'dump-features.safetensors'}"
    assert_wrong(done, 3, message, APART)


@pytest.mark.parametrize("role", ["confusion", "generator", "oracle"])
def test_statistics_of_another_epoch_are_refused(ltcli, own, role):
    other = saved_again(inputs_in(own)[role], own / "early.safetensors", epoch=1)
    done = ltcli("diagnose", f"--{role}", other, "-d", own)
    message = f"{other}: is of epoch 1, not of the last epoch"
    assert_wrong(done, 3, message, "--from-epoch must be the same in all")


def test_only_the_oracle_may_be_of_another_split(ltcli, own):
    oracle = own / "oracle.safetensors"
    done = ltcli("diagnose", "--features", oracle, *options(own, "confusion"), "-d", own)
    message = f"diagnose: {own / 'confusion.safetensors'} belongs to another split than {oracle}"
    assert_wrong(done, 3, message, APART)


def test_a_model_without_covariances_of_its_own_is_refused(ltcli, own):
    model = own / "finetune-crt.safetensors"
    done = ltcli("diagnose", "--learned", model, "-d", own)
    hint = "finetune keeps them for methods that learn them, such as isda and metasaug"
    assert_wrong(done, 3, f"{model}: holds no covariances of its run", hint)


def test_covariances_of_another_backbone_are_refused(ltcli, own):
    model, bank = own / "whole.safetensors", own / "dump-features.safetensors"
    saved_again(own / "finetune-isda.safetensors", model, parameters={"train": "all"})
    done = ltcli("diagnose", "--learned", model, "-d", own)
    message = f"{model}: has another backbone than the features of {bank}"
    assert_wrong(done, 3, message, "run dump-features on it, and name its features")
    # Features of that very model belong.
    assert ltcli("dump-features", "--model", model, "-d", own, "-q").code == 0
    assert ltcli("diagnose", "--learned", model, "-d", own, "-q").code == 0


def test_predictions_on_different_images_are_refused(ltcli, own):
    model = own / "finetune-crt.safetensors"
    assert ltcli("evaluate", "--on", "val", "--model", model, "-d", own).code == 0
    before, after = inputs_in(own)["before"], own / "evaluate-finetune-crt-on-val.safetensors"
    done = ltcli("diagnose", "--before", before, "--after", after, "-d", own)
    message = f"{after}: was made on other images than {before}"
    assert_wrong(done, 3, message, "name predictions of one test set")


def test_a_generator_of_other_head_classes_is_refused(ltcli, own):
    generator = inputs_in(own)["generator"]
    done = ltcli(
        "diagnose", *options(own, "generator"), "--head", "top-k", "--head-at", 2, "-d", own
    )
    assert_wrong(
        done, 3, f"{generator}: has other head classes", "it was trained with --head share"
    )
    given = saved_again(generator, own / "g.safetensors", parameters={"head_at": 0.5})
    done = ltcli("diagnose", "--generator", given, "-d", own)
    assert_wrong(
        done, 3, f"{given}: has other head classes", "it was trained with --head share 0.5"
    )


@pytest.mark.parametrize(
    ("name", "limit"), [("leading", 64), ("neighbours", 453), ("confusing", 9)]
)
def test_more_than_there_is_is_refused(ltcli, copy, name, limit):
    done = ltcli("diagnose", f"--{name}", limit + 1, "-d", copy)
    assert_wrong(done, 2, f"diagnose: {name} must be at most {limit}, got {limit + 1}")


def test_more_classes_than_the_tail_has_are_refused(ltcli, copy):
    done = ltcli("diagnose", "--smallest", 3, "--head", "top-k", "--head-at", 8, "-d", copy)
    assert_wrong(done, 2, "diagnose: smallest must be at most 2, got 3")


def test_without_a_number_it_takes_what_there_is(ltcli, copy, tmp_path):
    for c in range(2):
        for i in range(3):
            path = tmp_path / "photos" / "ab"[c] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (40 * i, 100 * c, 0)).save(path)
    split = ("split", "folder", "--root", tmp_path / "photos", "--image-size", 8)
    assert ltcli(*split, "--val-per-class", 0, "-d", tmp_path).code == 0
    for command in (("pretrain", "--epochs", 1), ("dump-features",), ("confusion",), ("diagnose",)):
        confusion = ("--confusion", tmp_path / "confusion.safetensors")
        options = confusion if command[0] == "diagnose" else ()
        done = ltcli(*command, *options, "-d", tmp_path)
        assert done.code == 0, done.err
    header = read_header(tmp_path / "diagnose.safetensors")
    assert header.parameters["smallest"] is None
    bank = read_header(tmp_path / "dump-features.safetensors")
    assert bank.size("train.features", 0) == 4
    assert header.size("neighbours.row", 1) == 3
    # What a bank has enough of is what was taken before.
    told = ("--leading", 5, "--smallest", 3, "--neighbours", 5, "--confusing", 3)
    for name, options in (("usual", ()), ("told", told)):
        out = copy / f"{name}.safetensors"
        assert ltcli("diagnose", *options, "--out", out, "-d", copy).code == 0
    usual, told = (tensors_of(copy / f"{name}.safetensors") for name in ("usual", "told"))
    assert usual.keys() == told.keys()
    assert all(usual[name].equal(told[name]) for name in usual)


def test_optional_inputs_are_read_only_if_they_are_named(ltcli, copy):
    shutil.copy(copy / "confusion.safetensors", copy / "oracle.safetensors")
    done = ltcli("diagnose", "--dry-run", "--json", "-d", copy)
    assert '"inputs": {"features": ' in done.out
    assert "oracle" not in done.out
    done = ltcli("diagnose", "--oracle", copy / "none.safetensors", "-d", copy)
    assert done.lines[0] == f"error: {copy / 'none.safetensors'}: no such artifact"
    text = " ".join(ltcli("diagnose", "--help").out.split())
    assert "Inputs, in --dir unless named: --features (feature bank) Inputs, read" in text
    named = text.partition("Inputs, read if named: ")[2].partition("Common: ")[0]
    assert named.startswith("--confusion (")
    assert "--after (predictions of the run)" in named

import pytest
import torch

from ltcli.artifacts.store import open_artifact


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def logits_of(bank, model):
    bank, model = tensors_of(bank), tensors_of(model)
    weight, bias = model["classifier.weight"], model["classifier.bias"]
    return bank["train.features"] @ weight.T + bias, bank["train.labels"]


def test_rows_sum_to_1_and_the_diagonal_is_the_recall(chain):
    made = tensors_of(chain / "confusion.safetensors")
    torch.testing.assert_close(made["graph"].sum(1), torch.ones(10))
    torch.testing.assert_close(made["scores"].sum(1), torch.ones(10))
    logits, labels = logits_of(chain / "dump-features.safetensors", chain / "pretrain.safetensors")
    predicted = logits.argmax(1)
    for c in range(10):
        own = labels == c
        recall = (predicted[own] == c).double().mean().item()
        assert made["graph"][c, c].item() == pytest.approx(recall)
        for other in range(10):
            share = (predicted[own] == other).double().mean().item()
            assert made["graph"][c, other].item() == pytest.approx(share)
        mean = logits[own].softmax(1).mean(0)
        torch.testing.assert_close(made["scores"][c], mean)


def test_a_bank_of_an_earlier_epoch_goes_with_the_classifier_of_that_epoch(ltcli, copy):
    model, bank = copy / "kept.safetensors", copy / "bank.safetensors"
    for command in (
        ("pretrain", "--backbone", "resnet20", "--epochs", "2", "--snapshots", "2", "--out", model),
        ("dump-features", "--model", model, "--from-epoch", "1", "--out", bank),
        ("confusion", "--model", model, "--features", bank, "--force"),
    ):
        assert ltcli(*command, "-d", copy).code == 0
    kept = tensors_of(model)
    position = kept["snapshots.epoch"].tolist().index(0)
    weight = kept["snapshots.classifier.weight"][position]
    bias = kept["snapshots.classifier.bias"][position]
    features, labels = (tensors_of(bank)[f"train.{name}"] for name in ("features", "labels"))
    scores = (features @ weight.T + bias).softmax(1)
    made = tensors_of(copy / "confusion.safetensors")
    assert not weight.equal(kept["classifier.weight"])
    for c in range(10):
        torch.testing.assert_close(made["scores"][c], scores[labels == c].mean(0))


def test_a_bank_of_another_model_is_refused(ltcli, copy):
    model = copy / "finetune-crt.safetensors"
    done = ltcli("confusion", "--model", model, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: confusion: {model} belongs to another model than {copy}/dump-features.safetensors",
        "hint: make both from the same artifacts, or name others",
    ]


@pytest.mark.parametrize("rank_by", ["scores", "graph"])
def test_the_most_confusing_classes_are_others_in_falling_order(ltcli, copy, rank_by):
    out = copy / "ranked.safetensors"
    command = ("confusion", "--top", "9", "--rank-by", rank_by, "--out", out, "-d", copy)
    assert ltcli(*command).code == 0
    made = tensors_of(out)
    for c in range(10):
        top = made["top"][c].tolist()
        assert sorted([*top, c]) == list(range(10))
        values = made[rank_by][c][top].tolist()
        assert values == sorted(values, reverse=True)


def test_a_person_reads_who_is_taken_for_whom(ltcli, copy):
    done = ltcli("confusion", "--top", "2", "--force", "-d", copy)
    top = tensors_of(copy / "confusion.safetensors")["top"]
    assert top.shape == (10, 2)
    for c, (first, second) in enumerate(top.tolist()):
        assert f"confusion: {c}  with {first}, {second}\n" in done.err


def test_more_classes_than_there_are_others_are_refused(ltcli, copy):
    done = ltcli("confusion", "--top", "10", "-d", copy)
    assert done.code == 2
    assert done.lines == ["error: confusion: top must be at most 9, got 10"]


def test_counting_again_gives_the_same_bytes(ltcli, copy):
    path = copy / "confusion.safetensors"
    before = path.read_bytes()
    assert ltcli("confusion", "--force", "-d", copy).code == 0
    assert path.read_bytes() == before

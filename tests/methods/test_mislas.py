import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.store import open_artifact
from ltcli.data.batches import Batch
from ltcli.methods.mislas import METHOD
from ltcli.stats.losses import label_aware, smoothing
from tests.methods.conftest import loss_and_run, planned

BATCH = Batch(0, 0, 0, torch.arange(6))
COUNTS = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])


@pytest.fixture
def case(rng):
    return torch.randn(6, 10, generator=rng), torch.tensor([0, 9, 3, 3, 5, 1])


def test_without_smoothing_it_is_cross_entropy(case):
    loss, _ = loss_and_run("mislas", COUNTS, "finetune", smooth_head=0.0)
    torch.testing.assert_close(loss(*case, BATCH), F.cross_entropy(*case, reduction="none"))


def test_a_constant_smoothing_is_ordinary_label_smoothing(case):
    given = {"smooth_head": 0.2, "smooth_tail": 0.2}
    loss, _ = loss_and_run("mislas", COUNTS, "finetune", **given)
    expected = F.cross_entropy(*case, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(loss(*case, BATCH), expected)


def test_a_sample_by_hand():
    logits = torch.tensor([[2.0, 0.0]]).log_softmax(1)
    value = label_aware(logits, torch.tensor([0]), torch.tensor([0.4, 0.0]))
    p = 1 / (1 + 2.718281828459045**-2)
    expected = -torch.tensor([p]).log() * 0.8 - torch.tensor([1 - p]).log() * 0.2
    torch.testing.assert_close(value, expected)


def test_smoothing_of_cifar_10_at_factor_100():
    expected = [0.3, 0.2414, 0.1578, 0.0960, 0.0563, 0.0320, 0.0173, 0.0085, 0.0031, 0]
    assert smoothing(COUNTS, 0.3, 0.0).tolist() == pytest.approx(expected, abs=1e-4)


def test_smoothing_is_between_its_ends_and_equal_classes_have_the_smaller():
    assert smoothing(torch.tensor([9, 1]), 0.4, 0.1).tolist() == pytest.approx([0.4, 0.1])
    assert smoothing(torch.tensor([5, 5]), 0.4, 0.1).tolist() == pytest.approx([0.1, 0.1])


def test_the_record_says_what_the_code_says():
    assert METHOD.defaults["finetune"] == {"sampler": "class-aware", "weight_decay": 2e-4}
    run = planned("mislas")
    head = METHOD.head(run.params.options, run)
    assert head.rates == {"weight": 0.5, "bias": 0.5}
    assert head.trainable == ("weight", "bias", "scales")
    assert head.start == "trained"


IMAGES = ("--data", "images", "--epochs", "1", "--lr", "1e-9")


def states(folder):
    with open_artifact(folder / "pretrain.safetensors") as before:
        old = before.load("backbone.*")
    with open_artifact(folder / "finetune-mislas.safetensors") as after:
        return old, after.load("backbone.*"), dict(after.header.tensors)


def test_the_statistics_of_batch_norms_stay(ltcli, copy):
    assert ltcli("finetune", "--method", "mislas", *IMAGES, "-d", copy).code == 0
    old, new, _ = states(copy)
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_or_follow_the_images_that_are_drawn(ltcli, copy):
    options = (*IMAGES, "--shift-bn", "--snapshots", "1")
    assert ltcli("finetune", "--method", "mislas", *options, "-d", copy).code == 0
    old, new, tensors = states(copy)
    moved = {name.rsplit(".", 1)[1] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"running_mean", "running_var", "num_batches_tracked"}
    # The kept epochs have them too.
    assert any(name.startswith("snapshots.backbone.") for name in tensors)


def test_statistics_cannot_follow_a_feature_bank(ltcli, copy):
    done = ltcli("finetune", "--method", "mislas", "--shift-bn", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: shift-bn must be off here",
        "hint: it needs --data images and --train classifier",
    ]


@pytest.mark.parametrize("option", [("--mixup", "1"), ("--shift-bn", "--data", "images")])
@pytest.mark.parametrize(
    ("method", "rule", "hint"),
    [
        ("isda", "must be off for isda", "it is for methods with a loss of logits"),
        ("ncm", "must not be given for ncm", "it solves for the classifier and trains nothing"),
    ],
)
def test_neither_is_for_methods_without_a_loss_of_logits(ltcli, copy, option, method, rule, hint):
    done = ltcli("finetune", "--method", method, *option, "-d", copy)
    assert done.code == 2
    assert done.lines == [f"error: finetune: {option[0][2:]} {rule}", f"hint: {hint}"]

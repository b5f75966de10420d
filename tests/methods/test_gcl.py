import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.store import open_artifact
from ltcli.data.batches import Batch
from ltcli.methods.gcl import METHOD
from ltcli.stats.losses import log_rarity
from tests.methods.conftest import loss_and_run, planned

COUNTS = torch.tensor([100, 10, 1])
BATCH = Batch(0, 3, 0, torch.arange(400))


def losses_of(logits, labels, *, counts=COUNTS, batch=BATCH, **given):
    return loss_and_run("gcl", counts, **given)[0](logits, labels, batch)


@pytest.fixture
def case(rng):
    return 30 * (2 * torch.rand(400, 3, generator=rng) - 1), torch.arange(400) % 3


def test_without_noise_margin_and_gamma_it_is_cross_entropy(case):
    expected = F.cross_entropy(*case, reduction="none")
    torch.testing.assert_close(losses_of(*case, cloud=0.0), expected, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_cloud_grows_with_rarity_and_leaves_the_largest_class_alone(scale):
    assert log_rarity(COUNTS).tolist() == pytest.approx([0, 0.5, 1])
    logits = torch.zeros(400, 3, requires_grad=True)
    losses_of(logits, torch.zeros(400, dtype=torch.int64), cloud=0.5, scale=scale).sum().backward()
    shares = -logits.grad
    # softmax of (0, -cloud, -cloud'): the first class keeps its logit.
    own, middle, rare = 1 - shares[:, 0], -shares[:, 1], -shares[:, 2]
    taken = torch.log(own / torch.stack([middle, rare])) / scale
    assert float(taken.min()) >= -1e-5
    assert float(taken[0].max()) <= 0.25 + 1e-5
    assert float(taken[1].max()) <= 0.5 + 1e-5
    # The mean of |e|, e of deviation 1/3, is sqrt(2 / pi) / 3; cutting off at 1 takes 3 in 1000.
    assert float(taken[1].mean()) == pytest.approx(0.5 * (2 / torch.pi) ** 0.5 / 3, rel=0.1)
    assert float(taken[0].mean()) == pytest.approx(float(taken[1].mean()) / 2, rel=0.15)


def test_noise_never_raises_a_logit(case):
    logits, labels = case
    # Lower logits of the others can only lower the loss of the largest class.
    biggest = torch.zeros_like(labels)
    assert (losses_of(logits, biggest) <= F.cross_entropy(logits, biggest, reduction="none")).all()


def test_the_margin_lowers_the_target_by_exactly_its_size(case):
    logits, labels = case
    lowered = logits - 20 * 0.1 * F.one_hot(labels, 3)
    expected = F.cross_entropy(lowered, labels, reduction="none")
    mine = losses_of(logits, labels, cloud=0.0, margin=0.1, scale=20.0)
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


def test_the_focal_factor_is_held_fixed(case):
    logits = (case[0] / 30).requires_grad_()
    plain = F.cross_entropy(logits, case[1], reduction="none")
    factor = (1 - torch.exp(-plain.detach())) ** 2
    mine = losses_of(logits, case[1], cloud=0.0, gamma=2.0)
    torch.testing.assert_close(mine, factor * plain, rtol=1e-5, atol=1e-6)
    expected = torch.autograd.grad((factor * plain).sum(), logits)[0]
    torch.testing.assert_close(torch.autograd.grad(mine.sum(), logits)[0], expected)


def test_noise_is_a_pure_function_of_seed_epoch_and_step(case):
    first = losses_of(*case)
    assert torch.equal(first, losses_of(*case))
    for other in ({"seed": 1}, {"batch": Batch(1, 3, 0, BATCH.rows)}):
        assert not torch.equal(first, losses_of(*case, **other))
    assert not torch.equal(first, losses_of(*case, batch=Batch(0, 4, 0, BATCH.rows)))


def test_equal_counts_have_no_noise(case):
    mine = losses_of(*case, counts=torch.tensor([7, 7, 7]))
    assert torch.equal(mine, F.cross_entropy(*case, reduction="none"))


def test_rarity_of_cifar_10_at_factor_100():
    counts = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
    expected = [0, 0.1111, 0.2223, 0.3334, 0.4447, 0.5556, 0.6667, 0.7780, 0.8899, 1]
    assert log_rarity(counts).tolist() == pytest.approx(expected, abs=1e-4)


def test_the_record_says_what_the_code_says():
    assert METHOD.defaults["pretrain"] == {"schedule": "gcl", "mixup": 1.0}
    second = METHOD.defaults["finetune"]
    assert (second["scale"], second["margin"], second["gamma"]) == (20.0, 0.1, 1.0)
    assert (second["epochs"], second["lr"], second["batch_size"]) == (30, 0.002, 64)
    run = planned("gcl")
    head = METHOD.head(run.params.options, run)
    assert (head.form, head.scale, head.trainable) == ("cosine", 20.0, ("weight",))


def test_a_linear_model_is_refused_before_any_work(ltcli, copy):
    done = ltcli("finetune", "--method", "gcl", "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {copy / 'pretrain.safetensors'}: classifier must be cosine, got linear",
        "hint: start from pretrain --method gcl, or another method with cosines",
    ]


def test_both_stages_one_after_the_other(ltcli, copy):
    model = copy / "gcl.safetensors"
    first = ("pretrain", "--method", "gcl", "--backbone", "resnet20", "--epochs", "1")
    assert ltcli(*first, "--out", model, "-d", copy).code == 0
    second = ("finetune", "--method", "gcl", "--epochs", "1", "--model", model)
    assert ltcli(*second, "-d", copy).code == 0
    with open_artifact(model) as before, open_artifact(copy / "finetune-gcl.safetensors") as after:
        assert after.header.info["classifier"] == "cosine"
        old, new = before.load("classifier.*"), after.load("classifier.*")
        body, same = before.load("backbone.*"), after.load("backbone.*")
    assert (new["scales"] == 20).all()
    assert not torch.equal(old["weight"], new["weight"])
    assert torch.equal(old["bias"], new["bias"])
    assert all(torch.equal(body[name], same[name]) for name in body)

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.store import open_artifact, save
from ltcli.models.generator import build_generator, load_generator

C, D = 4, 3
MEANS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
HEAD = torch.tensor([True, False, True, False])


def build(means=MEANS, head=HEAD, **changed):
    options = {"width": 5, "layers": 2, "token_std": 0.02, "seed": 0}
    return build_generator(means, head, **{**options, **changed})


def test_the_network_is_two_perceptrons_of_feature_plus_token(rng):
    generator = build(token_std=1.0).eval()
    features, classes = torch.randn(6, D, generator=rng), torch.tensor([0, 1, 2, 0, 1, 2])
    state = generator.state_dict()

    def perceptron(name, x):
        norm = [state[f"{name}.1.{part}"] for part in ("running_mean", "running_var")]
        affine = [state[f"{name}.1.{part}"] for part in ("weight", "bias")]
        x = F.linear(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"])
        x = F.relu((x - norm[0]) / (norm[1] + 1e-5).sqrt() * affine[0] + affine[1])
        return F.linear(x, state[f"{name}.3.weight"], state[f"{name}.3.bias"])

    inputs = features + state["tokens"][classes]
    mean, variance = generator(features, classes)
    torch.testing.assert_close(mean, perceptron("mean_mlp", inputs))
    expected = torch.log1p(perceptron("variance_mlp", inputs).exp())
    torch.testing.assert_close(variance, expected)
    assert (variance > 0).all()
    assert not generator(features, (classes + 1) % 3)[0].allclose(mean)


@pytest.mark.parametrize(("width", "layers"), [(5, 1), (5, 2), (7, 4)])
def test_parameters(width, layers):
    count = sum(parameter.numel() for parameter in build(width=width, layers=layers).parameters())
    hidden = layers - 1
    sizes = [D, *[width] * hidden, D]
    linear = sum(sizes[i] * sizes[i + 1] + sizes[i + 1] for i in range(layers))
    assert count == C * D + 2 * (linear + 2 * width * hidden)


def test_initial_weights_depend_on_the_seed_alone():
    one, same, other = (build(seed=seed).state_dict() for seed in (0, 0, 1))
    torch.manual_seed(7)
    again = build().state_dict()
    assert all(one[name].equal(same[name]) and one[name].equal(again[name]) for name in one)
    assert not one["tokens"].equal(other["tokens"])
    assert build_generator(
        torch.zeros(500, 40), torch.ones(500), width=4, layers=2, token_std=0.02, seed=0
    ).tokens.std().item() == pytest.approx(0.02, rel=0.02)


def test_the_nearest_class_is_a_head_class_by_cosine_or_distance():
    generator = build()
    features = torch.tensor([[0.0, 9.0, 1.0], [0.3, 5.0, 0.2], [-1.0, -2.0, -3.0]])
    # Class 1 would be nearest to the first two, but is not a head class.
    assert generator.nearest_head(features).tolist() == [2, 0, 0]
    assert generator.nearest_head(features, "euclidean").tolist() == [2, 0, 0]


def test_cosine_and_distance_differ_where_lengths_do():
    means = torch.tensor([[10.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    generator = build(means, torch.tensor([True, True, False]))
    features = torch.tensor([[2.0, 1.0]])
    assert generator.nearest_head(features).tolist() == [0]
    assert generator.nearest_head(features, "euclidean").tolist() == [1]


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_the_nearest_head_class_agrees_with_a_search_one_by_one(rng, similarity):
    means, features = torch.randn(2, 12, 8, generator=rng)
    head = torch.arange(12) % 3 != 1
    found = build(means, head).nearest_head(features, similarity)
    for feature, chosen in zip(features, found.tolist(), strict=True):
        scores = {}
        for h in head.nonzero().flatten().tolist():
            cosine = F.cosine_similarity(feature, means[h], dim=0).item()
            distance = (feature - means[h]).norm().item()
            scores[h] = cosine if similarity == "cosine" else -distance
        assert chosen == max(scores, key=scores.get)


def test_a_loaded_generator_is_frozen_and_in_eval_mode(chain):
    with open_artifact(chain / "stg-train.safetensors") as artifact:
        generator = load_generator(artifact, torch.device("cpu"))
        state = artifact.load("*")
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    loaded = generator.state_dict()
    assert loaded.keys() == state.keys()
    assert all(loaded[name].equal(state[name]) for name in state)


def test_tensors_of_other_sizes_than_named_are_refused(ltcli, copy):
    path = copy / "stg-train.safetensors"
    with open_artifact(path) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    save(
        path,
        "generator",
        tensors,
        stage=header.stage,
        parameters=header.parameters,
        inputs=header.inputs,
        info=header.info | {"width": 7},
    )
    done = ltcli("finetune", "--method", "stg", "-q", "-d", copy)
    assert done.code == 3
    assert done.lines == [f"error: {path}: its tensors do not fit 2 layers of width 7"]

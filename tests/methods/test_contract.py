"""What every method must keep, over the whole table."""

import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest
import torch

from ltcli import methods
from ltcli.artifacts.header import read_header
from ltcli.core.params import build, specs
from ltcli.engine.fit import Batch
from ltcli.methods import METHODS
from ltcli.methods import method as method_module
from ltcli.methods.method import Trained
from ltcli.models.classifier import Classifier
from ltcli.stages import STAGES

WITH_METHODS = {stage.name: stage for stage in STAGES if stage.has_methods}
# Options that every command has, by the name their value gets.
COMMON = {"dir", "folder", "out", "config", "device", "force", "dry_run", "json", "as_json"}
COMMON |= {"verbose", "quiet", "help"}
BATCH = Batch(0, 0, 0, torch.arange(6))
# Modules whose settings have the weighted mean of a stage.
WHERE_WEIGHTED = {"pretrain": "stages.fresh_setting", "finetune": "stages.setting"}
# Noise is drawn for the places of a batch: without it, samples do not depend on theirs.
STILL = {"gcl": {"cloud": 0.0}}
PAIRS = [(name, stage) for name, method in METHODS.items() for stage in method.stages]


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def method(name):
    return METHODS[name]


def module_of(name):
    return importlib.import_module(f"ltcli.methods.{name.replace('-', '_')}")


def test_each_method_is_a_file_of_its_name_with_a_test_file(name, method):
    assert module_of(name).METHOD is method
    assert Path(__file__).with_name(f"test_{name.replace('-', '_')}.py").exists()


def test_each_file_is_in_the_table():
    folder = Path(methods.__file__).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("*.py")}
    # method is the record, bilevel and refusals what some methods share.
    assert files - {"--init--", "method", "bilevel", "refusals"} == set(METHODS)


def test_docstring_and_record_name_the_source(name, method):
    doc = inspect.getdoc(module_of(name))
    if name == "cross-entropy":
        assert "maximum likelihood" in doc
    else:
        line = next(line for line in doc.splitlines() if line.startswith("Source: "))
        assert "arXiv" in doc[doc.index(line) :]
        assert "arXiv" in method.source
    assert method.summary
    assert method.source
    assert not method.summary.endswith(".")


def test_parameters_are_frozen_and_explained(method):
    assert dataclasses.is_dataclass(method.params)
    assert method.params.__dataclass_params__.frozen
    for spec in specs(method.params):
        assert spec.help
        assert not spec.required


def test_stages_are_known(method):
    assert method.stages
    assert set(method.stages) <= set(WITH_METHODS)


def test_a_loss_or_steps_or_a_solution_in_closed_form(method):
    if method.steps is None:
        assert method.loss is not None or method.solve is not None
    else:
        assert method.loss is None
        assert method.solve is None
    if "pretrain" in method.stages:
        assert method.loss is not None or method.steps is not None


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.solve])
def test_what_is_chosen_are_own_parameters(rng, name):
    labels = torch.arange(3).repeat_interleave(4)
    known = Trained(
        Classifier(5, 3),
        torch.tensor([40, 9, 3]),
        *(torch.randn(12, 5, generator=rng), labels),
        *(torch.randn(12, 5, generator=rng), labels),
    )
    params = METHODS[name].params()
    _, chosen = METHODS[name].solve(params, known)
    assert set(chosen) <= {field.name for field in dataclasses.fields(params)}


def test_what_is_trained_exists(method):
    trainable = method.head(method.params()).trainable
    assert trainable
    assert set(trainable) <= {"weight", "bias", "scales", "memory"}


def test_own_defaults_are_of_stages_and_parameters_that_the_method_has(name, method, options):
    assert set(method.defaults) <= set(method.stages)
    for stage, defaults in method.defaults.items():
        known = {spec.name for spec in specs(WITH_METHODS[stage].params) + specs(method.params)}
        assert set(defaults) <= known
        params = options(name, stage)
        assert {option: getattr(params, option) for option in defaults} == defaults


def test_own_defaults_are_those_of_the_stage():
    own = {"pretrain": {"beta": 0.9}, "finetune": {"beta": 0.5, "gamma": 2.0}}
    focal = dataclasses.replace(METHODS["focal"], defaults=own)
    found = {}
    for stage in ("pretrain", "finetune"):
        record = methods.with_options(WITH_METHODS[stage].params, focal, stage)
        params = build(record, {"method": "focal"}, stage)
        found[stage] = params.beta, params.gamma
    assert found == {"pretrain": (0.9, 1.0), "finetune": (0.5, 2.0)}


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_what_is_deferred_is_there(options, name, stage):
    params = options(name, stage)
    if getattr(params, "defer", 0):
        assert params.beta > 0 or params.sampler != "instance-balanced"
    else:
        assert not name.endswith(("-drw", "-drs"))


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_weights_and_a_sampler_take_the_prior_out_of_any_method(options, name, stage):
    method = METHODS[name]
    for given in ({"beta": 0.9}, {"sampler": "class-aware"}):
        assert methods.balances(method, options(name, stage, **given))
    plain = options(name, stage, beta=0.0, sampler="instance-balanced")
    assert methods.balances(method, plain) == method.balances(plain)


STEPPED = [(name, stage) for name, stage in PAIRS if METHODS[name].steps]


@pytest.mark.parametrize(("name", "stage"), STEPPED)
def test_steps_weigh_classes_or_refuse_to(ltcli, copy, monkeypatch, name, stage):
    used, original = [], method_module.weighted_mean

    def spied(*args):
        reduce = original(*args)

        def recorded(values, labels, batch, shares=None):
            used.append(values)
            return reduce(values, labels, batch, shares)

        return recorded

    monkeypatch.setattr(f"ltcli.{WHERE_WEIGHTED[stage]}.weighted_mean", spied)
    more = ("--method", name, "--beta", "0.99", "--epochs", "1", "--force", "-q", "-d", copy)
    done = ltcli(stage, *more, *(("--backbone", "resnet20") if stage == "pretrain" else ()))
    if done.code == 0:
        assert used
    else:
        assert done.code == 2
        assert done.lines[0] == f"error: {stage}: beta must be 0 for {name}, got 0.99"


@pytest.mark.parametrize("name", ["logit-adjustment", "tau-norm"])
@pytest.mark.parametrize(("tau", "balanced"), [("0", False), ("1", True)])
def test_what_changes_nothing_does_not_take_the_prior_out(ltcli, copy, name, tau, balanced):
    done = ltcli("finetune", "--method", name, "--tau", tau, "-q", "-d", copy)
    assert done.code == 0
    assert read_header(copy / f"finetune-{name}.safetensors").info["balanced"] is balanced


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.loss])
def test_loss_and_its_gradient_are_finite_and_the_gradient_is_not_zero(rng, options, name):
    method = METHODS[name]
    loss = method.loss(options(name, method.stages[0]), torch.tensor([1000, 30, 1]))
    for scale in (1.0, 100.0):
        logits = (scale * torch.randn(6, 3, generator=rng)).requires_grad_()
        values = loss(logits, torch.tensor([0, 0, 1, 1, 2, 2]), BATCH)
        assert values.shape == (6,)
        assert values.isfinite().all()
        values.mean().backward()
        assert logits.grad.isfinite().all()
        assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.loss])
def test_the_losses_are_of_samples_each_for_itself(rng, options, name):
    method = METHODS[name]
    params = options(name, method.stages[0], **STILL.get(name, {}))
    loss = method.loss(params, torch.tensor([1000, 30, 1]))
    logits, labels = torch.randn(6, 3, generator=rng), torch.tensor([0, 0, 1, 1, 2, 2])
    alone = [loss(logits[i : i + 1], labels[i : i + 1], BATCH) for i in range(6)]
    torch.testing.assert_close(loss(logits, labels, BATCH), torch.cat(alone))


@pytest.mark.parametrize(
    ("name", "stage"), [(name, stage) for name, stage in PAIRS if METHODS[name].loss]
)
def test_what_is_minimised_is_a_mean_over_the_batch(rng, objective, name, stage):
    loss = objective(name, [1000, 30, 1], stage, **STILL.get(name, {}))
    logits, labels = torch.randn(6, 3, generator=rng), torch.tensor([0, 0, 1, 1, 2, 2])
    for epoch in (0, 199):
        once = loss(logits, labels, epoch)
        twice = loss(torch.cat([logits, logits]), torch.cat([labels, labels]), epoch)
        assert once.shape == ()
        torch.testing.assert_close(twice, once)


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_options_do_not_hide_those_of_the_stage(options, name, stage):
    own = {spec.name for spec in specs(METHODS[name].params)}
    taken = {spec.name for spec in specs(WITH_METHODS[stage].params)} | COMMON
    taken |= {entry.name for entry in WITH_METHODS[stage].inputs}
    assert not own & taken
    method = METHODS[name]
    defaults = method.defaults.get(stage, {})
    changed = {option: value for option, value in defaults.items() if option in own}
    assert methods.options(method, options(name, stage)) == method.params(**changed)


def test_methods_that_share_an_option_agree_on_its_type():
    types = {}
    for method in METHODS.values():
        for spec in specs(method.params):
            assert types.setdefault(spec.name, spec.base) is spec.base


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_an_unknown_parameter_is_refused(ltcli, tmp_path, name, stage):
    config = tmp_path / "params.yaml"
    config.write_text(f"method: {name}\nepochz: 3\n")
    done = ltcli(stage, "--config", config, "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [
        f"error: {config}: no parameter 'epochz'",
        "hint: did you mean 'epochs'?",
    ]


def test_a_parameter_of_another_method_is_refused(ltcli, tmp_path):
    done = ltcli("finetune", "--method", "crt", "--tau", "1", "-d", tmp_path)
    assert done.code == 2
    assert done.lines[0] == "error: finetune: no parameter 'tau'"


def test_an_unknown_method_is_refused_with_the_nearest_name(ltcli, tmp_path):
    done = ltcli("finetune", "--method", "tau-nrom", "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: no method 'tau-nrom'",
        "hint: did you mean 'tau-norm'?",
    ]


def test_a_method_of_the_other_stage_is_refused(ltcli, tmp_path):
    done = ltcli("pretrain", "--method", "crt", "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [
        "error: pretrain: method crt is not one for pretrain",
        "hint: use finetune",
    ]

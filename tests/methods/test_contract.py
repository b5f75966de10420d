"""What every method must keep, over the whole table."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ltcli import methods
from ltcli.artifacts.header import read_header
from ltcli.core.params import specs
from ltcli.data.batches import Batch
from ltcli.engine import optimizers, steps
from ltcli.engine.graph import Recorded
from ltcli.methods import METHODS
from ltcli.methods.method import Method
from ltcli.methods.presets import PRESETS
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network, build_classifier, build_network
from ltcli.stages import STAGES
from ltcli.stages.training import make_steps, start_classifier
from tests.methods.conftest import (
    balances,
    loss_and_run,
    parameters,
    planned,
    solved,
    solving_run,
    training_run,
)

WITH_METHODS = {stage.name: stage for stage in STAGES if stage.has_methods}
# Options that every command has, by the name their value gets.
COMMON = {"dir", "folder", "out", "config", "device", "force", "dry_run", "json", "as_json"}
COMMON |= {"verbose", "quiet", "help"}
BATCH = Batch(0, 0, 0, torch.arange(6))
FUNCTIONS = [f.name for f in dataclasses.fields(Method) if f.type.startswith("Callable[")]
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
    file = "presets" if name in PRESETS else name.replace("-", "_")
    return importlib.import_module(f"ltcli.methods.{file}")


def test_each_method_is_in_a_file_with_a_test_file(name, method):
    module = module_of(name)
    assert (module.PRESETS[name] if name in PRESETS else module.METHOD) is method
    file = module.__name__.rpartition(".")[2]
    assert Path(__file__).with_name(f"test_{file}.py").exists()


def test_each_file_is_in_the_table():
    folder = Path(methods.__file__).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("*.py")}
    # method holds the record, options and bilevel what several methods share.
    shared = {"--init--", "method", "options", "bilevel", "presets"}
    assert files - shared == set(METHODS) - set(PRESETS)


def test_docstring_and_record_name_the_source(name, method):
    doc = inspect.getdoc(module_of(name))
    older = {"cross-entropy": "maximum likelihood", "lda": "Annals of Eugenics 1936"}
    if name in older:
        assert older[name] in doc
    else:
        line = next(line for line in doc.splitlines() if line.startswith("Source: "))
        assert "arXiv" in doc[doc.index(line) :]
        assert "arXiv" in method.source
        assert all(number in doc for number in re.findall(r"\d{4}\.\d{5}", method.source))
    assert method.summary
    assert method.source
    assert not method.summary.endswith(".")


def test_each_function_takes_the_options_and_the_run(method):
    assert {"loss", "steps", "solve", "balances", "head", "check"} <= set(FUNCTIONS)
    for function in FUNCTIONS:
        if getattr(method, function) is not None:
            taken = inspect.signature(getattr(method, function)).parameters
            # An underscore marks what a method has no use for.
            assert [name.lstrip("_") for name in taken] == ["options", "run"], function


def test_options_are_frozen_and_explained(method):
    assert dataclasses.is_dataclass(method.options)
    assert method.options.__dataclass_params__.frozen
    for spec in specs(method.options):
        assert spec.help
        assert not spec.required


def test_the_help_of_an_option_begins_with_what_it_sets(method):
    for spec in specs(method.options):
        assert not re.match(r"(of|which|what|by)\b", spec.help, re.IGNORECASE), spec.flag


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
    labels, counts = torch.arange(3).repeat_interleave(4), torch.tensor([40, 9, 3])
    train, val = ((torch.randn(12, 5, generator=rng), labels) for _ in range(2))
    run = solving_run(name, Classifier(5, 3), counts, train, val)
    _, chosen = solved(run)
    assert set(chosen) <= {field.name for field in dataclasses.fields(run.params.options)}


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_what_is_trained_exists(name, stage):
    run = planned(name, stage)
    trainable = METHODS[name].head(run.params.options, run).trainable
    assert trainable
    assert set(trainable) <= {"weight", "bias", "scales", "memory"}


def test_own_defaults_are_of_stages_and_parameters_that_the_method_has(name, method):
    assert set(method.defaults) <= set(method.stages)
    for stage, defaults in method.defaults.items():
        known = {spec.name for spec in specs(WITH_METHODS[stage].params) + specs(method.options)}
        assert set(defaults) <= known
        params = parameters(name, stage)
        values = vars(params) | vars(params.options)
        assert {parameter: values[parameter] for parameter in defaults} == defaults


def test_own_defaults_are_those_of_the_stage(monkeypatch):
    own = {"pretrain": {"beta": 0.9}, "finetune": {"beta": 0.5, "gamma": 2.0}}
    monkeypatch.setitem(METHODS, "focal", dataclasses.replace(METHODS["focal"], defaults=own))
    made = {stage: parameters("focal", stage) for stage in ("pretrain", "finetune")}
    found = {stage: (params.beta, params.options.gamma) for stage, params in made.items()}
    assert found == {"pretrain": (0.9, 1.0), "finetune": (0.5, 2.0)}


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_what_is_deferred_is_there(name, stage):
    run = planned(name, stage)
    if run.deferred:
        assert run.params.beta > 0 or run.params.sampler != "instance-balanced"
    else:
        assert not name.endswith(("-drw", "-drs"))


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_weights_and_a_sampler_take_the_prior_out_of_any_method(name, stage):
    for given in ({"beta": 0.9}, {"sampler": "class-aware"}):
        assert balances(name, stage, **given)
    plain = {"beta": 0.0, "sampler": "instance-balanced"}
    run = planned(name, stage, **plain)
    assert balances(name, stage, **plain) == METHODS[name].balances(run.params.options, run)


STEPPED = [(name, stage) for name, stage in PAIRS if METHODS[name].steps]


@pytest.mark.parametrize(("name", "stage"), STEPPED)
def test_steps_weigh_classes_or_refuse_to(ltcli, copy, monkeypatch, name, stage):
    used, original = [], steps.weighted_mean

    def spied(*args):
        reduce = original(*args)

        def recorded(values, labels, batch, shares=None):
            used.append(values)
            return reduce(values, labels, batch, shares)

        return recorded

    monkeypatch.setattr("ltcli.stages.training.weighted_mean", spied)
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
def test_loss_and_its_gradient_are_finite_and_the_gradient_is_not_zero(rng, name):
    loss, _ = loss_and_run(name, [1000, 30, 1], METHODS[name].stages[0])
    for scale in (1.0, 100.0):
        logits = (scale * torch.randn(6, 3, generator=rng)).requires_grad_()
        values = loss(logits, torch.tensor([0, 0, 1, 1, 2, 2]), BATCH)
        assert values.shape == (6,)
        assert values.isfinite().all()
        values.mean().backward()
        assert logits.grad.isfinite().all()
        assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.loss])
def test_the_losses_are_of_samples_each_for_itself(rng, name):
    stage = METHODS[name].stages[0]
    loss, _ = loss_and_run(name, [1000, 30, 1], stage, **STILL.get(name, {}))
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
def test_options_do_not_hide_those_of_the_stage(name, stage):
    method = METHODS[name]
    own = {spec.name for spec in specs(method.options)}
    taken = {spec.name for spec in specs(WITH_METHODS[stage].params)} | COMMON
    taken |= {entry.name for entry in WITH_METHODS[stage].inputs}
    assert not own & taken
    defaults = method.defaults.get(stage, {})
    changed = {option: value for option, value in defaults.items() if option in own}
    assert parameters(name, stage).options == method.options(**changed)


def test_methods_that_share_an_option_agree_on_its_type():
    types = {}
    for method in METHODS.values():
        for spec in specs(method.options):
            assert types.setdefault(spec.name, spec.base) is spec.base


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_an_unknown_parameter_is_refused(ltcli, tmp_path, name, stage):
    config = tmp_path / "params.yaml"
    config.write_text(f"method: {name}\nepochz: 3\n")
    done = ltcli(stage, "--config", config, "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [
        f"error: {config}:2: no parameter 'epochz'",
        "hint: did you mean 'epochs'?",
    ]


def test_a_parameter_of_another_method_is_refused(ltcli, tmp_path):
    done = ltcli("finetune", "--method", "crt", "--tau", "1", "-d", tmp_path)
    assert done.code == 2
    assert done.lines[0] == "error: ltcli finetune: no such option: --tau"


def test_an_unknown_method_is_refused_with_the_nearest_name(ltcli, tmp_path):
    done = ltcli("finetune", "--method", "tau-nrom", "-d", tmp_path)
    assert done.code == 2
    assert done.lines == ["error: finetune: no method 'tau-nrom'", "hint: did you mean 'tau-norm'?"]


def test_a_method_of_the_other_stage_is_refused(ltcli, tmp_path):
    done = ltcli("pretrain", "--method", "crt", "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [
        "error: pretrain: method crt is not one for pretrain",
        "hint: use finetune",
    ]


class Waits(TorchDispatchMode):
    """Notices what needs a result on the host, which would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        masks = any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if name in ("index", "index_put_") else ())
        )
        reading = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
        if masks or name in reading:
            self.found.append(name)
        return func(*args, **(kwargs or {}))

    def noted(self, name, function):
        def noting(tensor):
            self.found.append(name)
            return function(tensor)

        return noting


def stepped(name, stage):
    """A run on tiny images, or on features if the backbone is frozen."""
    plan = planned(name, stage, epochs=4, batch_size=4, lr=2**-6, weight_decay=0.0)
    method, options = METHODS[name], plan.params.options
    form = method.head(options, plan).form
    rng = torch.Generator().manual_seed(1)
    if plan.whole:
        record = small_images.backbone("resnet20", method.backbone(options, plan))
        network, shape = build_network(record, 4, 0, form).train(), (3, 8, 8)
    else:
        network, shape = Network(torch.nn.Identity(), build_classifier(5, 4, 0, form)), (5,)
    start_classifier(network.classifier, method.head(options, plan), fresh=False)
    data, held_out = (torch.randn(size, *shape, generator=rng) for size in (24, 8))
    return training_run(
        plan,
        network,
        data,
        held_out=lambda batch: held_out[batch.rows],
        held_out_labels=torch.arange(8) % 4,
        means=torch.randn(4, network.classifier.weight.shape[1], generator=rng),
    )


# These need artifacts of a model beside samples. They draw numbers or read labels on the CPU.
WITH_MORE = {"cam-sampling", "risda", "feature-fusion", "stg"}


# One stage of each method: its formula is the same in both.
REPEATED = {name: stage for name, stage in PAIRS if name not in WITH_MORE | set(PRESETS)}


@pytest.mark.parametrize(
    ("name", "stage"),
    [(n, stage) for n, stage in REPEATED.items() if METHODS[n].steps or METHODS[n].loss],
)
def test_a_step_can_be_repeated_exactly_where_the_record_says_so(monkeypatch, name, stage):
    monkeypatch.setattr(optimizers, "_FUSED", ("cpu",))
    # On a CPU torch reads the labels to check them, on a GPU it does not.
    monkeypatch.setattr(F, "one_hot", lambda y, size: y.unsqueeze(1).eq(torch.arange(size)).long())
    waits, found = Waits(), {}
    for recorded in (False, True):
        run = stepped(name, stage)
        steps = make_steps(METHODS[name], run, None)

        def work(batch, steps=steps):
            steps.step(batch)

        def record(work):
            def repeat():
                with monkeypatch.context() as patch, waits:
                    # Copies to the CPU are no operations on a CPU.
                    for copy in ("cpu", "tolist", "numpy"):
                        original = getattr(torch.Tensor, copy)
                        patch.setattr(torch.Tensor, copy, waits.noted(copy, original))
                    work()

            return repeat

        step = Recorded(work, run.optimizer, 4, None, lambda _epoch: 0, record)
        for number in range(5):
            rows = torch.arange(4) * 5 + number
            (step if recorded else work)(Batch(0, number, number * 4, rows))
        found[recorded] = {n: t.clone() for n, t in run.network.state_dict().items()}
    same = all(tensor.equal(found[True][name]) for name, tensor in found[False].items())
    assert (same and not waits.found) == (not METHODS[name].on_host), waits.found

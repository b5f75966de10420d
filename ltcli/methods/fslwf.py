"""FSLwF, few-shot learning without forgetting: a generator makes the class vectors of the tail.

    z_c = s cos(w_c, f)                                  s is learned and starts at 10
    w_t = a * m_t + b * sum_h A_th w_h / |w_h|           for a tail class t, h over head classes
    A_t = softmax_h( g cos(Q m_t, k_h) )

m_t is the mean of the class's features, each divided by its length. Vectors of head classes, a, b,
Q, the keys k, g and s are trained. In every step a few head classes play tail classes and leave the
sum, so that the generator learns from classes with many images. L = mean_i CE(z_i, y_i) over all
classes, on a frozen backbone. After each step the generated vectors are written into the
classifier, which is then an ordinary one on cosines.

In the original every support feature of an episode attends, here the class mean does. The
long-tailed comparisons that quote the method do not document their adaptation.

Source: Gidaris, Komodakis, CVPR 2018, arXiv 1804.09458, eq. 3 to 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.compute.transfer import to_device
from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Head, Method, Run, TrainingRun, require_frozen_backbone
from ltcli.methods.options import HeadRule, head_of

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


@dataclass(frozen=True)
class Options(HeadRule):
    """Options of FSLwF."""

    hidden: int = param(1, "head classes per step that are treated as tail classes", ge=1)
    start_scale: float = param(10.0, "initial factor of the cosines", gt=0)


def check(options: Options, run: Run) -> None:
    """Refuse a moving backbone, and head classes that do not fit."""
    require_frozen_backbone(run, "the class means belong to the features of the frozen backbone")
    head = head_of(options, run.headers["model"].info["class_counts"], "finetune")
    if options.hidden >= sum(head):
        rule = f"hidden must be less than the {sum(head)} head classes, got {options.hidden}"
        raise ParamError("finetune", rule)


class ClassVectors:
    """Generator of class vectors from ``class_means``, float [C, D].

    Attributes:
        head: bool [C], head classes.
        parts: Trained parameters.
    """

    def __init__(self, options: Options, run: TrainingRun, means: torch.Tensor) -> None:
        """Draw the keys; the rest starts as ones."""
        import torch
        from torch import nn

        from ltcli.compute.seeds import derive
        from ltcli.engine.steps import train_too

        num_classes, dim = means.shape
        counts: list[int] = run.class_counts.tolist()
        self.head = torch.tensor(head_of(options, counts, "finetune"), device=means.device)
        self._means = means
        # A stream of its own, so that the other draws of the run do not depend on the method.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("fslwf", run.seed))
            class_keys = torch.randn(num_classes, dim)
        one = torch.ones_like(means[0])
        self.parts = nn.ParameterDict(
            {
                "mean": one.clone(),
                "lent": one.clone(),
                # The identity: attention starts from the cosines of means and keys.
                "query": torch.diag(one),
                "class_keys": class_keys.to(means),
                # Cosines in -1 ... 1 alone would give nearly equal attention to all classes.
                "sharpness": 10.0 * one[0],
                "scale": options.start_scale * one[0],
            }
        )
        # Weight decay would pull factors to zero.
        factors = [self.parts[name] for name in ("mean", "lent", "sharpness", "scale")]
        train_too(run.optimizer, factors, decayed=False)
        train_too(run.optimizer, [self.parts["query"], self.parts["class_keys"]])

    def vectors(self, weight: torch.Tensor, rare: torch.Tensor) -> torch.Tensor:
        """Class vectors float [C, D] of all classes, with generated ones for some.

        ``rare``, bool [C], has the classes whose vectors are generated and lend nothing.
        """
        import torch
        from torch.nn import functional as F

        queries = F.normalize(self._means @ self.parts["query"].T)
        similar = self.parts["sharpness"] * queries @ F.normalize(self.parts["class_keys"]).T
        attention = similar.masked_fill(rare, -torch.inf).softmax(1)
        lent = self.parts["lent"] * (attention @ F.normalize(weight))
        return torch.where(rare.unsqueeze(1), self.parts["mean"] * self._means + lent, weight)


def class_means(run: TrainingRun) -> torch.Tensor:
    """Mean of each class's features, not augmented, each divided by its length, float [C, D]."""
    import torch
    from torch.nn import functional as F

    from ltcli.data.batches import Batch
    from ltcli.engine.infer import features_of

    weight = run.network.classifier.weight
    if run.samples is None:
        rows = torch.arange(len(run.labels), device=weight.device)
        # A bank has no images to run: one batch takes all.
        features = run.inputs(Batch(0, 0, 0, rows))
    else:
        features = features_of(run.network, run.samples, run.dtype)
    unit = F.normalize(to_device(features, weight.device))
    sums = torch.zeros_like(weight).index_add_(0, run.labels, unit)
    return sums / run.class_counts.to(weight.dtype).unsqueeze(1)


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps on all classes, some of them with generated vectors."""
    import torch
    from torch.nn import functional as F

    from ltcli.compute.seeds import derive
    from ltcli.engine.state import ModuleState
    from ltcli.engine.steps import Steps

    classifier = run.network.classifier
    weights = ClassVectors(options, run, class_means(run))
    tail = ~weights.head
    heads = weights.head.nonzero().flatten().cpu()

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        seed = derive("fslwf hidden", run.seed, batch.epoch, batch.step)
        generator = torch.Generator().manual_seed(seed)
        # A function of seed, epoch and step, so that a resumed run hides the same classes.
        hidden = heads[torch.randperm(len(heads), generator=generator)[: options.hidden]]
        rare = tail.index_fill(0, to_device(hidden, tail.device), True)
        vectors = F.normalize(weights.vectors(classifier.weight, rare))
        cosines = F.linear(F.normalize(features), vectors)
        return run.cross_entropy(weights.parts["scale"] * cosines, labels, batch)

    down = run.feature_steps(loss).step

    def step(batch: Batch) -> torch.Tensor:
        value = down(batch)
        # Head vectors are trained in place; writing those of the tail makes the model complete.
        with torch.no_grad():
            classifier.weight.copy_(weights.vectors(classifier.weight, tail))
            classifier.scales.copy_(weights.parts["scale"].expand_as(classifier.scales))
        return value

    return Steps(step, state=ModuleState(weights.parts))


METHOD = Method(
    summary="class vectors of the tail generated from class means and head classes",
    source="Gidaris and Komodakis, CVPR 2018, arXiv 1804.09458",
    stages=FINETUNE,
    options=Options,
    defaults={"finetune": {"sampler": "class-aware"}},
    steps=make_steps,
    on_host=True,
    head=lambda _options, _run: Head(start="fresh", trainable=("weight",), form="cosine"),
    balances=lambda _options, _run: False,
    check=check,
)

"""Confusion of classes: which ones a classifier takes for which others."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ltcli.core.errors import ParamError
from ltcli.stats.accuracy import predictions
from ltcli.stats.moments import class_counts, require_finite


def class_graph(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Confusion graph, float64 [C, C]: fraction of the samples of class i predicted as class j.

    Rows sum to 1, or to 0 for a class without samples.

    Source: Chen et al., "Imagine by Reasoning: A Reasoning-Based Implicit Semantic Data
    Augmentation for Long-Tailed Classification", AAAI 2022, arXiv 2112.07928, which builds it on
    the training set.
    """
    counts = class_counts(labels, num_classes)
    # One number per pair (true, predicted), so that a single bincount fills the whole table.
    pairs = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    table = pairs.view(num_classes, num_classes).to(torch.float64)
    return table / counts.clamp(min=1).unsqueeze(1)


def graph_and_scores(
    blocks: Iterable[Tensor], labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """``class_graph``, and the mean probability of class j over the samples of class i.

    Both are float64 [C, C]; rows sum to 1, or to 0 for a class without samples. The logits come in
    blocks, float [B, C], in the order of the labels int64 [N]: one block is in memory at a time.

    Source: as for ``class_graph``; for the scores Chu, Bian, Liu, Ling, "Feature Space Augmentation
    for Long-Tailed Data", ECCV 2020, arXiv 2008.03673, which ranks confusing classes by them.
    """
    predicted = torch.empty_like(labels)
    scores = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=labels.device)
    first = 0
    for logits in blocks:
        # Checked here too, as only this loop knows the number of the sample in the whole set.
        require_finite("confusion", "logits", logits, first)
        rows = slice(first, first + len(logits))
        predicted[rows] = predictions(logits)
        scores.index_add_(0, labels[rows], logits.softmax(dim=1).to(torch.float64))
        first = rows.stop
    scores /= class_counts(labels, num_classes).clamp(min=1).unsqueeze(1)
    return class_graph(predicted, labels, num_classes), scores


def top_confusing(matrix: Tensor, k: int) -> Tensor:
    """The k other classes with the largest entries in each row, int64 [C, k], largest first.

    The matrix is a graph or scores, float [C, C]; its diagonal is ignored. k is in 1 ... C - 1.
    """
    num_classes = len(matrix)
    if not 1 <= k < num_classes:
        raise ParamError("confusing classes", f"k must be in 1 ... {num_classes - 1}, got {k}")
    own = torch.eye(num_classes, dtype=torch.bool, device=matrix.device)
    others = matrix.masked_fill(own, -torch.inf)
    # Stable, unlike topk: of equal entries the lower index comes first on every device.
    return others.sort(dim=1, descending=True, stable=True).indices[:, :k].contiguous()


def confused_pairs(predicted: Tensor, labels: Tensor, k: int) -> list[tuple[int, int, int]]:
    """The k most frequent confusions: true class, predicted class, and number over all S runs.

    Predictions are int64 [S, N], labels int64 [N].
    """
    true = labels.expand_as(predicted)
    wrong = true != predicted
    # Pairs that occur, not a [C, C] table: thousands of classes have millions of pairs.
    pairs = torch.stack([true[wrong], predicted[wrong]], dim=1)
    found, counts = torch.unique(pairs, dim=0, return_counts=True)
    # unique sorts the pairs, and a stable sort keeps that order among equals.
    order = counts.sort(descending=True, stable=True).indices[:k]
    triples = torch.cat([found, counts.unsqueeze(1)], dim=1)[order].tolist()
    return [(a, b, n) for a, b, n in triples]

"""The table of stages, in the order of the chain."""

from typing import Any

from ltcli.stages import (
    adjust,
    confusion,
    covariances,
    diagnose,
    dump_features,
    evaluate,
    finetune,
    merge_covariances,
    pretrain,
    split,
    stg_train,
)
from ltcli.stages.stage import Stage

STAGES: tuple[Stage[Any], ...] = (
    split.STAGE,
    pretrain.STAGE,
    dump_features.STAGE,
    covariances.STAGE,
    merge_covariances.STAGE,
    confusion.STAGE,
    stg_train.STAGE,
    finetune.STAGE,
    adjust.STAGE,
    evaluate.STAGE,
    diagnose.STAGE,
)

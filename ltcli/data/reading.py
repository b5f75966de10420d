"""Parameters of stages that read images and run a backbone on them."""

from dataclasses import dataclass
from typing import Literal

from ltcli.core.params import param


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Where images are, who decodes them, and the precision of the backbone."""

    root: str | None = param(
        None, "folder of the images, if they have moved", identity=False, group="Running"
    )
    workers: int | None = param(
        None,
        "processes that decode image files; default: one per core",
        identity=False,
        ge=0,
        group="Running",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = param(
        "auto",
        "precision of the backbone; auto is bf16 where the device has it; tf32 is for GPUs",
        group="Running",
    )

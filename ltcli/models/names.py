"""Names of backbones, for those who must not load torch."""

BACKBONES = (
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet10",
    "resnet18",
    "resnet34",
)
BORROWED = "torchvision."
"""What stands before the names of networks of torchvision."""
EMBEDDINGS = "embeddings"
"""What stands before the dimension where there is no backbone."""

"""ImageNet's mean and standard deviation of each colour, 0..1, over its training images."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

import torch

from ltcli.data.batches import ImageBatches
from ltcli.models.classifier import Classifier
from ltcli.models.deployed import Deployed, Normalise
from ltcli.models.network import Network
from ltcli.models.resnet import ResNet

MEAN, STD = (0.49, 0.48, 0.44), (0.2, 0.25, 0.3)


def images(rng):
    return torch.randint(256, (5, 6, 8, 3), generator=rng, dtype=torch.uint8)


def test_bytes_are_normalised_as_in_training(rng):
    pixels = images(rng)
    expected = ImageBatches(pixels, MEAN, STD, torch.device("cpu")).plain(slice(None))
    torch.testing.assert_close(Normalise(MEAN, STD)(pixels), expected)


def test_one_pixel_by_hand():
    # (51 / 255 - 0.1) / 0.5 = 0.2, and so on.
    found = Normalise((0.1, 0.2, 0.0), (0.5, 0.5, 0.25))(
        torch.tensor([51, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    )
    torch.testing.assert_close(found.flatten(), torch.tensor([0.2, 0.0, 4.0]))


def test_logits_and_probabilities_are_those_of_the_network(rng):
    network = Network(ResNet((4,), (1,), projection=False), Classifier(4, 3)).eval()
    prepare, pixels = Normalise(MEAN, STD), images(rng)
    with torch.no_grad():
        logits, probabilities = Deployed(prepare, network)(pixels)
        assert logits.equal(network(prepare(pixels)))
    torch.testing.assert_close(probabilities, logits.softmax(1))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))

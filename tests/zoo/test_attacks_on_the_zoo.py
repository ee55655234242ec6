"""Every entry of the catalogue on a trained network and a photograph: it does what an attack is for."""

from statistics import fmean
from typing import cast

import pytest
import torch

from segtrans.attack import Attack, Model
from segtrans.catalogue import ENTRIES
from segtrans.data import batch
from segtrans.models import load_model
from segtrans.objectives import pixel_losses, valid_mean
from segtrans.worst import AnyAttack, WorstCase
from toys import few

ITERATIONS = 3


@pytest.fixture(scope="module")
def network() -> Model:
    return load_model("zoo:voc/deeplabv3plus-mobilenetv3s")


def short(attack: AnyAttack) -> AnyAttack:
    """A few iterations with a step that shows something, few copies; of a worst case, its first attack."""
    one = cast(Attack, few(attack.attacks[0]) if isinstance(attack, WorstCase) else few(attack))
    return one.configured(iterations=ITERATIONS)


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.attack.iterations])
def test_every_entry_raises_the_loss_of_a_trained_network(name: str, network: Model) -> None:
    x, _ = batch("photos", count=1, size=128)
    y = network(x).argmax(1)
    attack = short(ENTRIES[name].attack)
    coin = torch.Generator().manual_seed(0)
    towards = "towards" in name
    given = (y + 1) % 21 if towards else y

    def loss(images: torch.Tensor) -> float:
        return float(valid_mean(pixel_losses(network(images), given), given))

    adversarial = attack(network, x, given, seed=0)
    found = adversarial - x
    # As far from the image, pixel by pixel, but in directions that know nothing of the network.
    blind = [(x + found.abs() * sign).clamp(0, 1) for sign in torch.randn(3, *x.shape, generator=coin).sign()]
    by_chance = fmean(loss(image) for image in blind)
    assert loss(adversarial) < 0.9 * by_chance if towards else loss(adversarial) > 1.2 * by_chance

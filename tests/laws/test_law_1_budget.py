"""Law 1: budget, box and 8-bit grid hold for every registered attack, on disk too."""

import math
from pathlib import Path

import pytest
import torch

from segtrans.attack import Attack
from segtrans.io import read_image, to_pixels, to_tensor, write_image
from segtrans.threat import L2, LInf, Threat
from toys import Context, changed, each_attack, images, labels

THREATS = [LInf("8/255"), LInf("4/255"), LInf(0.05), LInf(1.0), L2(0.5), L2(3)]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=repr)

X = images(2, (16, 21)).float()
Y = labels(2, (16, 21))
MODEL = Context().float()


@each_threat
@each_attack
def test_attacks_stay_in_ball_and_box_and_on_the_grid(attack: Attack, threat: Threat, tmp_path: Path) -> None:
    adversarial = changed(attack, threat=threat)(MODEL, X, Y)
    check_ball(threat, adversarial)
    check_grid(threat, adversarial, tmp_path)


def check_ball(threat: Threat, adversarial: torch.Tensor) -> None:
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    difference = (adversarial.double() - X.double()).flatten(1)
    distance = difference.abs().amax(1) if isinstance(threat, LInf) else difference.norm(dim=1)
    # float32 adds and subtracts with an error of about 1e-7 per unit.
    assert (distance <= threat.radius * (1 + 1e-6) + 1e-7).all()
    assert torch.allclose(threat.distance(adversarial, X).double(), distance, atol=1e-6)


def check_grid(threat: Threat, adversarial: torch.Tensor, folder: Path) -> None:
    grid = threat.quantise(adversarial, X)
    moved = []
    for number, image in enumerate(grid):
        path = folder / f"{number}.png"
        write_image(path, to_pixels(image))
        pixels = read_image(path)
        assert torch.equal(to_tensor(pixels), image), "what is scored is what is on disk"
        moved.append(torch.from_numpy(pixels.astype(int) - to_pixels(X[number]).astype(int)))
    distance = torch.stack(moved)
    if isinstance(threat, LInf):
        assert distance.abs().max() <= math.floor(255 * threat.radius + 1e-6)
        # Rounded, not truncated, except where that would leave the ball.
        inside = distance.abs() < math.floor(255 * threat.radius + 1e-6)
        gap = (grid - adversarial).abs().permute(0, 2, 3, 1)
        assert (gap[inside] <= 0.5 / 255 + 1e-6).all()
        assert (gap <= 1 / 255 + 1e-6).all()
    else:
        assert (distance.flatten(1).double().norm(dim=1) / 255 <= threat.radius * (1 + 1e-6)).all()
        assert ((grid - adversarial).abs() <= 1 / 255 + 1e-6).all()


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16])
def test_whole_budgets_survive_plain_rounding(levels: int) -> None:
    """The corners of the ball are on the grid, so that saving an image needs no help to stay inside."""
    signs = torch.randint(0, 2, X.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    threat = LInf(f"{levels}/255")
    adversarial = threat.project(X + signs * threat.radius, X)
    plain = torch.stack([to_tensor(to_pixels(image)) for image in adversarial])
    assert torch.equal(plain, threat.quantise(adversarial, X))
    assert torch.equal(((plain - X) * 255).round(), ((X * 255).round() + levels * signs).clamp(0, 255) - X * 255)


@each_threat
def test_a_clean_image_on_the_grid_is_its_own_quantisation(threat: Threat) -> None:
    assert torch.equal(threat.quantise(X, X), X)

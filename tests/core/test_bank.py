"""The bank of photographs."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segtrans import bank
from segtrans.bank import free_photographs, photographs
from segtrans.bench.identity import attack_identity
from segtrans.catalogue import attack as read_attack
from segtrans.data import load_data
from segtrans.errors import DataError, MissingError
from segtrans.io import read_image, write_image
from toys import Context, images, labels


def folder_of(root: Path, *levels: int) -> str:
    """A folder of images of one grey level each."""
    for number, level in enumerate(levels):
        write_image(root / f"{number:02}.png", np.full((6, 8, 3), level, dtype=np.uint8))
    return str(root)


def test_six_photographs_without_a_folder() -> None:
    pictures = photographs((45, 64))
    assert pictures.shape == (6, 3, 45, 64)
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() < 0.1
    assert 0.9 < pictures.max() <= 1
    assert pictures.flatten(1).std(1).min() > 0.1
    assert len({tuple(picture.flatten().tolist()) for picture in pictures}) == 6


def test_the_list_of_free_photographs_stands_once() -> None:
    paths = free_photographs()
    assert {item.name: item.image for item in load_data("photos").items} == paths
    assert [*paths] == [*bank.FILES]


def test_photographs_of_their_own_size_are_what_is_on_disk() -> None:
    astronaut = read_image(free_photographs()["astronaut"])
    assert astronaut.shape == (512, 512, 3)
    picture = (photographs((512, 512))[0] * 255).permute(1, 2, 0).round().to(torch.uint8)
    assert np.array_equal(picture.numpy(), astronaut)


@pytest.mark.parametrize("upright", [False, True])
def test_pictures_are_cut_to_proportion_around_their_centre(tmp_path: Path, upright: bool) -> None:
    ramp = np.broadcast_to(2 * np.arange(100, dtype=np.uint8)[:, None], (60, 100, 3))
    write_image(tmp_path / "ramp.png", np.ascontiguousarray(ramp.transpose(1, 0, 2) if upright else ramp))
    (picture,) = photographs((30, 30), str(tmp_path)) * 255
    line = picture[0, :, 3] if upright else picture[0, 3]
    assert torch.equal(picture[0], line[:, None].expand(30, 30) if upright else line.expand(30, 30))
    # Columns 20 to 79 remain, two of them for each of the 30: 2 * (20.5, 22.5, …); borders have fewer neighbours.
    expected = 41 + 4 * torch.arange(30)
    assert (line - expected)[1:-1].abs().max() <= 1
    assert (line - expected).abs().max() <= 3


def test_extreme_sizes() -> None:
    for size in ((1, 1), (1, 300), (300, 1)):
        pictures = photographs(size)
        assert pictures.shape == (6, 3, *size)
        assert pictures.isfinite().all()


def test_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = photographs((3, 4), folder_of(tmp_path / "mine", 10, 20, 30))
    assert torch.equal((pictures * 255).round(), torch.tensor([10.0, 20, 30]).view(3, 1, 1, 1).expand(3, 3, 3, 4))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert torch.equal(photographs((3, 4), "~/mine"), pictures)


def test_a_large_folder_is_thinned_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "MOST", 3)
    pictures = photographs((1, 1), folder_of(tmp_path, 0, 1, 2, 3, 4, 5, 6))
    assert (pictures[:, 0, 0, 0] * 255).round().tolist() == [0, 2, 4]


def test_pictures_are_read_once() -> None:
    assert photographs((5, 7)) is photographs((5, 7))
    assert photographs((7, 5)) is not photographs((5, 7))
    assert photographs((5, 7), "", torch.device("cpu")) is photographs((5, 7), "", torch.device("cpu"))


def test_missing_photographs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bank.FILES, "camel", "camel.png")
    with pytest.raises(MissingError, match=r"this scikit-image was packaged without camel\.png"):
        photographs((2, 2), device=torch.device("cpu", 0))
    monkeypatch.setattr(bank, "find_spec", lambda name: find_spec(f"no_{name}"))
    with pytest.raises(MissingError, match="come with scikit-image, which is not installed"):
        free_photographs()


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        photographs((2, 2), str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no images here"):
        photographs((2, 2), str(tmp_path))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png: .* no image of a format read here"):
        photographs((2, 2), str(tmp_path))


def test_a_plan_reads_photographs_anew(tmp_path: Path) -> None:
    attack, x, y = read_attack("admix(bank=PLACE) + mi".replace("PLACE", repr(str(tmp_path)))), images(1), labels(1)
    results: list[Tensor] = []
    for level in (0, 255):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(tmp_path / "a.png")
        attack_identity(attack)
        results.append(attack(Context(), x, y))
    assert not torch.equal(*results)

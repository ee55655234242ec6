"""Names on disk, shards and fingerprints."""

from pathlib import Path

import pytest
import torch

from segtrans.bench.store import Shard, Store, fingerprint, slug

SHARD = Shard({"n": torch.arange(6).view(2, 3)}, {"images": ["a", "b"]})


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "a/b",
        "a\\b",
        "hf:x?weights=/y",
        "segpgd + remap(grid=2)",
        "…",
        "",
        "a(b/c)",
        "x(0.5" + 58 * "5",
    ],
)
def test_slugs_stay_in_their_folder(name: str) -> None:
    assert "/" not in slug(name)
    assert "\\" not in slug(name)
    assert not slug(name).startswith(".")
    assert slug(name)


def test_slugs_keep_different_names_apart() -> None:
    names = ["a/x", "b/x", "x", "x?weights=1", "x?weights=2", "X"]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("SegPGD").lower() != slug("segpgd"), "not all disks tell capitals apart"


def test_slugs_are_short_in_bytes() -> None:
    for letter in ("a", "é", "攻", "🎯"):
        assert len(slug(200 * letter).encode()) <= 60 + 9
    assert slug(200 * "攻") != slug(201 * "攻")


def test_slugs_are_readable() -> None:
    assert slug("zoo:voc/fcn-resnet18").startswith("fcn-resnet18-")
    assert slug("mi + linf(eps=8/255)").startswith("mi_linf_eps_8_255-")


def test_a_shard_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("u", "id", SHARD)
    found = store.read("u", "id")
    assert found is not None
    assert torch.equal(found.tensors["n"], SHARD.tensors["n"])
    assert found.header == SHARD.header


def test_a_shard_of_something_else_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.read("u", "id") is None
    store.write("u", "id", SHARD)
    assert store.read("u", "other") is None


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("u", "id", SHARD)
    path = store.shard_path("u")
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        assert store.read("u", "id") is None, f"byte {place}"


def test_fingerprints_ignore_order_and_see_values() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})

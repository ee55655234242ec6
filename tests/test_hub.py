"""Runs and weights on the hub, which here is a folder."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("huggingface_hub")

from segtrans.errors import DataError, MissingError
from segtrans.interop.hub import pull_run, pull_weights, push_run, push_weights
from segtrans.models import load_model

UNET = "smp:unet/resnet18?weights=random&classes=3"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The methods of the library's HfApi that are used, with their signatures, on a folder."""
    root = tmp_path / "hub"

    class Api:
        def create_repo(self, repo_id: str, *, private: bool, repo_type: str, exist_ok: bool) -> None:
            (root / repo_type / repo_id).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str = "") -> str:
            assert (root / repo_type / repo_id).is_dir()
            shutil.copytree(folder_path, root / repo_type / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}"

        def snapshot_download(self, repo_id: str, *, repo_type: str, local_dir: Path, revision: str = "") -> str:
            return str(shutil.copytree(root / repo_type / repo_id, local_dir, dirs_exist_ok=True))

        def hf_hub_download(self, repo_id: str, filename: str, *, revision: str = "") -> str:
            return str(root / "model" / repo_id / filename)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return root


def test_a_run_goes_there_and_back(hub: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "images").mkdir(parents=True)
    (run / "images" / "a.png").write_bytes(b"pixels")
    with pytest.raises(DataError, match=r"run: no finished run, there is no result.json"):
        push_run(run, "me/run")
    assert not hub.exists()
    (run / "result.json").write_text("{}")
    assert push_run(run, "me/run", commit_message="first") == "https://hub/me/run"
    back = pull_run("me/run", tmp_path / "back")
    assert (back / "images" / "a.png").read_bytes() == b"pixels"
    assert (back / "result.json").read_text() == "{}"


def test_weights_go_there_and_back(hub: Path) -> None:
    model = load_model(UNET)
    model.network.segmentation_head[0].bias.fill_(3.5)
    push_weights(model, "me/unet")
    again = load_model(f"smp:unet/resnet18?classes=3&weights={pull_weights('me/unet')}").network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.network.state_dict().items())


def test_the_hub_that_is_not_to_be_had_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (lambda: pull_run("me/run", tmp_path / "back"), lambda: pull_weights("not a/good/name")):
        with pytest.raises(MissingError, match="the Hugging Face hub does not do") as error:
            ask()
        assert "\n" not in str(error.value)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingError, match=r"pip install 'segtrans\[hf\]'"):
        pull_run("me/run", tmp_path)


def test_the_library_has_these_methods() -> None:
    """The fake is no fantasy."""
    import inspect

    from huggingface_hub import HfApi

    used: dict[str, set[str]] = {
        "create_repo": {"repo_id", "private", "repo_type", "exist_ok"},
        "upload_folder": {"repo_id", "folder_path", "repo_type", "commit_message"},
        "snapshot_download": {"repo_id", "repo_type", "local_dir", "revision"},
        "hf_hub_download": {"repo_id", "filename", "revision"},
    }
    for method, names in used.items():
        found: Any = inspect.signature(getattr(HfApi, method)).parameters
        assert names <= found.keys()


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingError, match=r"the Hugging Face hub does not do create_repo \(.*refused"):
        push_run(tmp_path, "me/run")

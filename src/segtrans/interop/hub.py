"""Runs and weights on the Hugging Face hub, as repositories that the token of ``hf auth login`` may write to."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors.torch import save_file

from segtrans.errors import DataError, MissingError, optional, reason
from segtrans.models import SegModel

WEIGHTS = "model.safetensors"


def push_run(folder: str | Path, repo: str, *, private: bool = True, **options: Any) -> str:
    """Put a run's folder, all of it, into a data set repository, which is made where there is none.

    Args:
        folder: what ``--out`` named, with its ``result.json``.
        repo: ``OWNER/NAME``.
        private: of a new repository.
        options: further ones of huggingface_hub's ``upload_folder``, such as ``commit_message``.

    Returns:
        The address of what was put there.

    Raises:
        DataError: the folder holds no finished run. MissingError: the extra is not installed, or the hub not to be had.
    """
    if not (Path(folder) / "result.json").is_file():
        raise DataError(f"{folder}: no finished run, there is no result.json")
    return _push(Path(folder), repo, "dataset", private, options)


def pull_run(repo: str, folder: str | Path, **options: Any) -> Path:
    """Get a run back into ``folder``, where ``segtrans report`` reads it and ``segtrans run`` goes on with it; options
    are those of huggingface_hub's ``snapshot_download``, such as ``revision``.
    """
    return Path(_asked("snapshot_download", repo, repo_type="dataset", local_dir=folder, **options))


def push_weights(model: SegModel, repo: str, *, private: bool = True, **options: Any) -> str:
    """Put a model's weights into a model repository; arguments and errors as of :func:`push_run`."""
    with TemporaryDirectory() as folder:
        tensors = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in model.network.state_dict().items()
        }
        save_file(tensors, Path(folder) / WEIGHTS)
        return _push(Path(folder), repo, "model", private, options)


def pull_weights(repo: str, **options: Any) -> Path:
    """Get weights from a model repository; the file's path, as ``weights=FILE`` takes it."""
    return Path(_asked("hf_hub_download", repo, WEIGHTS, **options))


def _push(folder: Path, repo: str, kind: str, private: bool, options: dict[str, Any]) -> str:
    _asked("create_repo", repo, repo_type=kind, private=private, exist_ok=True)
    return str(_asked("upload_folder", repo_id=repo, repo_type=kind, folder_path=folder, **options))


def _asked(method: str, *arguments: Any, **options: Any) -> Any:
    with optional("the hub", "hf"):
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    # What the library raises that the hub is asked with, which is not the same in all versions.
    unreachable = cast(type[Exception], HfHubHTTPError.__mro__[1])
    try:
        return getattr(huggingface_hub.HfApi(), method)(*arguments, **options)
    except (unreachable, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingError(f"the Hugging Face hub does not do {method} ({reason(error)})") from error

"""Programs of PyTorch's own: what torch.export and TorchScript wrote, weights and computation in one file.

Such a file is a program, and its computation is as much the author's as its weights: use only files of people you
trust. What torch would unpickle in an exported program is held to plain tensors here, and compiled code and objects of
other classes are refused; but torch's reader evaluates the expressions of sizes in it, and TorchScript's operators can
read and write files.
"""

import logging
import os
import pickle
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segtrans.errors import DataError, first_line
from segtrans.models.base import SegModel
from segtrans.models.graph import Graph, Shape, existing, graph_model

FORBIDDEN = ("aotinductor", "custom_obj", "opaque_obj")
"""Parts of the names of an archive's records that hold machine code or pickled objects."""


def load_program(name: str, classes: int | None = None, multiple: int | None = None) -> SegModel:
    """The network in a file that ``torch.export.save`` wrote, of the size and number of images that it was written
    for, or of any where these were dynamic.
    """
    path = existing(name)
    try:
        archive: Any = torch._C.PyTorchFileReader(str(path))  # pyright: ignore[reportPrivateUsage]
        records: list[str] = archive.get_all_records()
        if "archive_format" not in records:
            raise ValueError("it is another archive, or one of torch before 2.8")
        for record in records:
            if any(part in record for part in FORBIDDEN):
                raise pickle.UnpicklingError(record)
        with _tensors_only():
            program = torch.export.load(path)
        module = program.module()
    except pickle.UnpicklingError:
        raise DataError(f"{path}: refused, it holds more than a graph and tensors, which could be any code") from None
    except Exception as error:
        raise DataError(f"{path}: not an exported program that can be loaded ({first_line(error)})") from error
    given = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    inputs, outputs = [*program.graph_signature.user_inputs], [*program.graph_signature.user_outputs]
    shape = _shape(given.get(str(inputs[0])) if len(inputs) == 1 else None)
    out = _shape(given.get(str(outputs[0])))
    found = out[1] if len(out) == 4 else None
    return _model(module, path, shape, classes or found, multiple)


def load_script(name: str, classes: int | None = None, multiple: int | None = None) -> SegModel:
    """The network in a file that ``torch.jit.save`` wrote, which does not say for what images."""
    path = existing(name)
    try:
        with warnings.catch_warnings():
            # People who have such files need not be told that there should be no more of them.
            warnings.filterwarnings("ignore", ".*`torch.jit.load.*` is deprecated", FutureWarning)
            module = torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:
        raise DataError(f"{path}: not a TorchScript file that can be loaded ({first_line(error)})") from error
    return _model(module, path, (None, 3, None, None), classes, multiple)


def _model(module: nn.Module, path: Path, shape: Shape, classes: int | None, multiple: int | None) -> SegModel:
    graph = Graph(module, [path], shape, differentiable=True)
    return graph_model(graph, path, classes, multiple=multiple or 1)


def _shape(value: Any) -> Shape:
    """A traced tensor's shape; dimensions that are symbols are free."""
    return tuple(n if isinstance(n, int) else None for n in getattr(value, "shape", ()))


@contextmanager
def _tensors_only() -> Generator[None]:
    """torch.load refuses everything but tensors, also where torch.export asks it not to, and nothing is logged that is
    raised as well.
    """
    switch, level = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", logging.root.manager.disable
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        del os.environ[switch]
        if before is not None:
            os.environ[switch] = before

"""Networks that a file holds as a whole, as a graph that somebody else's software wrote: what they have in common."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from segtrans.errors import DataError, ImageSizeError, UsageError, lacks_memory
from segtrans.io import file_hash
from segtrans.models.base import Preprocessing, SegModel, extract_logits
from segtrans.paths import at_home

Shape = tuple[int | None, ...]
"""(N, 3, H, W) with None where any number is fine."""


class Graph(nn.Module):
    """A network from a file, as it was when it was written: evaluation mode is the writer's business. A graph of a
    fixed number of images is run as often as it takes. Its printed form holds the files' hashes, by which results on
    different files are told apart.

    Args:
        function: images (N, 3, H, W), normalised, to a network's output.
        files: where it came from.
        shape: the images it takes.
        differentiable: whether a gradient flows back through it.
    """

    def __init__(self, function: nn.Module, files: Sequence[Path], shape: Shape, *, differentiable: bool) -> None:
        super().__init__()
        if len(shape) != 4 or shape[1] not in (3, None):
            wanted = tuple("any" if n is None else n for n in shape)
            raise UsageError(f"{files[0]}: takes inputs of shape {wanted}; expected images (N, 3, height, width)")
        height, width = shape[2:]
        self.function, self.batch, self.differentiable = function, shape[0], differentiable
        self.fixed_size = None if height is None or width is None else (height, width)
        self.file = files[0]
        self.hashes = ", ".join(map(file_hash, files))
        self.training = False
        for parameter in function.parameters():
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Nothing, since the graph is what it is."""
        return self

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Generator[tuple[str, Any]]:
        """Itself: what is inside does not run as modules, so it has no layers to listen to or to change."""
        if memo is None or self not in memo:
            yield prefix, self

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those inside."""
        return self.function.parameters(recurse)

    def extra_repr(self) -> str:
        return f"sha256={self.hashes}"

    def forward(self, x: Tensor) -> Tensor:
        """The network's output; ImageSizeError where it cannot be run on such images."""
        try:
            return self._run(x)
        except (RuntimeError, AssertionError) as error:
            if lacks_memory(error):
                raise
            # TorchScript begins with where it was.
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ImageSizeError(f"{self.file} cannot be run on {tuple(x.shape)} ({reason})") from error

    def _run(self, x: Tensor) -> Tensor:
        if self.batch is None:
            return extract_logits(self.function(x))
        parts: list[Tensor] = []
        for part in x.split(self.batch):
            full = torch.cat([part, part[-1:].expand(self.batch - len(part), -1, -1, -1)])
            parts.append(extract_logits(self.function(full))[: len(part)])
        return torch.cat(parts)


def graph_model(
    graph: Graph,
    path: Path,
    classes: Sequence[str] | int | None,
    *,
    name: str = "",
    backbone: str = "",
    **preprocessing: Any,
) -> SegModel:
    """The model that a graph is, with a fixed size if its images have one."""
    if classes is None:
        raise UsageError(f"{path}: does not say how many classes it knows; add classes=N")
    settings = Preprocessing(fixed_size=graph.fixed_size, **preprocessing)
    return SegModel(graph, classes, preprocessing=settings, name=name or path.stem, backbone=backbone)


def existing(name: str) -> Path:
    """The file of that name; DataError if there is none."""
    path = at_home(name)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return path

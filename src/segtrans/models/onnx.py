"""ONNX (https://onnx.ai): any model into a file, and any file as a model, of which attacks see the answers alone."""

import json
import shutil
import warnings
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from segtrans.errors import DataError, ImageSizeError, ModelError, UsageError, first_line, lacks_memory, optional
from segtrans.io import write_atomically
from segtrans.models.base import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, SegModel
from segtrans.models.graph import Graph, Shape, existing, graph_model

KEY = "segtrans"
"""Where in a file's metadata a model's name, backbone and classes are."""

TYPES = {
    "tensor(double)": torch.float64,
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
}
Size = tuple[int, int]
RETURNED = ("tensor(float)", "tensor(double)", "tensor(float16)")


def load(name: str, classes: int | None = None, multiple: int | None = None) -> SegModel:
    """The model in an ONNX file, without a gradient. Its own metadata say what it is, if :func:`export_onnx` wrote it;
    else it wants normalised images, ImageNet's way unless told otherwise, or, as uint8, plain ones.

    Raises:
        UsageError: another number of classes than the metadata name, or a graph of another kind.
        DataError: the file cannot be read. MissingError: the extra is not installed.
    """
    onnx: Any = _libraries()[0]
    path = existing(name)
    session = Session(path)
    # Large weights lie in files of their own.
    tensors: Any = onnx.load(path, load_external_data=False).graph.initializer
    places = {e.value for t in tensors if t.data_location for e in t.external_data if e.key == "location"}
    graph = Graph(session, [path, *(path.parent / p for p in sorted(places))], session.shape, differentiable=False)
    about = session.about()
    if about and classes not in (None, len(about["classes"])):
        raise UsageError(f"{path}: knows {len(about['classes'])} classes; leave classes={classes} out")
    whole, plain = about is not None, session.dtype == torch.uint8
    return graph_model(
        graph,
        path,
        about["classes"] if about else classes or session.classes,
        mean=(0.0,) * 3 if whole or plain else IMAGENET_MEAN,
        std=(1.0,) * 3 if whole else (1 / 255,) * 3 if plain else IMAGENET_STD,
        multiple=multiple or 1,
        **({key: about[key] for key in ("name", "backbone")} if about else {}),
    )


class Session(nn.Module):
    """An ONNX file that onnxruntime runs, on the CPU, with as many threads as torch has at the time, and always with
    the same result.

    Attributes:
        shape: what it takes; dtype: of what type.
        classes: how many channels it returns, if the file says so.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._opened: tuple[int, Any] | None = None
        session = self._session()
        inputs, output = session.get_inputs(), session.get_outputs()[0]
        if len(inputs) != 1 or inputs[0].type not in TYPES or output.type not in RETURNED:
            types = ", ".join(i.type for i in inputs)
            raise UsageError(f"{path}: takes {types} and returns {output.type}; expected one batch of images to logits")
        self.shape, self.dtype = _shape(inputs[0].shape), TYPES[inputs[0].type]
        self.classes = _shape(output.shape)[1] if len(output.shape) == 4 else None
        self.ends = inputs[0].name, output.name

    def about(self) -> dict[str, Any] | None:
        """What :func:`export_onnx` noted, or None where something else wrote the file."""
        text = self._session().get_modelmeta().custom_metadata_map.get(KEY)
        return None if text is None else json.loads(text)

    def forward(self, x: Tensor) -> Tensor:
        z = x.detach().cpu()
        z = z.round().clamp(0, 255).byte() if self.dtype == torch.uint8 else z.to(self.dtype)
        source, target = self.ends
        try:
            (logits,) = self._session().run([target], {source: z.numpy()})
        except Exception as error:
            if lacks_memory(error):
                raise MemoryError(str(error)) from error
            raise ImageSizeError(f"{self.path} cannot be run on {tuple(z.shape)} ({first_line(error)})") from error
        return torch.from_numpy(logits).to(x)

    def _session(self) -> Any:
        # Workers get their share of the threads after they have read their models.
        threads = torch.get_num_threads()
        if self._opened is None or self._opened[0] != threads:
            self._opened = threads, _open(self.path, threads)
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes, which open the file themselves."""
        return {**self.__dict__, "_opened": None}


def export_onnx(model: SegModel, path: str | Path, size: Size | None = None) -> Size | None:
    """Write a model, or an ensemble, as one ONNX file: images (N, 3, H, W) in [0, 1] in, logits (N, classes, H, W) out,
    with resizing, normalisation and label map inside and name, backbone and classes in the metadata. What the file
    says on noise of several sizes is compared with the model before it is put into place.

    Args:
        model: it is left as it is.
        path: the file; one that is there is replaced.
        size: (height, width) of all images that the file is for.

    Returns:
        The size that was given. Without one, None: images of any size can be given to the file; or, where the
        network does not allow that, the size that was taken: what the network is fixed to, or the square of its
        longest side, 512 where there is no such.

    Raises:
        ModelError: the model has no form in ONNX. MissingError: the extra is not installed.
    """
    _libraries("onnxscript")  # torch writes with it
    path, whole = Path(path), deepcopy(model).cpu().float()
    p = getattr(whole, "preprocessing", Preprocessing())
    square, fault = p.max_side or 512, ""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        attempts: tuple[Size | None, ...] = (None, p.fixed_size or (square, square)) if size is None else (size,)
        for attempt in attempts:
            fault = _write(whole, file, attempt) or _difference(whole, file, attempt)
            if not fault:
                write_atomically(path, lambda temporary: shutil.copyfile(file, temporary))
                return attempt
    raise ModelError(f"model {model.name!r} cannot be written as ONNX: {fault}")


def _write(model: SegModel, file: Path, size: Size | None) -> str:
    """Why that is impossible, or nothing."""
    free = torch.export.Dim.DYNAMIC
    axes = {0: free, 2: free, 3: free} if size is None else {0: free}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Odd numbers that are no accident, so that nothing is taken for a constant.
            program = torch.onnx.export(
                model, (_noise(2, size or (73, 89)),), dynamo=True, dynamic_shapes=(axes,), verbose=False,
                input_names=["images"], output_names=["logits"],
            )  # fmt: skip
        assert program is not None
        about = {"name": model.name, "backbone": model.backbone, "classes": model.classes}
        program.model.metadata_props[KEY] = json.dumps(about)
        program.save(file, external_data=False)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        # The exporter's own words are about its steps, the cause is about the model.
        cause = error.__cause__
        return first_line(cause if isinstance(cause, Exception) else error)
    return ""


def _difference(model: SegModel, file: Path, size: Size | None) -> str:
    """How the model in the file differs from the one it should be, or nothing."""
    side = getattr(model, "preprocessing", Preprocessing()).max_side or 160
    written = load(str(file))
    for height, width in [(64, 96), (97, 65), (side + 13, side - 30)] if size is None else [size]:
        x = _noise(3, (height, width))
        try:
            with torch.inference_mode():
                expected = model(x)
                off = float((written(x) - expected).abs().max() / expected.std())
        except (ModelError, RuntimeError) as error:
            return first_line(error)
        if not off < 0.01:
            return f"its logits of {height} × {width} images differ by {off:.2g} of their standard deviation"
    return ""


def _noise(count: int, size: Size) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


def _open(path: Path, threads: int) -> Any:
    onnxruntime: Any = _libraries()[1]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors are raised
    # Threads that wait do not keep cores from others, torch's own among them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise DataError(f"{path}: not an ONNX file that can be loaded ({first_line(error)})") from error


def _shape(dimensions: list[Any]) -> Shape:
    """Dimensions with a name or nothing are free."""
    return tuple(d if isinstance(d, int) and d > 0 else None for d in dimensions)


def _libraries(*further: str) -> list[ModuleType]:
    """onnx, onnxruntime and the libraries named."""
    with optional("an ONNX file", "onnx"):
        return [import_module(name) for name in ("onnx", "onnxruntime", *further)]

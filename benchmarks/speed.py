"""How long attacks, scores and whole runs take, beside what they cannot do without and beside other libraries.

Everything is a ratio of two things that are measured in turn on the same images and model, so that a machine that
drifts or is busy hurts both alike; the median of the pairs is printed with the least and the largest. Prints a table
and writes it as JSON.

    .venv/bin/python benchmarks/speed.py                       # all sections
    .venv/bin/python benchmarks/speed.py loop libraries        # some of them
    .venv/bin/python benchmarks/speed.py --device cuda --size 512 \\
        --surrogate "smp:deeplabv3plus/resnet101?weights=random&classes=21"
"""

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from segtrans import bench
from segtrans.bench.work import exact
from segtrans.catalogue import attack
from segtrans.data import load_data
from segtrans.data.base import resize
from segtrans.io import to_tensor
from segtrans.logits import finite_images, predicted_classes
from segtrans.memory import keep_freed_memory
from segtrans.models import load_model
from segtrans.models.layout import Enlarged, Pointwise
from segtrans.objectives.base import pixel_losses
from segtrans.spec import make_config

TARGETS = ("deeplabv3plus-mobilenetv3s", "deeplabv3-mobilenetv3s", "pspnet-mobilenetv3s", "fcn-mobilenetv3s")
EPS = 8 / 255


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio with its spread, or a plain number."""

    section: str
    what: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass
class Setting:
    """What is measured on."""

    surrogate: str
    device: str
    size: int
    batch: int
    iterations: int
    repeats: int

    @cached_property
    def model(self) -> nn.Module:
        return load_model(self.surrogate, self.device)

    @cached_property
    def x(self) -> Tensor:
        return self.images(self.batch, self.size)

    @cached_property
    def y(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.x).argmax(1)

    def images(self, count: int, size: int) -> Tensor:
        photos = load_data("photos")
        samples = [resize(photos[i % len(photos)], size) for i in range(count)]
        return torch.stack([to_tensor(sample.image) for sample in samples]).to(self.device)

    def gradients(self, count: int, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """The least that an attack can do: so many forward and backward passes to the input."""
        x, y = self.x if x is None else x, self.y if y is None else y
        for _ in range(count):
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(pixel_losses(self.model(leaf), y).mean(), leaf)

    def seconds(self, work: Callable[[], object]) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def median(self, work: Callable[[], object]) -> float:
        """Seconds of the second time and later ones."""
        work()
        return statistics.median(self.seconds(work) for _ in range(self.repeats))

    def ratio(self, section: str, what: str, one: Callable[[], object], other: Callable[[], object], unit: str) -> Row:
        """How many times as long ``one`` takes as ``other``, pair by pair."""
        one()
        other()
        found = [self.seconds(one) / self.seconds(other) for _ in range(self.repeats)]
        return Row(section, what, statistics.median(found), unit, min(found), max(found))


def gradient(on: Setting) -> Iterator[Row]:
    """One gradient as an attack here takes it, against one of the network as it comes with F.cross_entropy."""
    plain = _as_it_comes(on.surrogate, on.device).requires_grad_(False)

    def theirs() -> None:
        leaf = on.x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(plain(leaf), on.y), leaf)

    ours = partial(on.gradients, 1)
    yield on.ratio("gradient", "network as it comes, weights frozen", theirs, ours, "× ours")
    yield on.ratio("gradient", "ours", ours, partial(_forward, on.model, on.x), "× a forward pass")


def _forward(model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        model(x)


def loop(on: Setting) -> Iterator[Row]:
    """Attacks against as many bare gradients as they ask for."""
    for name in ("bim", "mi", "segpgd", "di", "segtrans"):
        yield _looped(on, f"{name}(iterations={on.iterations})", name)
    yield _looped(on, f"segtrans-k5(iterations={min(on.iterations, 2)})", "segtrans-k5")
    for name in ("mi", "segtrans"):
        half = f"{name}(iterations={on.iterations}, precision='bfloat16')"
        yield _looped(on, half, f"{name} in bfloat16, over float32")


def ceilings(on: Setting) -> Iterator[Row]:
    """What the processor multiplies at its best, and what share of it one gradient of the surrogate reaches."""
    side = 8192 if on.device.startswith("cuda") else 2048
    with FlopCounterMode(display=False) as counter:
        _forward(_as_it_comes(on.surrogate, on.device), on.x)
    # Backwards to the input a convolution multiplies as often as forwards.
    operations = 2e-12 * counter.get_total_flops()
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TensorFloat-32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        if tf32 and not on.device.startswith("cuda"):
            continue
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        one, other = (torch.randn(side, side, device=on.device).to(dtype) for _ in range(2))
        best = 2e-12 * side**3 / on.median(partial(torch.mm, one, other))
        yield Row("ceilings", f"{name}, product of {side}×{side} matrices", best, "TFLOP/s")

        def gradient(dtype: torch.dtype = dtype) -> None:
            with torch.autocast(torch.device(on.device).type, dtype, enabled=dtype is torch.bfloat16):
                on.gradients(1)

        took = on.median(gradient)
        yield Row("ceilings", f"{name}, gradients", on.batch / took, "images per second")
        yield Row("ceilings", f"{name}, operations of gradients", operations / took / best, "of that product's")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def compiled(on: Setting) -> Iterator[Row]:
    """One gradient by a compiled surrogate or, on a GPU, replayed as a CUDA graph, against one as attacks take it."""
    ours, x = partial(on.gradients, 1), on.x.clone().requires_grad_()

    def by(model: nn.Module) -> Tensor:
        return torch.autograd.grad(pixel_losses(model(x), on.y).mean(), x)[0]

    if on.device.startswith("cuda"):
        # Capturing needs what runs for the first time to have run, on another stream than the default one.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                by(on.model)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            by(on.model)
        yield on.ratio("compiled", "CUDA graph", graph.replay, ours, "× ours")
    # Interpolation is torch's own in what is compiled.
    fast = torch.compile(on.model)
    yield on.ratio("compiled", "torch.compile", partial(by, fast), ours, "× ours")


def copies(on: Setting) -> Iterator[Row]:
    """As loop, attacks of twenty and more gradients per iteration."""
    for name in ("vmi", "sia", "bsr"):
        yield _looped(on, f"{name}(iterations={min(on.iterations, 2)})", name)


def _looped(on: Setting, spelled: str, what: str) -> Row:
    crafted = attack(spelled)
    whole, bare = partial(crafted, on.model, on.x, on.y), partial(on.gradients, crafted.evaluations)
    return on.ratio(
        "loop", f"{what}, {crafted.evaluations_per_iteration} per iteration", whole, bare, "× bare gradients"
    )


def memory(on: Setting) -> Iterator[Row]:
    """Peak memory of an attack beyond what holds the model, against one bare gradient's, each in its own process."""
    for name, size in (("mi", on.size), ("segtrans", on.size), ("segtrans-k5", on.size), ("fspgd", 512)):
        plain = _peak(on, "", size)
        yield Row("memory", f"{name} at {size}×{size}", _peak(on, name, size) / plain, "× one gradient's memory")


def _peak(on: Setting, name: str, size: int) -> float:
    command = [
        sys.executable,
        __file__,
        "--peak",
        name or "gradient",
        "--surrogate",
        on.surrogate,
        "--device",
        on.device,
    ]
    command += ["--size", str(size), "--batch", "1"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(on: Setting, name: str) -> float:
    """Bytes at most beyond what is there before, of an attack or of one gradient."""
    if name == "gradient":
        work = partial(on.gradients, 1)
    else:
        work = partial(attack(f"{name}(iterations=2)"), on.model, on.x, on.y, chunk=1)
    # The first time also sets things up.
    work()
    if on.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        # What was freed goes back to the system, or the next would find it there and seem to need nothing.
        ctypes.CDLL(None).malloc_trim(0)
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
    work()
    return (torch.cuda.max_memory_allocated() if on.device.startswith("cuda") else _status("VmHWM")) - before


def _status(key: str) -> float:
    """What Linux says of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def libraries(on: Setting) -> Iterator[Row]:
    """Other libraries' time over ours, with the same labels, budget and number of iterations, on the same model but for
    three rows, in which they get the network as it comes and ours the model as we load it.
    """
    steps, model, x, y = on.iterations, on.model, on.x, on.y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchattacks

        common: dict[str, Any] = {"eps": EPS, "alpha": EPS / 4, "steps": steps}
        for name, ours, more in (
            ("PGD", "pgd", {"random_start": True}),
            ("MIFGSM", "mi", {}),
            ("DIFGSM", "di", {"resize_rate": 0.9, "diversity_prob": 0.5}),
            ("TIFGSM", "ti", {"resize_rate": 0.9, "diversity_prob": 0.0}),
            ("VMIFGSM", "vmi(iterations=2)", {"steps": 2, "N": 20}),
        ):
            theirs = getattr(torchattacks, name)(model, **{**common, **more})
            own = attack(ours if "(" in ours else f"{ours}(iterations={steps})")
            yield on.ratio(
                "libraries", f"torchattacks {name}", partial(theirs, x, y), partial(own, model, x, y), "× ours"
            )

        pgd = partial(attack(f"pgd(iterations={steps})"), model, x, y)
        yield on.ratio("libraries", "foolbox LinfPGD", _foolbox(on, model), pgd, "× ours")
        plain = _as_it_comes(on.surrogate, on.device)
        yield on.ratio("libraries", "foolbox LinfPGD, network as it comes", _foolbox(on, plain), pgd, "× ours")
        theirs = torchattacks.PGD(plain, **common, random_start=True)
        yield on.ratio("libraries", "torchattacks PGD, network as it comes", partial(theirs, x, y), pgd, "× ours")
        yield on.ratio("libraries", "ART ProjectedGradientDescent", _art(on, model), pgd, "× ours")
        theirs = _art(on, plain)
        yield on.ratio("libraries", "ART ProjectedGradientDescent, network as it comes", theirs, pgd, "× ours")
        for name, ours in (("alma_prox", "alma-prox"), ("dag", "dag")):
            own = partial(attack(f"{ours}(iterations={steps})"), model, x, y)
            yield on.ratio("libraries", f"adv-lib {name}", _adv_lib(on, name), own, "× ours")


def _as_it_comes(spec: str, device: str) -> nn.Module:
    """A model as torch makes networks: backward() computes gradients of weights, too, they lie in the order of their
    dimensions, and PyTorch chooses by which routine they are applied.
    """
    model = load_model(spec, device).requires_grad_(True)
    for module in model.modules():
        if isinstance(module, Pointwise):
            module.__class__ = nn.Conv2d
        if isinstance(module, Enlarged):
            module.__class__ = nn.Upsample
    for weight in model.parameters():
        weight.data = weight.data.contiguous()
    return model


def _foolbox(on: Setting, network: nn.Module) -> Callable[[], object]:
    import scipy.ndimage

    sys.modules.setdefault("scipy.ndimage.filters", scipy.ndimage)
    import foolbox

    def dense(model: Any, labels: Any) -> Callable[[Any], Any]:
        return lambda z: type(z)(F.cross_entropy(model(z).raw, labels.raw, reduction="none").mean((1, 2)).sum())

    theirs = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=on.iterations, random_start=True)
    theirs.get_loss_fn = dense
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=on.device)
    return partial(theirs.run, model, on.x, foolbox.criteria.Misclassification(on.y), epsilon=EPS)


def _art(on: Setting, network: nn.Module) -> Callable[[], object]:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators import BaseEstimator, LossGradientsMixin
    from art.estimators.classification import ClassifierMixin

    class Dense(ClassifierMixin, LossGradientsMixin, BaseEstimator):
        """The surrogate with an image's number in the place of its label."""

        input_shape = tuple(on.x.shape[1:])
        nb_classes = on.batch
        fit = None

        def predict(self, x: np.ndarray, **_: Any) -> np.ndarray:
            return np.zeros((len(x), on.batch))

        def loss_gradient(self, x: np.ndarray, y: np.ndarray, **_: Any) -> np.ndarray:
            leaf, numbers = torch.from_numpy(x).to(on.device).requires_grad_(), torch.from_numpy(y).argmax(1)
            loss = F.cross_entropy(network(leaf), on.y[numbers], reduction="none").mean((1, 2)).sum()
            return torch.autograd.grad(loss, leaf)[0].cpu().numpy()

    settings: dict[str, Any] = {"eps": EPS, "eps_step": EPS / 4, "max_iter": on.iterations, "num_random_init": 1}
    theirs = ProjectedGradientDescent(Dense(model=network, clip_values=(0, 1)), verbose=False, **settings)
    return partial(theirs.generate, on.x.cpu().numpy(), np.arange(on.batch))


def _adv_lib(on: Setting, name: str) -> Callable[[], object]:
    plots: Any = ModuleType("visdom")
    plots.Visdom = object
    sys.modules.setdefault("visdom", plots)
    from adv_lib.attacks import segmentation

    # What it would compile takes minutes, once.
    torch.compiler.set_stance("force_eager")
    settings = {"num_steps": on.iterations} if name == "alma_prox" else {"max_iter": on.iterations}
    return partial(getattr(segmentation, name), on.model, on.x, on.y, **settings)


def published(on: Setting) -> Iterator[Row]:
    """Attacks at the cost they were published with, against one of segtrans."""
    own = partial(attack("segtrans"), on.model, on.x, on.y)
    for name in ("mi", "segtrans-k5", "bsr", "sia", "decowa", "vmi", "pgn"):
        crafted = attack(name)
        what = f"{name}, {crafted.evaluations} gradients"
        once = Setting(**{**_values(on), "repeats": min(on.repeats, 3)})
        yield once.ratio("published", what, partial(crafted, on.model, on.x, on.y), own, "× segtrans")


def _values(on: Setting) -> dict[str, Any]:
    return {name: getattr(on, name) for name in ("surrogate", "device", "size", "batch", "iterations", "repeats")}


def scores(on: Setting) -> Iterator[Row]:
    """A run on one surrogate and many targets against its attack and one forward pass per target and image."""
    for count in (1, 4, 12):
        with tempfile.TemporaryDirectory() as folder:
            run, least = _scores(on, count, Path(folder))
            yield on.ratio("scores", f"1 surrogate × {count} targets", run, least, "× attack and forward passes")


def _scores(on: Setting, count: int, folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    models, crafted = _targets(on, count), attack(f"mi(iterations={on.iterations})")
    batches = [on.images(1, on.size) for _ in load_data("photos")]
    values: dict[str, Any] = {"surrogates": ["s"], "targets": list(models), "attacks": ["mi"], "out": folder}
    values |= {"size": on.size, "batch": 1, "pictures": 0, "device": on.device, "data": "photos"}
    known = {"s": on.model, **models}
    # Reading all of a model's weights for its fingerprint is once per run, however many images it has. Clean masks are
    # there from the first time on; another seed is another unit.
    plans = iter(
        [
            bench.make_plan(make_config({**values, "seeds": [seed]}), models=known, attacks={"mi": crafted})
            for seed in range(on.repeats + 1)
        ]
    )

    def run() -> None:
        bench.execute(next(plans), quiet=True)

    def least() -> None:
        for x in batches:
            adversarial = crafted(on.model, x)
            with torch.inference_mode():
                for model in models.values():
                    model(adversarial)

    return run, least


def _targets(on: Setting, count: int) -> dict[str, Any]:
    models = {f"target {i}": load_model(f"zoo:voc/{TARGETS[i % len(TARGETS)]}", on.device) for i in range(count)}
    # Different models: what is the same would be scored once.
    for i, model in enumerate(models.values()):
        next(model.network.buffers()).add_(i * 1e-6)
    return models


def pipeline(on: Setting) -> Iterator[Row]:
    """The script that people write: attack, save, and per target load the model and the images again; with models as we
    load them and as they come.
    """
    images, steps = load_data("photos"), on.iterations
    names = [f"zoo:voc/{name}" for name in (*TARGETS, *TARGETS)]

    def script(load: Callable[[str, str], nn.Module]) -> None:
        import torchattacks

        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(name)
            for attacker in ("MIFGSM", "DIFGSM"):
                model = load(on.surrogate, on.device)
                crafted = getattr(torchattacks, attacker)(model, eps=EPS, alpha=EPS / 4, steps=steps)
                for sample in images:
                    x = to_tensor(resize(sample, on.size).image)[None].to(on.device)
                    with torch.no_grad():
                        y = model(x).argmax(1)
                    pixels = (crafted(x, y)[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
                    Image.fromarray(pixels).save(folder / f"{sample.name}.png")
                for target in names:
                    model, total = load(target, on.device), 0.0
                    for sample in images:
                        clean = to_tensor(resize(sample, on.size).image)[None].to(on.device)
                        with Image.open(folder / f"{sample.name}.png") as file:
                            x = to_tensor(np.array(file))[None].to(on.device)
                        with torch.no_grad():
                            before, after = model(clean).argmax(1), model(x).argmax(1)
                        for label in before.unique():
                            both, either = (before == label) & (after == label), (before == label) | (after == label)
                            total += float(both.sum() / either.sum())

    def ours() -> None:
        models = _targets(on, len(names))
        with tempfile.TemporaryDirectory() as folder:
            values: dict[str, Any] = {"surrogates": [on.surrogate], "targets": list(models), "size": on.size}
            values |= {"attacks": [f"mi(iterations={steps})", f"di(iterations={steps})"], "pictures": 0, "quiet": True}
            bench.run(models=models, data="photos", out=Path(folder), device=on.device, batch=on.batch, **values)

    once = Setting(**{**_values(on), "repeats": min(on.repeats, 3)})
    what = "2 attacks × 8 targets, with PNGs and models read again"
    yield once.ratio("pipeline", what, partial(script, load_model), ours, "× ours")
    yield once.ratio("pipeline", f"{what}, networks as they come", partial(script, _as_it_comes), ours, "× ours")


def scaling(on: Setting) -> Iterator[Row]:
    """Seconds per image of a few iterations, over batch, size and copies."""
    crafted = partial(attack("segtrans(iterations=2)"), on.model)
    for batch in (1, 2, 4, 8):
        x = on.images(batch, on.size)
        crafted(x)
        yield Row("scaling", f"batch {batch}", on.seconds(partial(crafted, x)) / batch, "seconds per image")
    for size in (128, 256, 384, 512):
        x = on.images(1, size)
        crafted(x)
        yield Row("scaling", f"{size}×{size}", on.seconds(partial(crafted, x)), "seconds per image")
    for name in ("segtrans", "segtrans-k5", "segtrans-k20"):
        x, many = on.images(1, on.size), attack(f"{name}(iterations=2)")
        yield Row("scaling", name, on.seconds(partial(many, on.model, x)), "seconds per image")


def kernels(on: Setting) -> Iterator[Row]:
    """What one call of our own and of others' takes on logits of 21 classes and on a gradient, the least of thirty."""
    random = torch.Generator().manual_seed(0)
    shape = (on.batch, 21, on.size, on.size)
    logits = torch.randn(shape, generator=random).to(on.device)
    gradient = torch.randn((on.batch, 3, *shape[2:]), generator=random).to(on.device)
    many = torch.randn((on.batch, 150, *shape[2:]), generator=random).to(on.device)
    many = many.contiguous(memory_format=torch.channels_last)
    for what, call in (
        ("argmax(1)", lambda: logits.argmax(1)),
        ("predicted_classes, 150 classes, channels last", lambda: predicted_classes(many)),
        ("argmax(1), 150 classes, channels last", lambda: many.argmax(1)),
        ("max(1)", lambda: logits.max(1)),
        ("amax(1)", lambda: logits.amax(1)),
        ("predicted_classes", lambda: predicted_classes(logits)),
        ("isfinite().all()", lambda: logits.isfinite().flatten(1).all(1)),
        ("finite_images", lambda: finite_images(logits)),
        ("vector_norm(inf)", lambda: torch.linalg.vector_norm(gradient.flatten(1), float("inf"), dim=1)),
        ("abs().amax(1)", lambda: gradient.abs().flatten(1).amax(1)),
    ):
        yield Row("kernels", what, 1000 * min(on.seconds(call) for _ in range(30)), "ms")


def startup(on: Setting) -> Iterator[Row]:
    """Seconds until there is something to see, median of five."""
    torch_only = _python("import torch")
    for what, code in (
        ("import torch", "import torch"),
        ("import segtrans", "import segtrans"),
        ("import torch, segtrans.catalogue", "import torch, segtrans.catalogue"),
        ("segtrans --help", "import sys; sys.argv = ['segtrans', '--help']; from segtrans.cli import main; main()"),
        (
            "segtrans list attacks",
            "import sys; sys.argv[1:] = ['list', 'attacks']; from segtrans.cli import main; main()",
        ),
    ):
        yield Row("startup", what, torch_only if what == "import torch" else _python(code), "seconds")


COMMAND = "import sys; sys.argv = ['segtrans', '{}']; from segtrans.cli import main; main()"


def _python(code: str) -> float:
    found: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


SECTIONS = {
    section.__name__: section
    for section in (
        kernels,
        gradient,
        ceilings,
        compiled,
        loop,
        copies,
        libraries,
        published,
        scores,
        pipeline,
        memory,
        scaling,
        startup,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--surrogate", default="zoo:voc/deeplabv3plus-efficientnetlite0")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    values = ("surrogate", "device", "size", "batch", "iterations", "repeats")
    on = Setting(**{name: getattr(options, name) for name in values})
    if options.peak:
        print(peak(on, options.peak))
        return
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    # As our command line does; everybody here gains by it.
    keep_freed_memory()
    machine = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor()
    print(f"{on.surrogate}, {on.batch} images of {on.size}×{on.size}, {on.device}: {machine}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows: list[Row] = []
    # As in runs, TensorFloat-32 is off.
    with exact(torch.device(options.device)):
        for row in chain.from_iterable(SECTIONS[name](on) for name in options.sections or SECTIONS):
            spread = "" if row.low is None else f"  ({row.low:.3f} to {row.high:.3f})"
            print(f"{row.section:10s} {row.what:56s} {row.value:8.3f} {row.unit}{spread}", flush=True)
            rows.append(row)
    if options.json:
        found = {**{name: getattr(on, name) for name in values}, "torch": torch.__version__, "machine": machine}
        options.json.write_text(json.dumps({**found, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()

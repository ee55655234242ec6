"""Commands on single models."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from segtrans import completion
from segtrans.cli.options import DATA, MODEL, AsJson, What, Where, command
from segtrans.cli.output import print_json


@command("segtrans export zoo:voc/deeplabv3plus-mobilenetv3s model.onnx")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model to write.", autocompletion=completion.models)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="FILE.onnx; one that is there is replaced.")],
    size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="H W", help="Height and width of all images; default: any.")
    ] = None,
) -> None:
    """Write a model as one ONNX file: images in [0, 1] in, logits at their size out."""
    from segtrans.models import load_model
    from segtrans.models.onnx import export_onnx

    fixed = export_onnx(load_model(model), file, size)
    images = "images of any size" if fixed is None else f"images of {fixed[0]} × {fixed[1]} (height × width) only"
    sys.stdout.write(f"wrote {file}: {images}\n")


@command("segtrans doctor", "segtrans doctor -m torchvision:deeplabv3_resnet50 --data voc:VOCdevkit/VOC2012")
def doctor(
    model: Annotated[list[str] | None, What("--model", "-m", help="Model to examine; repeatable.", **MODEL)] = None,
    data: Annotated[str, What("--data", help="What to examine it on: voc:PATH, …, photos.", **DATA)] = "photos",
    size: Annotated[int, What(metavar="PIXELS", help="Squeeze images to this square.")] = 128,
    device: Annotated[str, Where("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what results depend on here, and what is wrong with models (then the exit code is 2)."""
    from dataclasses import asdict

    from segtrans.doctor import diagnose, environment

    surroundings, found = environment(), diagnose(model or [], data, size=size, device=device)
    if as_json:
        findings = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
        print_json({"environment": surroundings, "models": findings})
    else:
        lines = [f"{name}: {value}" for name, value in surroundings.items()]
        for name, findings in found.items():
            lines += [f"{name}: {finding.fault}: {finding.advice}" for finding in findings] or [f"{name}: sound"]
        sys.stdout.write("\n".join(lines) + "\n")
    raise typer.Exit(2 if any(found.values()) else 0)

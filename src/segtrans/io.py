"""Images, masks and small files on disk: strict readers, atomic writers."""

import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from segtrans.errors import DataError

Pixels = npt.NDArray[np.uint8]

# Pillow goes by a file's content, not by its name, and knows formats that start other programs (EPS).
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 2**26
NOT_NOW = "not a readable image at this time"
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE)
"""What a system may do better another time."""
PHOTO_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
BITS = ExifTags.Base.BitsPerSample
STRETCHED = {"L;2": 85, "L;4": 17}
"""By how much Pillow multiplies grey levels of fewer than eight bits, which suits photographs and no class ids."""


def _open(path: Path) -> tuple[Image.Image, str, int]:
    """The decoded image at ``path``, turned upright, and what :func:`_stored` says of it.

    DataError if it is missing, damaged, huge or not one image.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: not a readable image (it is no file)")  # a pipe would never end
        # Given a path, Pillow maps plain TIFFs into memory and scrambles single-channel ones that lie on their side.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # cameras' JPEGs, whose first frame is the photograph
                raise DataError(f"{path}: {frames} images in one file; allowed is one")
            mode, most = _stored(image)
            # Pillow goes by the number of colours, not by the length of a row.
            if (
                mode == "1"
                and image.format == "BMP"
                and cast(Any, image).tile[0].args[1] > (image.width + 31) // 32 * 4
            ):
                why = "a palette of two colours with 8 bits per pixel, which Pillow reads as single bits"
                raise DataError(f"{path}: {why}; refused")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image, mode, most
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        size = path.stat().st_size
        raise DataError(
            f"{path}: {size} bytes that are no image of a format read here ({', '.join(FORMATS)})"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path}: more than {MAX_PIXELS} pixels, refused") from None
    except DataError:
        raise
    except Exception as error:
        # On damaged files the decoders raise whatever they stumble over, from struct.error to IndexError.
        passing = isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING
        raise DataError(f"{path}: {NOT_NOW if passing else 'not a readable image'} ({error})") from error


def _stored(image: Image.Image) -> tuple[str, int]:
    """Of an image that is not decoded yet Pillow's raw mode, such as ``L;4``, and the largest level of a PGM or PPM,
    which may be any number, and is stretched, too; 255 for other formats.
    """
    for codec, *_, settings in cast(Any, image).tile:
        words: tuple[Any, ...] = settings if isinstance(settings, tuple) else (settings,)
        # Planes of a TIFF that lie one after the other have one-letter modes, however many bits there are.
        if words[0] == "R" and max(cast(Any, image).tag_v2[BITS]) > 8:
            return "R;16", 255
        return str(words[0]), words[1] if codec.startswith("ppm") and words[1:] else 255
    return "", 255


def _spelled(mode: str, most: int) -> str:
    return mode if most == 255 else f"{mode} up to {most}"


def read_image(path: Path) -> Pixels:
    """A photograph as RGB uint8 (H, W, 3), turned upright by its EXIF tag; transparency is dropped.

    Raises:
        DataError: the file is missing, damaged, too large or has more than 8 bits per channel.
    """
    image, mode, most = _open(path)
    # Pillow has no modes of more bits in colour, and would cut them to eight.
    deep = most > 255 or (";16" in mode and mode != "BGR;16")
    if image.mode not in PHOTO_MODES or deep:
        found = _spelled(mode, most) if image.mode in PHOTO_MODES else image.mode
        raise DataError(f"{path}: image has mode {found}; allowed are 8 bits per channel in {', '.join(PHOTO_MODES)}")
    if "transparency" in image.info:
        # Pillow warns about palettes with transparency unless they pass through RGBA.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_mask(path: Path) -> Pixels:
    """A mask of class ids as uint8 (H, W), from a single-channel image or the indices of a palette image.

    Raises:
        DataError: the file is missing, damaged, too large, lossy, coded in colours, or has values above 255.
    """
    image, mode, most = _open(path)
    if image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression", "")):
        raise DataError(
            f"{path}: mask is compressed as JPEG, which alters class ids; allowed are lossless formats such as PNG"
        )
    if image.mode not in MASK_MODES:
        raise DataError(
            f"{path}: mask has mode {image.mode}; "
            "allowed are single-channel or palette images of class ids, not colours"
        )
    # In a TIFF, bits can be stored with white as zero.
    swapped = image.format == "TIFF" and mode.startswith("1;I")
    if swapped or most not in (255, 65535) or (image.mode == "L" and mode not in ("L", *STRETCHED)):
        found = _spelled(mode, most)
        raise DataError(f"{path}: mask has grey levels of mode {found}, which are no class ids; allowed are 8 bits")
    mask = np.array(image) // STRETCHED.get(mode, 1)
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > 255:
        raise DataError(f"{path}: mask value {low if low < 0 else high} is out of range; allowed are 0 to 255")
    return mask.astype(np.uint8)


def lies_on_its_side(path: Path) -> bool:
    """Whether the EXIF tag of an image exchanges width and height."""
    with Image.open(path, formats=FORMATS) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)


def to_tensor(image: Pixels) -> Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def to_pixels(image: Tensor) -> Pixels:
    """float (3, H, W) in [0, 1] to uint8 (H, W, 3), rounded to the nearest grey level (never truncated)."""
    return (image.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place: all of it or nothing, also where
    the power fails. An OSError names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        # A full disk is met while writing, which tells of no file.
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Bring a file, or a folder's list of files, from memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """As UTF-8; bytes of file names that are none stand there as escapes, which JSON reads back."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: Path, document: Any) -> None:
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def encode_png(pixels: Pixels) -> bytes:
    """uint8 (H, W, 3) or (H, W) as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def write_image(path: Path, image: Pixels) -> None:
    """Save uint8 (H, W, 3) or (H, W) losslessly as PNG."""
    raw = encode_png(image)
    write_atomically(path, lambda temporary: temporary.write_bytes(raw))


def write_mask(path: Path, mask: Tensor) -> None:
    """Save class ids (H, W), at most 255 of them, as a single-channel PNG."""
    write_image(path, mask.byte().cpu().numpy())


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Pictures from files and to files: arrays (C, H, W) of float32 with values 0..1, by Pillow.

Whatever the file holds becomes grey (one channel) or colour (three, RGB): palettes and CMYK are converted, what is transparent
is laid over white, 16-bit values keep their depth, a photograph's turning note is obeyed, and of a moving picture the first
frame is taken. Each such step is noted in words.

Only the formats of FORMATS are opened, whatever a file is called: Pillow knows others whose decoders start programs (Ghostscript for
EPS) or are hardly ever tested. A file is refused before it is decoded where its pixels would take more than the memory allowed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.host import write_file
from preimage.io import limits

__all__ = [
    "Picture",
    "decoded_pixels",
    "demo_picture",
    "encoded",
    "picture_size",
    "read_mask",
    "read_picture",
    "read_pixels",
    "to_bytes",
    "write_picture",
]

Array = NDArray[Any]
#: Above this many pixels a file is refused before it is decoded.
MOST_PIXELS = 200_000_000
#: Pillow's names of the formats that are opened.
FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM")
#: The most that a pixel takes on its way: decoded, converted, as three floats, twice for a moment.
BYTES_A_PIXEL = 40
#: Frames are counted up to so many, and so many pixels.
MOST_FRAMES, MOST_COUNTED_PIXELS = 100, 20_000_000


@dataclass(slots=True)
class Picture:
    """A picture's name and values (C, H, W), whether its file had colour, and what was done to it on the way in."""

    name: str
    values: Array
    has_colour: bool = False
    notes: list[str] = field(default_factory=list)

    def grey(self) -> Array:
        """One channel: the luma of ITU-R BT.601, as Pillow weighs it."""
        if len(self.values) == 1:
            return self.values
        red, green, blue = self.values
        luma: Array = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
        return luma[None]

    def colour(self) -> Array:
        """Three channels."""
        return self.values if len(self.values) == 3 else np.repeat(self.values, 3, axis=0)


def read_picture(path: str | Path, longest: int | None = None) -> Picture:
    """The picture in a file, made smaller where its longest side is above `longest`.

    Raises: FileFormatError that names the file, for one that is missing, empty, no picture, broken off or far too large.
    """
    path = Path(path)
    image, notes = _open(path)
    name = path.stem or path.name
    if longest is not None and max(image.size) > longest:
        before = image.size
        scale = longest / max(before)
        image = _deep(image) if image.mode.startswith("I") else image
        image = image.resize((max(1, round(before[0] * scale)), max(1, round(before[1] * scale))), _resampling())
        notes.append(f"made smaller: {before[0]}x{before[1]} to {image.size[0]}x{image.size[1]}")
    values, has_colour = _values(image, notes)
    if not np.isfinite(values).all():
        raise FileFormatError(f"{path}: holds NaN or infinite values")
    return Picture(name, values, has_colour, notes)


def read_mask(path: str | Path) -> Array:
    """A mask (H, W) of bool: True where the file is bright (white: known), False where it is dark (black: to be filled in)."""
    image, _ = _open(Path(path))
    values, _ = _values(image, [])
    mask: Array = values.mean(axis=0) > 0.5
    return mask


def picture_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a picture as its file stores it, without decoding it. Raises: as read_picture."""
    with _opened(Path(path)) as image:
        return image.height, image.width


def read_pixels(path: str | Path, *, colour: bool = True, size: tuple[int, int] | None = None) -> Array:
    """Pixels (H, W, 3), or (H, W) without colour, as float32 in 0..255, resized to `size` (H, W) if given; alpha is left out.

    Raises: as read_picture.
    """
    from PIL import Image

    path = Path(path)
    with _opened(path) as image, _decoding(path):
        image.load()
        if image.mode.startswith("I;16"):
            plain: Any = Image.fromarray((np.asarray(image) / 257.0).astype(np.uint8))
        else:
            plain = image
        plain = plain.convert("RGB" if colour else "L")
        if size is not None:
            plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(plain, np.float32)


def decoded_pixels(data: bytes, said: str) -> Array:
    """The bytes (H, W) or (H, W, 3) of a picture that lies inside another file; `said` names it in errors. Raises: as read_picture."""
    from PIL import Image, UnidentifiedImageError

    with _decoding(Path(said)):
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
        except (UnidentifiedImageError, Image.DecompressionBombError):
            raise FileFormatError(f"{said}: no picture that Pillow can read as {', '.join(FORMATS)}") from None
        limits.check_bytes(BYTES_A_PIXEL * image.width * image.height, f"{said}: a picture of {image.width}x{image.height}")
        image.load()
        return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def demo_picture() -> Picture:
    """scikit-image's photograph `camera`, 512x512, from the installed package's own file.

    Raises: ModuleNotFoundError where scikit-image is not installed; FileFormatError where it lacks the file.
    """
    from importlib.resources import files

    place = files("skimage") / "data" / "camera.png"
    if not place.is_file():
        raise FileFormatError("scikit-image is installed but without its file data/camera.png: give a picture of your own")
    image, notes = _open(Path(str(place)))
    values, has_colour = _values(image, notes)
    return Picture("camera", values, has_colour, ["the photograph 'camera' that comes with scikit-image"])


def to_bytes(values: Array) -> Array:
    """Values 0..1 (C, H, W) as bytes (H, W) or (H, W, 3), clipped and rounded."""
    scaled = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    return scaled[0] if len(scaled) == 1 else np.ascontiguousarray(np.moveaxis(scaled, 0, -1))


def encoded(values: Array, kind: str = "PNG", **options: Any) -> bytes:
    """Values (C, H, W) or bytes (H, W[, 3]) as the bytes of an image file."""
    from PIL import Image

    pixels = values if values.dtype == np.uint8 else to_bytes(values)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_picture(path: str | Path, values: Array, *, overwrite: bool = True) -> None:
    """Values (C, H, W) or bytes (H, W[, 3]) as a PNG file, written whole or not at all."""
    write_file(path, encoded(values, "PNG", optimize=True), overwrite=overwrite)


def _open(path: Path) -> tuple[Any, list[str]]:
    """The first frame, decoded and turned as its camera noted, and notes about it."""
    from PIL import ImageOps

    with _opened(path) as image, _decoding(path):
        notes = _frames(image)
        image.load()
        turned = ImageOps.exif_transpose(image)
        if turned.size != image.size:
            notes.append("turned as its camera noted")
        return turned if turned is not image else image.copy(), notes


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Pillow's image of a file, not yet decoded: of one of FORMATS, and of a size that may be decoded."""
    from PIL import Image, UnidentifiedImageError

    if path.is_dir():
        raise FileFormatError(f"{path}: is a folder, not a picture")
    with _decoding(path):
        if not path.exists():
            raise FileFormatError(f"{path}: there is no such file")
        if not path.is_file():
            raise FileFormatError(f"{path}: is a pipe or a device, not a file")
        if not path.stat().st_size:
            raise FileFormatError(f"{path}: the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                opened = Image.open(path, formats=FORMATS)
            except Image.DecompressionBombError:
                raise FileFormatError(f"{path}: has far more pixels than a picture has; make it smaller") from None
            except UnidentifiedImageError:
                raise FileFormatError(f"{path}: no picture that Pillow can read as {', '.join(FORMATS)}") from None
    with opened as image:
        pixels = image.width * image.height
        if pixels > MOST_PIXELS:
            raise FileFormatError(
                f"{path}: {image.width}x{image.height} is more than {MOST_PIXELS // 1_000_000} million pixels; make it smaller"
            )
        limits.check_bytes(BYTES_A_PIXEL * pixels, f"{path}: a picture of {image.width}x{image.height}")
        yield image


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """What goes wrong inside Pillow's decoders, in many kinds of errors, as one of ours that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that is damaged and not used
            yield
    except FileFormatError:
        raise
    except PermissionError:
        raise FileFormatError(f"{path}: may not be read (permission denied)") from None
    except Exception as error:
        raise FileFormatError(f"{path}: the picture is broken: {error or type(error).__name__}") from None


def _frames(image: Any) -> list[str]:
    """A note on a file of several frames. Counting all of them could take for ever."""
    most = max(2, min(MOST_FRAMES, MOST_COUNTED_PIXELS // max(1, image.width * image.height)))
    count = 1
    try:
        while count < most + 1:
            image.seek(count)
            count += 1
    except (EOFError, AttributeError):
        pass
    except Exception:  # a later frame that is broken is no matter
        count += 1
    image.seek(0)
    return [] if count == 1 else [f"the first of {count if count <= most else f'more than {most}'} frames"]


def _resampling() -> Any:
    from PIL import Image

    return Image.Resampling.LANCZOS


def _deep(image: Any) -> Any:
    """A 16- or 32-bit picture as float, which Pillow can resample."""
    return image.convert("I").convert("F") if image.mode.startswith("I;") else image.convert("F")


def _values(image: Any, notes: list[str]) -> tuple[Array, bool]:
    """Pixels as float32 (C, H, W) in 0..1 and whether they have colour."""
    from PIL import Image

    mode = image.mode
    if mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")
        notes.append("palette turned into colours")
    elif mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
            notes.append("transparent parts laid over white")
        image = image.convert("RGB")
    elif mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
        notes.append(f"{mode} turned into RGB")
    elif mode == "1":
        image = image.convert("L")
    if image.mode in ("L", "RGB"):
        pixels = np.asarray(image, np.float32)
        pixels = np.divide(pixels, np.float32(255.0), out=pixels if pixels.flags.writeable else None)
    elif image.mode.startswith("I") or image.mode == "F":
        pixels = np.asarray(image).astype(np.float32)
        largest = float(pixels.max()) if pixels.size else 0.0
        depth = 1.0 if image.mode == "F" and largest <= 1.0 else 255.0 if largest <= 255 and mode == "F" else 65535.0
        depth = max(depth, largest) if largest > 65535 else depth
        if depth != 1.0:
            notes.append(f"values divided by {depth:g}")
        pixels = np.maximum(pixels / depth, 0.0)
    else:
        raise FileFormatError(f"a picture of Pillow's mode {mode!r} is not handled; save it as PNG or JPEG")
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels[None]), False
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    has_colour = not (np.array_equal(planes[0], planes[1]) and np.array_equal(planes[0], planes[2]))
    return (planes, True) if has_colour else (planes[:1].copy(), False)

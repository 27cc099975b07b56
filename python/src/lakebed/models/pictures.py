"""Decodes a picture into a square of RGB pixels, in bounded memory whatever the bytes are.

The size is taken from the header and checked before anything is decoded. A large JPEG is decoded at
a fraction of its size. What is transparent becomes white, EXIF's rotation is applied, and greys,
palettes, CMYK and 16 bits become RGB. Pillow alone does this, so that every worker gives the same
pixels.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from lakebed.models.model import RowError

# Width and height of what the built-in network reads.
SIDE = 224
# Pixels that a picture may have by its header; Pillow warns beyond the same number.
PICTURE_PIXELS_MAX = 89_478_485
# Memory that pictures in the making may take together, over all threads of the process.
DECODE_BYTES_MAX = 512 << 20
# Formats that are tried. Others of Pillow's run programs or are read by code that few people test.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
# Memory at the peak of the work, measured. What is transparent is copied to be laid on white.
BYTES_A_PIXEL = 8
BYTES_A_PIXEL_ODD = 16
BYTES_A_PIXEL_TRANSPARENT = 24

# The limit above is checked by name; Pillow's warning about the same would only come beside it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class _Budget:
    """A number of bytes that threads share; one that wants more waits."""

    def __init__(self, limit: int) -> None:
        self._free = self._limit = limit
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, wanted: int) -> Iterator[None]:
        # A picture beyond the whole budget runs alone, which the limit on pixels bounds.
        taken = min(wanted, self._limit)
        with self._changed:
            while self._free < taken:
                self._changed.wait()
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()


_budget = _Budget(DECODE_BYTES_MAX)


def decode_picture(data: bytes, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """The pixels of an encoded picture, `side` x `side` x 3.

    Raises:
        RowError: the bytes are no picture of a known format, are broken, or claim too many pixels.
    """
    if not data:
        raise RowError("picture is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width < 1 or height < 1:
                raise RowError(f"picture has no pixels: {width} x {height}")
            if width * height > PICTURE_PIXELS_MAX:
                raise RowError(
                    f"picture is {width} x {height}; "
                    f"at most {PICTURE_PIXELS_MAX} pixels are decoded"
                )
            # JPEG alone can be decoded smaller; asking for twice the side keeps the resize honest.
            picture.draft(None, (2 * side, 2 * side))
            with _budget.take(picture.size[0] * picture.size[1] * _bytes_a_pixel(picture)):
                return _pixels(picture, side)
    except RowError:
        raise
    except UnidentifiedImageError:
        raise RowError("picture is of no known format") from None
    except Image.DecompressionBombError:
        raise RowError(f"picture claims more than {PICTURE_PIXELS_MAX} pixels") from None
    except MemoryError:
        raise RowError("picture does not fit into memory") from None
    except Exception as error:
        # A broken file makes Pillow raise almost anything: OSError, SyntaxError, struct.error, …
        raise RowError(f"picture is broken: {type(error).__name__}: {str(error)[:200]}") from None


def _is_transparent(picture: Image.Image) -> bool:
    return picture.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info


def _bytes_a_pixel(picture: Image.Image) -> int:
    if _is_transparent(picture):
        return BYTES_A_PIXEL_TRANSPARENT
    return BYTES_A_PIXEL if picture.mode in {"RGB", "L", "1"} else BYTES_A_PIXEL_ODD


def _pixels(picture: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)
    resized = _to_rgb(picture).resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.array(resized, np.uint8)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue; what is transparent becomes white."""
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        return _from_deep_grey(picture)
    if _is_transparent(picture):
        straight = picture.convert("RGBA")
        white = Image.new("RGBA", straight.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, straight).convert("RGB")
    return picture if mode == "RGB" else picture.convert("RGB")


def _from_deep_grey(picture: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits: the upper byte of 16. Pillow's own conversion would clip at 255."""
    values = np.asarray(picture)
    if picture.mode == "F" or values.dtype.kind == "f":
        raise RowError("picture has floating-point pixels, whose range is not known")
    if values.min() < 0 or values.max() > 0xFFFF:
        raise RowError("picture has greys of more than 16 bits")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8), "L").convert("RGB")

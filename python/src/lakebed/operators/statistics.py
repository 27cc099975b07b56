"""Statistics of pictures: a class that workers run."""

from typing import Any

import numpy as np
import pyarrow as pa
from lancedb import udf

from lakebed.operators.packages import NUMPY, PILLOW


@udf(
    pip=[NUMPY, PILLOW],
    input_schema=pa.schema([pa.field("picture", pa.binary(), nullable=False)]),
    output_schema=pa.schema(
        [
            pa.field("format", pa.string()),
            pa.field("mode", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("brightness", pa.float32()),
            pa.field("contrast", pa.float32()),
            pa.field("dark", pa.float32()),
            pa.field("bright", pa.float32()),
            pa.field("sharpness", pa.float32()),
        ]
    ),
)
class image_statistics:
    """What a picture is like, from its pixels at full size.

    All of it is computed from the luminance of each pixel, 0 to 255: (299 R + 587 G + 114 B) /
    1000, as Pillow rounds it. What is transparent lies on white; of greys of 16 bits the upper byte
    counts.

    Returns:
        `format` and `mode` as Pillow calls them, such as `JPEG` and `RGB`; `width` and `height` in
        pixels as stored, without EXIF's rotation; `brightness`, the mean luminance, 0 to 1;
        `contrast`, its standard deviation, 0 to 0.5; `dark` and `bright`, the shares of pixels with
        a luminance of at most 25 and of at least 230; `sharpness`, the variance of the Laplacian
        (the four neighbours of a pixel less four times itself) over all pixels but those of the
        border, in squared steps of
        luminance: blurred pictures have little. Null below 3 x 3 pixels.
    """

    def __init__(self, pixels_max: int = 89_478_485) -> None:
        self.pixels_max = pixels_max

    def __call__(self, picture: bytes) -> dict[str, Any]:
        """The statistics of one picture.

        Raises:
            ValueError: the bytes are no picture of a known format, are broken, or claim too many
                pixels.
        """
        import io
        import warnings

        from PIL import Image, UnidentifiedImageError

        # The limit is checked below; Pillow's warning about the same would only come beside it.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Others of Pillow's run programs or are read by code that few people test.
        formats = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
        try:
            with Image.open(io.BytesIO(picture), formats=formats) as opened:
                width, height = opened.size
                if not 1 <= width * height <= self.pixels_max:
                    raise ValueError(
                        f"picture is {width} x {height}; 1 to {self.pixels_max} pixels are decoded"
                    )
                about = {"format": str(opened.format), "mode": opened.mode}
                opened.load()
                grey = self.grey(opened)
        except Image.DecompressionBombError:
            raise ValueError(f"picture claims more than {self.pixels_max} pixels") from None
        except UnidentifiedImageError:
            raise ValueError("picture is of no known format") from None
        except ValueError:
            raise
        except Exception as error:
            # A broken file makes Pillow raise almost anything: OSError, SyntaxError, struct.error,
            # …
            text = f"picture is broken: {type(error).__name__}: {str(error)[:200]}"
            raise ValueError(text) from None
        counts = np.array(grey.histogram(), np.float64)
        steps = np.arange(256)
        mean = counts @ steps / counts.sum()
        spread = np.sqrt(counts @ (steps - mean) ** 2 / counts.sum())
        return {
            **about,
            "width": width,
            "height": height,
            "brightness": float(mean / 255),
            "contrast": float(spread / 255),
            "dark": float(counts[:26].sum() / counts.sum()),
            "bright": float(counts[230:].sum() / counts.sum()),
            "sharpness": self.sharpness(np.asarray(grey)),
        }

    def grey(self, opened: Any) -> Any:
        """The luminance of each pixel, as a picture of eight bits."""
        from PIL import Image

        if opened.mode.startswith("I") or opened.mode == "F":
            values = np.asarray(opened)
            if values.dtype.kind == "f":
                raise ValueError("picture has floating-point pixels, whose range is not known")
            if values.min() < 0 or values.max() > 0xFFFF:
                raise ValueError("picture has greys of more than 16 bits")
            return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8), "L")
        if opened.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in opened.info:
            straight = opened.convert("RGBA")
            white = Image.new("RGBA", straight.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, straight).convert("RGB").convert("L")
        return (opened if opened.mode in ("RGB", "L") else opened.convert("RGB")).convert("L")

    def sharpness(self, grey: Any) -> float | None:
        """The variance of the Laplacian; strips of rows bound the memory."""
        rows, columns = grey.shape
        if rows < 3 or columns < 3:
            return None
        total = squares = 0
        for top in range(1, rows - 1, 256):
            bottom = min(top + 256, rows - 1)
            strip = grey[top - 1 : bottom + 1].astype(np.int32)
            middle = strip[1:-1, 1:-1]
            beside = strip[1:-1, :-2] + strip[1:-1, 2:] + strip[:-2, 1:-1] + strip[2:, 1:-1]
            found = (beside - 4 * middle).astype(np.int64)
            total += int(found.sum())
            squares += int((found * found).sum())
        count = (rows - 2) * (columns - 2)
        return float(squares / count - (total / count) ** 2)

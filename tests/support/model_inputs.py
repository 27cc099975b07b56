"""What the reference vectors of the built-in models were computed from. Needs numpy alone, because
the script that computes them runs in an environment of its own."""

import numpy as np
import numpy.typing as npt

TEXTS = [
    "A red fox jumps over a sleeping dog.",
    "",
    "Ein roter Fuchs springt über einen schlafenden Hund.",
    "赤い狐が眠っている犬を飛び越える。",
    # More than 128 tokens: cut.
    " ".join(f"word{n} and a long sentence that goes on" for n in range(60)),
    "HELLO   world!!! \t\n tabs, and naïve façade — dashes",
]


def pixels() -> npt.NDArray[np.uint8]:
    """Four pictures of 224 x 224: flat, a gradient, a checkerboard, noise."""
    y, x = np.mgrid[0:224, 0:224]
    flat = np.full((224, 224, 3), (200, 30, 90))
    gradient = np.stack([x, y, (x + y) // 2], axis=-1)
    board = np.repeat((((x // 28) + (y // 28)) % 2 * 255)[..., None], 3, axis=-1)
    state = np.arange(224 * 224 * 3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    noise = (state >> np.uint64(56)).reshape(224, 224, 3)
    return np.stack([picture.astype(np.uint8) for picture in (flat, gradient, board, noise)])

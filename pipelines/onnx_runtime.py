"""A network that ONNX Runtime runs on the CPU: exported once, and held against torch before it is believed."""

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import RecipeError

if TYPE_CHECKING:
    import torch

MOST_OFF = 1e-4
"""Largest difference from what torch gives, as a part of the deviation of that; measured are 1e-5 and less."""
HINT = "pip install 'wamloom[onnx]', or set the option runtime to \"torch\""


class OnnxNetwork:
    """Called as the torch network of pictures it is made of: float32 [N, 3, H, W] to float32 [N, C, h, w]."""

    def __init__(self, network: Any, stride: int, threads: int, where: str) -> None:
        """``network`` takes sides that are multiples of ``stride``. Raises RecipeError where a package is not installed."""
        try:
            import onnxruntime
        except ImportError as error:
            raise _missing(error) from error
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        model = _exported(network, stride)
        self._session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        self._network = network
        self._where = where
        self._held: set[tuple[int, ...]] = set()

    def __call__(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Raises RecipeError where the first picture of a size differs from what torch gives by more than ``MOST_OFF``."""
        import torch

        values: np.ndarray = self._session.run(None, {"pixels": pixels.contiguous().numpy()})[0]
        size = tuple(pixels.shape[1:])
        if size not in self._held:
            self._hold(self._network(pixels[:1]).numpy(), values[:1])
            self._held.add(size)
        return torch.from_numpy(values)

    def _hold(self, expected: np.ndarray, found: np.ndarray) -> None:
        off = float(np.abs(expected - found).max() / max(float(expected.std()), 1e-12))
        if not off <= MOST_OFF and np.isfinite(expected).all():
            raise RecipeError(
                f"ONNX Runtime gives latents that are {off:.2g} of their deviation from those of torch",
                self._where,
                'set the option runtime to "torch"',
            )


def _exported(network: Any, stride: int) -> bytes:
    """The network as ONNX, for any number of pictures of any size."""
    import torch

    file: Any = io.BytesIO()  # any file will do, whatever its types say
    sides = {0: "pictures", 2: "height", 3: "width"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter that needs one package, not three, is called the older one
            torch.onnx.export(
                network,
                (torch.zeros(2, 3, 4 * stride, 6 * stride),),
                file,
                dynamo=False,
                opset_version=17,
                input_names=["pixels"],
                output_names=["latents"],
                dynamic_axes={"pixels": sides, "latents": sides},
            )
    except torch.onnx.errors.OnnxExporterError as error:  # raised where the package onnx is not there
        raise _missing(error) from error
    return bytes(file.getvalue())


def _missing(error: Exception) -> RecipeError:
    return RecipeError(f"runtime = 'onnx' needs a package that is not installed: {error}", hint=HINT)

"""A trained model as a file for others to run or read: safetensors, dense or sparse, ONNX, or a program of torch."""

from __future__ import annotations

import importlib.util
import io
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lpsphere.files import replace_file
from lpsphere.sparse.archive import read_tensors, write_dense, write_sparse
from lpsphere.sparse.linear import SparseLinear
from lpsphere.sparse.preparation import difference, drop_masks, make_dense, mask_names, prepared, tensors_in

__all__ = ["FORMATS", "Exported", "export", "load_export"]

FORMATS = {
    "safetensors": ".safetensors",
    "sparse": ".safetensors",
    "onnx": ".onnx",
    "pt2": ".pt2",
}
"""The formats, and the suffix of each."""
_TRACED = ("onnx", "pt2")
_SPARSE_SUFFIX = ".sparse.safetensors"


@dataclass(frozen=True)
class Exported:
    """A file that `export` wrote.

    Attributes:
        path: Where it is.
        format: What it is.
        bytes: Its size on disk.
        dense_bytes: The model's tensors in dense form, without masks.
        seconds_to_load: What `load_export` took for it, measured once, right after writing.
    """

    path: Path
    format: str
    bytes: int
    dense_bytes: int
    seconds_to_load: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        """Path, format, size and time to load, in one line."""
        share = f"{self.bytes:,} bytes ({self.bytes / max(1, self.dense_bytes):.1%} of the dense tensors)"
        return f"{self.path}: {self.format}, {share}, loads in {1e3 * self.seconds_to_load:.1f} ms"


def export(
    model: nn.Module,
    path: str | Path,
    *,
    format: str | None = None,
    example: Tensor | Sequence[Any] | None = None,
) -> Exported:
    """Write a model to a file that is complete or not there. The model is untouched.

    Weights whose mask says that they do not exist are 0 in all formats.

    - **safetensors** (``.safetensors``): the plain dense state_dict, without masks.
    - **sparse** (``.sparse.safetensors``): the state_dict, in which every weight with few connections is kept as its
      values, the number of connections of each neuron and the gaps between their features, in the smallest integers
      that hold them. `load_export` gives back what the model's ``state_dict`` was, masks and sparse layers included:
      to the bit, but that values without a connection are 0.
    - **onnx** (``.onnx``): the dense model in evaluation mode, through torch.onnx. The zeros are written out, and the
      runtimes compute with them: no smaller, and no faster than the dense model. Needs ``pip install lpsphere[onnx]``.
    - **pt2** (``.pt2``): the dense model in evaluation mode as a program of torch.export.

    In the last two the first dimension of the inputs stays variable, where the model lets it.

    Args:
        model: Any module. Its tensors are written from the CPU.
        path: The file; its folder is made if need be. What is there already is replaced.
        format: One of the above; None: what the suffix says.
        example: For onnx and pt2: inputs the model takes, a tensor or a sequence of positional arguments.

    Returns:
        A record of the file, with its size and the time it takes to load.

    Raises:
        TypeError: If the model or the example is not of its type, or its state_dict has something else than tensors.
        ValueError: If the format is unknown or does not fit the suffix, or lacks an example.
        ModuleNotFoundError: If the packages for ONNX are not installed.
        RuntimeError: If torch cannot export the model, or what was written does not read back as it was.
        OSError: If the file cannot be written.

    Example:
        >>> print(lp.export(model, "model.sparse.safetensors"))
        >>> model.load_state_dict(lp.load_export("model.sparse.safetensors"))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"export takes an nn.Module, got {type(model).__name__}")
    path = Path(path)
    kind = _format(path, format)
    copied = prepared(model).cpu()
    holder = nn.ModuleList([copied])  # the model itself may be a sparse layer, and be exchanged
    if kind == "sparse":
        dense_bytes = sum(_dense_bytes(module) for module in copied.modules())
        write: Callable[[Path], object] = lambda file: write_sparse(file, copied)  # noqa: E731
    else:
        drop_masks(copied)
        make_dense(holder)
        dense_bytes = _tensor_bytes(holder[0])
        write = _writer(kind, holder[0], example)
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = [0.0]

    def write_and_check(file: Path) -> None:
        write(file)
        begun = time.perf_counter()
        loaded = _load(file, kind)
        seconds[0] = time.perf_counter() - begun
        _check_loaded(kind, loaded, holder[0], example)

    replace_file(path, write_and_check)
    return Exported(path, kind, path.stat().st_size, dense_bytes, seconds[0])


def load_export(path: str | Path) -> Any:
    """Read a file that `export` wrote.

    Args:
        path: The file; its suffix says what it is.

    Returns:
        A state_dict with dense tensors on the CPU for safetensors, dense or sparse; a module for a program of torch
        (.pt2); an ``onnx.ModelProto``, checked, for ONNX.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is unknown, or the file is damaged.
        ModuleNotFoundError: If it is ONNX, and the packages for that are not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a file that export wrote")
    return _load(path, _format(path, None))


def _format(path: Path, name: object) -> str:
    """The format, from its name or from the suffix."""
    if name is None:
        found = "sparse" if path.name.endswith(_SPARSE_SUFFIX) else None
        found = found or next((name for name, suffix in FORMATS.items() if path.suffix == suffix), None)
        if found is None:
            raise ValueError(
                f"the suffix of {path.name!r} says nothing about its format: choose {_SPARSE_SUFFIX}, "
                f"{', '.join(dict.fromkeys(FORMATS.values()))}"
            )
        return found
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {name!r}")
    assert isinstance(name, str)
    if path.suffix != FORMATS[name]:
        raise ValueError(
            f"a file of format {name!r} must end in {FORMATS[name]}: it is read by that; got {path.name!r}"
        )
    return name


def _tensor_bytes(model: nn.Module) -> int:
    tensors = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _dense_bytes(module: nn.Module) -> int:
    """A module's own tensors as they would be in dense form."""
    masks = mask_names(module)
    own = {**module._parameters, **module._buffers}
    if isinstance(module, SparseLinear):
        dense = module.in_features * module.out_features * module.weight.element_size()
        own = {"bias": module.bias}
    else:
        dense = 0
    hidden = module._non_persistent_buffers_set.union(masks)
    return dense + sum(t.numel() * t.element_size() for name, t in own.items() if t is not None and name not in hidden)


def _writer(kind: str, model: nn.Module, example: Tensor | Sequence[Any] | None) -> Callable[[Path], object]:
    if kind == "safetensors":
        return lambda file: write_dense(file, model)
    args = _arguments(kind, example)
    if kind == "onnx":
        _need_onnx()
        return lambda file: _write_onnx(file, model, args)
    return lambda file: _write_program(file, model, args)


def _arguments(kind: str, example: Tensor | Sequence[Any] | None) -> tuple[Any, ...]:
    if example is None:
        raise ValueError(f"format {kind!r} is traced with an example: pass example=x, a batch that the model takes")
    if isinstance(example, Tensor):
        return (example.detach().cpu(),)
    if isinstance(example, str) or not isinstance(example, Sequence) or not tensors_in(example):
        raise TypeError(
            f"example must be a tensor that the model takes, or a sequence of arguments, got {type(example).__name__}"
        )
    return tuple(arg.detach().cpu() if isinstance(arg, Tensor) else arg for arg in example)


def _program(model: nn.Module, args: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """The model as a program, with a variable first dimension where it can have one."""
    rows = {len(arg) for arg in args if isinstance(arg, Tensor) and arg.ndim}
    if rows == {1}:  # torch takes a size of 1 for a constant
        args = tuple(torch.cat([arg, arg]) if isinstance(arg, Tensor) and arg.ndim else arg for arg in args)
    automatic = torch.export.Dim.AUTO
    shapes = tuple({0: automatic} if isinstance(arg, Tensor) and arg.ndim else None for arg in args)
    try:
        with torch.no_grad():
            return torch.export.export(model, args, dynamic_shapes=shapes)
    except Exception as error:  # whatever torch finds in the model's own code
        raise RuntimeError(
            f"torch.export cannot export the model ({type(error).__name__}: {error}): export it as safetensors, which "
            "holds its tensors only"
        ) from error


def _write_program(path: Path, model: nn.Module, args: tuple[Any, ...]) -> None:
    buffer = io.BytesIO()
    torch.export.save(_program(model, args), buffer)
    path.write_bytes(buffer.getbuffer())


def _write_onnx(path: Path, model: nn.Module, args: tuple[Any, ...]) -> None:
    program = _program(model, args)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of packages that the model does not need
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch to itself
            written = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:  # whatever its translation stumbles over
        raise RuntimeError(f"torch.onnx cannot export the model ({type(error).__name__}: {error})") from error
    finally:
        logger.setLevel(level)
    assert written is not None
    path.write_bytes(written.model_proto.SerializeToString())


def _need_onnx() -> None:
    """See that the packages for ONNX are there.

    Raises:
        ModuleNotFoundError: If not, with the remedy.
    """
    absent = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if absent:
        raise ModuleNotFoundError(
            f"ONNX needs {' and '.join(absent)}: pip install 'lpsphere[onnx]', or export to .safetensors or .pt2"
        )


def _load(path: Path, kind: str) -> Any:
    if kind in ("safetensors", "sparse"):
        return read_tensors(path)
    try:
        if kind == "pt2":
            return torch.export.load(io.BytesIO(path.read_bytes())).module()
        _need_onnx()
        import onnx

        loaded = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(loaded)
        return loaded
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever the readers stumble over
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): export the model again") from error


def _check_loaded(kind: str, loaded: Any, model: nn.Module, example: Tensor | Sequence[Any] | None) -> None:
    """See that a file holds the model.

    Raises:
        RuntimeError: If not.
    """
    if kind == "onnx":
        return  # checked by the checker of the format; to run it takes a runtime
    if kind == "pt2":
        args = _arguments(kind, example)
        with torch.no_grad():
            distance, largest = difference(model(*args), loaded(*args))
    else:
        state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        same = set(state) == set(loaded)
        distance, largest = difference(state, {name: loaded[name] for name in state} if same else {})
    if not distance <= (1e-5 * max(1.0, largest) if kind == "pt2" else 0):
        raise RuntimeError(f"what was written differs from the model by {distance:.3g}: nothing was kept")

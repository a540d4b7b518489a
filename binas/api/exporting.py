"""A trained network, or any module with binary layers, as a 1-bit file, a C program or ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from binas.api.loading import loaded_plugins
from binas.errors import UserError

if TYPE_CHECKING:
    from binas.deploy.model_file import Model

FORMATS = {".binas": "binas", ".onnx": "onnx", "": "c"}


def export(
    what: str | Path | nn.Module,
    path: str | Path,
    *,
    format: Literal["binas", "c", "onnx"] | None = None,
    example: Tensor | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Model:
    """Writes a network as a program and gives the program.

    Args:
        what: a checkpoint, a run folder, a `.binas` file, or a module in whose forward only sizes decide.
        path: of the file, or of the folder of a C program.
        format: None: by the ending, .binas or .onnx; no ending is a C program.
        example: of a module: one image as it takes it, (1, C, H, W).
        classes: of a module: names of the classes.
        preprocessing: of a module: mean and standard deviation of each channel, pixels scaled to 0..1.
    Raises:
        UserError: something is known to no back end, named with its module; or the file cannot be written.

    Example:
        >>> import torch, binas, tempfile
        >>> net = torch.nn.Sequential(
        ...     binas.nn.BinaryConv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = binas.export(net, folder + "/net.binas", example=torch.zeros(1, 3, 6, 6))
        >>> model.sizes()["1-bit"]
        28
    """
    from binas.deploy.c.folder import write_folder
    from binas.deploy.export import export_module
    from binas.deploy.model_file import write_model
    from binas.deploy.onnx_file import write_onnx
    from binas.deploy.opening import open_model

    path = Path(path)
    chosen = format or FORMATS.get(path.suffix)
    if chosen not in FORMATS.values():
        raise UserError(f"export: {path}: which format? Name it .binas or .onnx, or say binas, c or onnx")
    if isinstance(what, nn.Module):
        if example is None:
            raise UserError("export: a module needs an example: one image (1, C, H, W) as it takes it")
        mean, std = preprocessing or (None, None)
        model = export_module(what, example, classes=classes, mean=mean, std=std)
    else:
        if example is not None or classes is not None or preprocessing is not None:
            raise UserError("export: example, classes and preprocessing are for a module; a file has its own")
        model = open_model(what, loaded_plugins()).model
    if chosen == "c":
        write_folder(model, path)
    elif chosen == "onnx":
        write_onnx(model, path)
    else:
        write_model(model, path)
    return model

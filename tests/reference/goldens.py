"""What the generators of goldens share. Runs in an environment with PyTorch, see make_clip.py."""

import logging
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent


def randomise(model: torch.nn.Module) -> None:
    """Give every parameter values that matter; fresh biases are 0, which hides that one is missing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                fan_in = parameter[0].numel()
                scale = 0.5 if "embedding" in name or "token" in name else fan_in**-0.5
                parameter.normal_(0.0, scale)
            elif parameter.ndim == 1 and name.endswith("weight"):
                parameter.normal_(1.0, 0.3)
            elif parameter.ndim == 1:
                parameter.normal_(0.0, 0.3)


def numbers(prefix: str, output: object) -> dict[str, torch.Tensor]:
    """The arrays of a Transformers output; tuples of arrays are stacked along a new first axis."""
    found = {}
    for name, value in output.items():
        if isinstance(value, torch.Tensor):
            found[f"{prefix}_{name}"] = value
        elif isinstance(value, tuple) and value and isinstance(value[0], torch.Tensor):
            found[f"{prefix}_{name}"] = torch.stack(value)
    return found


def gradient_norms(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """The length of each parameter's gradient, by the parameters' names in alphabetical order."""
    model.zero_grad()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    unused = torch.zeros(1)
    return torch.stack(
        [torch.norm(unused if grad is None else grad) for _, grad in sorted(gradients.items())]
    )


def golden(name: str, model: torch.nn.Module, arrays: dict[str, torch.Tensor]) -> None:
    """Write the checkpoint as Transformers writes it, and inputs and outputs beside it."""
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    small = {key: value.detach().numpy() for key, value in arrays.items()}
    np.savez_compressed(folder / "expected.npz", **small)
    # Transformers writes weights that only their owner may read.
    (folder / "model.safetensors").chmod(0o644)
    size = sum(file.stat().st_size for file in folder.iterdir())
    logging.getLogger(__name__).warning("%s: %d bytes", name, size)

"""Make the training golden: losses, gradients and optimiser steps as PyTorch computes them.

Needs PyTorch and Transformers, which Imago does not (see make_clip.py), and the checkpoint in clip-first-rules/.
It overwrites training.npz beside it.

The losses are written here pair by pair, in loops, as slowly and as plainly as their papers define them.
"""

import math

import numpy as np
import torch
from goldens import HERE
from transformers import CLIPModel

# What is known of 4 images (rows) and 4 texts: +1 fits, -1 does not, 0 nobody knows. Texts 0 and 2 are the same.
FITS = torch.tensor([[1, -1, 1, -1], [-1, 1, -1, 0], [1, -1, 1, -1], [-1, -1, -1, 1]])


def softmax_loss(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    logits = scale * images @ texts.T
    total = torch.zeros(())
    for matrix, fits in ((logits, FITS), (logits.T, FITS.T)):
        for row, known in zip(matrix, fits, strict=True):
            kept = row[known != 0]
            denominator = torch.logsumexp(kept, 0)
            total = total + torch.stack([denominator - value for value in row[known == 1]]).mean()
    return total / (2 * len(images))


def sigmoid_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    total = torch.zeros(())
    for i in range(len(images)):
        for j in range(len(texts)):
            if FITS[i, j]:
                logit = scale * images[i] @ texts[j] + bias
                total = total - torch.nn.functional.logsigmoid(FITS[i, j] * logit)
    return total / len(images)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def of_model() -> dict[str, torch.Tensor]:
    """The whole way from pixels and ids to the gradient of every parameter."""
    model = CLIPModel.from_pretrained(HERE / "clip-first-rules").eval()
    ids = torch.randint(6, 38, (4, 9))
    ids[:, -1] = 39
    pixels = torch.randint(0, 256, (4, 22, 22, 3), dtype=torch.uint8)
    values = (pixels.float() / 255 - 0.5) / 0.5
    output = model(input_ids=ids, pixel_values=values.permute(0, 3, 1, 2))
    loss = softmax_loss(output.image_embeds, output.text_embeds, model.logit_scale.exp())
    loss.backward()
    gradients = {f"gradient:{name}": parameter.grad for name, parameter in model.named_parameters()}
    plain = model(input_ids=ids, pixel_values=values.permute(0, 3, 1, 2), return_loss=True).loss
    return {"input_ids": ids, "pixels": pixels, "loss": loss, "plain_loss": plain, **gradients}


def of_sigmoid() -> dict[str, torch.Tensor]:
    images, texts = (torch.randn(4, 6).requires_grad_() for _ in range(2))
    scale, bias = torch.tensor(3.0).requires_grad_(), torch.tensor(-1.5).requires_grad_()
    loss = sigmoid_loss(unit(images), unit(texts), scale, bias)
    loss.backward()
    names = ("images", "texts", "scale", "bias")
    tensors = (images, texts, scale, bias)
    return (
        {"sigmoid_loss": loss}
        | {f"sigmoid_{name}": tensor.detach().clone() for name, tensor in zip(names, tensors, strict=True)}
        | {f"sigmoid_{name}_gradient": tensor.grad for name, tensor in zip(names, tensors, strict=True)}
    )


def of_optimizer() -> dict[str, torch.Tensor]:
    """Five steps of clipped AdamW with two steps of warm-up and a cosine; the vector is not decayed."""
    matrix, vector = torch.randn(3, 2), torch.randn(4)
    start = {"optimizer_matrix": matrix.clone(), "optimizer_vector": vector.clone()}
    gradients = torch.randn(5, 10) * torch.tensor([0.1, 3.0, 0.5, 1.0, 0.01])[:, None]
    parameters = [torch.nn.Parameter(matrix), torch.nn.Parameter(vector)]
    groups = [
        {"params": parameters[:1], "weight_decay": 0.3},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.98), eps=1e-6)
    rates = [0.1 / 3, 0.2 / 3] + [0.05 * (1 + math.cos(math.pi * step / 3)) for step in range(3)]
    for rate, gradient in zip(rates, gradients, strict=True):
        parameters[0].grad, parameters[1].grad = gradient[:6].reshape(3, 2).clone(), gradient[6:].clone()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return start | {
        "optimizer_gradients": gradients,
        "optimizer_rates": torch.tensor(rates),
        "optimizer_matrix_after": parameters[0],
        "optimizer_vector_after": parameters[1],
    }


if __name__ == "__main__":
    torch.manual_seed(8)
    arrays = {"fits": FITS} | of_model() | of_sigmoid() | of_optimizer()
    np.savez_compressed(
        HERE / "training.npz", **{name: value.detach().numpy() for name, value in arrays.items()}
    )

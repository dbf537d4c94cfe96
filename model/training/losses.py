"""The two losses of dual encoders, for batches in which a text may fit several images.

Both compare every image with every text of the batch. `fits` says what is known of each pair: +1 the text fits the
image, -1 it does not, 0 nobody knows (the pair is left out).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

if TYPE_CHECKING:
    from jax.sharding import Mesh


BATCH_AXIS = "batch"

# Instead of minus infinity, which would make the gradient NaN.
_LOWEST = -3.0e38


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """What is known of the pairs of a batch; `model.training.texts.Relations` on the device.

    Attributes:
        image_terms: int32 (images, a).
        image_names: int32 (images, b).
        text_term: int32 (texts,).
        text_broader: int32 (texts, c).
    """

    image_terms: jax.Array
    image_names: jax.Array
    text_term: jax.Array
    text_broader: jax.Array

    def fits(self) -> jax.Array:
        """int32 (images, texts): +1, -1 or 0, as the module's docstring says."""
        positive = jnp.any(self.image_terms[:, None, :] == self.text_term[None, :, None], axis=2)
        narrower = jnp.any(
            self.image_names[:, None, :, None] == self.text_broader[None, :, None, :], axis=(2, 3)
        )
        return jnp.where(positive, 1, jnp.where(narrower, 0, -1))


def softmax_loss(
    image_embeds: jax.Array, text_embeds: jax.Array, logit_scale: jax.Array, pairs: Pairs
) -> jax.Array:
    """CLIP's loss (Radford et al. 2021) with the target spread evenly over all that fits (Khosla et al. 2020, L_out).

    Args:
        image_embeds: float32 (n, dim), unit norm.
        text_embeds: float32 (n, dim), unit norm; text i was made for image i.
        logit_scale: scalar, already out of its logarithm.
        pairs: what is known of the pairs; where only i fits i, this is `model.contrast.contrastive_loss`.

    Returns:
        float32 scalar.
    """
    logits = _cosines(image_embeds, text_embeds) * logit_scale
    fits = pairs.fits()
    logits = jnp.where(fits == 0, _LOWEST, logits)
    target = (fits == 1).astype(jnp.float32)

    def one_way(axis: int) -> jax.Array:
        weights = target / jnp.sum(target, axis=axis, keepdims=True)
        # Not a product alone: what is left out has weight 0 and a logarithm near the lowest number.
        terms = jnp.where(fits == 1, weights * jax.nn.log_softmax(logits, axis=axis), 0.0)
        return -jnp.sum(terms) / logits.shape[0]

    return (one_way(0) + one_way(1)) / 2


def sigmoid_loss(
    image_embeds: jax.Array,
    text_embeds: jax.Array,
    logit_scale: jax.Array,
    logit_bias: jax.Array,
    pairs: Pairs,
    *,
    mesh: Mesh | None = None,
) -> jax.Array:
    """SigLIP's loss (Zhai et al. 2023): every pair is a yes-or-no question of its own.

    On several devices each keeps its images, and the texts travel around in a ring (section 3.3 of the paper), so that
    no device ever holds more than its own part of the logits.

    Args:
        image_embeds: float32 (n, dim), unit norm.
        text_embeds: float32 (n, dim), unit norm.
        logit_scale: scalar, already out of its logarithm.
        logit_bias: scalar.
        pairs: what is known of the pairs.
        mesh: with the one axis `BATCH_AXIS`, along which the arrays are divided; None for one device.

    Returns:
        float32 scalar: the sum over texts, averaged over images.
    """

    def chunk(
        images: jax.Array, texts: jax.Array, known: Pairs, scale: jax.Array, bias: jax.Array
    ) -> jax.Array:
        logits = _cosines(images, texts) * scale + bias
        # A 0 in `fits` would count as log 2; the product of the two leaves it out.
        fits = known.fits().astype(jnp.float32)
        return -jnp.sum(jnp.abs(fits) * jax.nn.log_sigmoid(fits * logits))

    count = image_embeds.shape[0]
    if mesh is None or mesh.size == 1:
        return chunk(image_embeds, text_embeds, pairs, logit_scale, logit_bias) / count
    size = mesh.size
    divided, whole = PartitionSpec(BATCH_AXIS), PartitionSpec()  # type: ignore[no-untyped-call]

    @partial(jax.shard_map, mesh=mesh, in_specs=(divided, divided, divided, whole, whole), out_specs=whole)
    def ring(
        images: jax.Array, texts: jax.Array, known: Pairs, scale: jax.Array, bias: jax.Array
    ) -> jax.Array:
        total = jnp.zeros((), jnp.float32)
        travelling = (texts, known.text_term, known.text_broader)
        for turn in range(size):
            here = Pairs(known.image_terms, known.image_names, travelling[1], travelling[2])
            total = total + chunk(images, travelling[0], here, scale, bias)
            if turn < size - 1:
                neighbours = [(device, (device + 1) % size) for device in range(size)]
                travelling = jax.lax.ppermute(travelling, BATCH_AXIS, neighbours)  # type: ignore[no-untyped-call]
        everywhere: jax.Array = jax.lax.psum(total, BATCH_AXIS)  # type: ignore[no-untyped-call]
        return everywhere

    total: jax.Array = ring(image_embeds, text_embeds, pairs, logit_scale, logit_bias)
    return total / count


def _cosines(images: jax.Array, texts: jax.Array) -> jax.Array:
    return jnp.matmul(images, texts.T, precision=jax.lax.Precision.HIGHEST)

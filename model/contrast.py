"""How dual encoders compare texts with images, and the loss that trains them to."""

import jax
import jax.numpy as jnp

from model.outputs import DualEncoderOutput, TowerOutput


def contrastive_loss(logits_per_text: jax.Array) -> jax.Array:
    """CLIP's symmetric loss (Radford et al. 2021, figure 3): text i belongs to image i and to no other.

    Args:
        logits_per_text: float32 (n, n).

    Returns:
        float32 scalar: the mean of the cross entropies over rows and over columns.
    """
    texts = jnp.diagonal(jax.nn.log_softmax(logits_per_text, axis=1))
    images = jnp.diagonal(jax.nn.log_softmax(logits_per_text, axis=0))
    return -(jnp.mean(texts) + jnp.mean(images)) / 2


def compare(
    text: TowerOutput,
    vision: TowerOutput,
    text_features: jax.Array,
    image_features: jax.Array,
    logit_scale: jax.Array,
    *,
    return_loss: bool,
) -> DualEncoderOutput:
    """Scaled cosines of all texts with all images.

    Args:
        text: the text tower's output, passed on.
        vision: the vision tower's output, passed on.
        text_features: float32 (texts, dim).
        image_features: float32 (images, dim).
        logit_scale: scalar, the logarithm of the scale.
        return_loss: whether to add the contrastive loss; there are then as many texts as images.

    Returns:
        The joint output.
    """
    text_embeds = text_features / jnp.linalg.norm(text_features, axis=-1, keepdims=True)
    image_embeds = image_features / jnp.linalg.norm(image_features, axis=-1, keepdims=True)
    cosines = jnp.matmul(text_embeds, image_embeds.T, precision=jax.lax.Precision.HIGHEST)
    logits_per_text = cosines * jnp.exp(logit_scale.astype(jnp.float32))
    return DualEncoderOutput(
        logits_per_image=logits_per_text.T,
        logits_per_text=logits_per_text,
        text_embeds=text_embeds,
        image_embeds=image_embeds,
        text_model_output=text,
        vision_model_output=vision,
        loss=contrastive_loss(logits_per_text) if return_loss else None,
    )

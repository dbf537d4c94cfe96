"""Checks of what a model is called with. Shapes are always known; values only outside compiled functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import ModelInputError

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def check_pair(
    input_ids: ArrayLike | None, pixel_values: ArrayLike | None, *, equally_many: bool
) -> tuple[ArrayLike, ArrayLike]:
    """What a joint call needs before anything is computed: both inputs, and as many of each if asked for.

    Raises:
        ModelInputError: one is missing, or their numbers differ although a loss was asked for.
    """
    if input_ids is None or pixel_values is None:
        raise ModelInputError(
            "expected both input_ids and pixel_values; "
            "for one alone call get_text_features or get_image_features"
        )
    texts, images = np.shape(input_ids)[:1], np.shape(pixel_values)[:1]
    if equally_many and texts != images:
        raise ModelInputError(
            f"return_loss: expected as many texts as images, got {texts[0]} texts and {images[0]} images"
        )
    return input_ids, pixel_values


def check_pixels(pixel_values: ArrayLike, channels: int, size: tuple[int, int]) -> jax.Array:
    """Pixels as processors give them, made ready for a tower.

    Args:
        pixel_values: float (batch, channels, height, width).
        channels: expected.
        size: expected height and width.

    Returns:
        float32 (batch, height, width, channels).

    Raises:
        ModelInputError: another shape, no images, or integers, which were never normalised.
    """
    pixels = jnp.asarray(pixel_values)
    expected = f"expected float (batch, {channels}, {size[0]}, {size[1]})"
    if pixels.ndim != 4 or pixels.shape[1:] != (channels, *size):
        raise ModelInputError(f"pixel_values: {expected}, got {pixels.shape}")
    return _channels_last(pixels, expected)


def check_pixels_of_any_size(pixel_values: ArrayLike, channels: int, least: tuple[int, int]) -> jax.Array:
    """As `check_pixels`, for towers that take images of any height and width from `least` on."""
    pixels = jnp.asarray(pixel_values)
    expected = f"expected float (batch, {channels}, at least {least[0]}, at least {least[1]})"
    if (
        pixels.ndim != 4
        or pixels.shape[1] != channels
        or any(side < limit for side, limit in zip(pixels.shape[2:], least, strict=True))
    ):
        raise ModelInputError(f"pixel_values: {expected}, got {pixels.shape}")
    return _channels_last(pixels, expected)


def check_ids(input_ids: ArrayLike, vocabulary: int, longest: int) -> jax.Array:
    """Token ids, made ready for a tower.

    Args:
        input_ids: integer (batch, length).
        vocabulary: number of tokens; ids are below it.
        longest: largest length.

    Returns:
        int32 (batch, length).

    Raises:
        ModelInputError: another shape, too long, empty, no integers, or (where values are known) out of
            range.
    """
    ids = _integers("input_ids", input_ids)
    if ids.ndim != 2:
        raise ModelInputError(f"input_ids: expected (batch, length), got {ids.shape}")
    if 0 in ids.shape:
        raise ModelInputError(
            f"input_ids: expected at least one text with at least one token, got {ids.shape}"
        )
    if ids.shape[1] > longest:
        raise ModelInputError(
            f"input_ids: expected at most {longest} tokens a text, got {ids.shape[1]}: truncate them"
        )
    return _within("input_ids", ids, vocabulary, "the vocabulary's size")


def check_like_ids(name: str, values: ArrayLike, ids: jax.Array, limit: int) -> jax.Array:
    """Integers that go with token ids one to one, such as position_ids.

    Args:
        name: for the message.
        values: integer (batch, length) or (1, length).
        ids: the checked token ids.
        limit: values are below it.

    Returns:
        int32, of the ids' shape.
    """
    numbers = _integers(name, values)
    if numbers.ndim != 2 or numbers.shape[1] != ids.shape[1] or numbers.shape[0] not in {1, ids.shape[0]}:
        raise ModelInputError(f"{name}: expected {ids.shape} like input_ids, got {numbers.shape}")
    return jnp.broadcast_to(_within(name, numbers, limit, "their number"), ids.shape)


def check_attention_mask(attention_mask: ArrayLike | None, ids: jax.Array) -> jax.Array | None:
    """Which tokens are there (0 or False: padding), as boolean (batch, length) like the ids, or None."""
    if attention_mask is None:
        return None
    mask = jnp.asarray(attention_mask)
    if mask.shape != ids.shape:
        raise ModelInputError(f"attention_mask: expected {ids.shape} like input_ids, got {mask.shape}")
    return mask.astype(bool)


def _channels_last(pixels: jax.Array, expected: str) -> jax.Array:
    if pixels.shape[0] == 0:
        raise ModelInputError(f"pixel_values: {expected} with at least one image, got {pixels.shape}")
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ModelInputError(f"pixel_values: {expected}, scaled and normalised, got {pixels.dtype}")
    return pixels.astype(jnp.float32).transpose(0, 2, 3, 1)


def _integers(name: str, values: ArrayLike) -> jax.Array:
    """As JAX array, without first narrowing 64-bit numbers to 32, which would hide what is out of range."""
    array = values if isinstance(values, jax.Array) else np.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ModelInputError(f"{name}: expected integers, got {array.dtype}")
    return array  # type: ignore[return-value]


def _within(name: str, values: jax.Array | np.ndarray, limit: int, what: str) -> jax.Array:
    if not isinstance(values, jax.core.Tracer):
        known = np.asarray(values)
        if known.min() < 0 or known.max() >= limit:
            raise ModelInputError(
                f"{name}: expected 0 to {limit - 1} ({what} is {limit}), got {known.min()} to {known.max()}"
            )
    return jnp.asarray(values).astype(jnp.int32)

"""Products of 8-bit integers, where a processor multiplies them fastest and a tower's vectors stay the same.

The weights of a product are rounded to int8 with a step for each output, its inputs with a step for each row, found as
they come ("dynamic quantisation", as of Dettmers et al. 2022, https://arxiv.org/abs/2208.07339). Sums are int32, exact.

How much is lost depends on the weights: a row with a few large values leaves few steps for all others. So what each
checkpoint bears is measured, once, and products that would harm its vectors stay in floating point.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.cpu_layout import DividedMlp
from model.int8_weights import LARGEST_INTEGER, SMALLEST_LARGEST, quantized, steps_of
from model.layers import (
    LEAST_VALUES,
    Linear,
    Mlp,
    PatchEmbedding,
    PreNormBlock,
    along_last,
    joined_heads,
    patches_of,
    unit_length,
)
from model.mixed_product import mixed_product

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import numpy.typing as npt

    from model.preprocess import Normalization

# What a tower loses in integers, on inputs that it was not measured with, may be a few times what it loses on these;
# 0.999 is promised.
LEAST_COSINE = 0.9996

# Below, what rounding costs is more than what faster products save.
_LEAST_WIDTH = 512

# Until what is chosen together holds; each costs a run of the tower.
_MOST_TRIALS = 8

_PATCHES = "patch_embedding"
_MIDDLE_PIXEL = 128

# What makes signed bytes unsigned. Turning the sign's bit adds it, too.
_SHIFT = 128
_SIGN = np.int8(-128)


def _steps(largest: jax.Array) -> jax.Array:
    return jnp.maximum(largest, SMALLEST_LARGEST) / LARGEST_INTEGER


def _largest(inputs: jax.Array) -> jax.Array:
    """Gives the largest absolute value along the last axis."""
    # Two extremes cost XLA half as much as one of the absolute values.
    return jnp.maximum(jnp.max(inputs, axis=-1), -jnp.min(inputs, axis=-1))


def _with_steps(inputs: jax.Array, least: float | None = None) -> tuple[jax.Array, jax.Array]:
    """Rounds float32 (..., width), of at least `least` if that is known, to whole numbers of at most 127.

    Gives them, still float32, and the rows' steps (..., 1).
    """
    largest = _largest(inputs) if least is None else jnp.maximum(jnp.max(inputs, axis=-1), -least)
    steps = _steps(largest)[..., None]
    return jnp.rint(inputs * (1.0 / steps)), steps


def _packed(integers: jax.Array, length: int) -> jax.Array:
    """Joins int8 along the last axis into the widest integers of which a whole number has the length of so many.

    XLA moves them as fast as floats, and bytes one at a time.
    """
    for dtype in (np.dtype(np.int32), np.dtype(np.int16)):
        if length % dtype.itemsize == 0:
            groups = integers.reshape(*integers.shape[:-1], -1, dtype.itemsize)
            return jax.lax.bitcast_convert_type(groups, dtype)
    return integers


def _unpacked(packed: jax.Array) -> jax.Array:
    """Gives back what `_packed` joined."""
    if packed.dtype == jnp.int8:
        return packed
    integers = jax.lax.bitcast_convert_type(packed, jnp.int8)
    return integers.reshape(*packed.shape[:-1], -1)


class _Int8Product(nnx.Module):
    """A matrix of integers, and products with it."""

    def __init__(self, kernel: npt.NDArray[Any], *, unsigned: bool) -> None:
        """Round float (in, out). `unsigned`: what is multiplied with it goes into the processor as uint8."""
        integers = quantized(kernel)
        self.kernel = nnx.Param(jnp.asarray(integers))
        self.scale = nnx.Param(jnp.asarray(steps_of(kernel)))
        self.surplus = (
            nnx.Param(jnp.asarray(_SHIFT * integers.sum(axis=1, dtype=np.int32))) if unsigned else None
        )

    def _bytes(self, rounded: jax.Array) -> jax.Array:
        """Whole numbers from -128 to 127 as the bytes that `_sums` takes, int8: to be moved, not computed with."""
        integers = rounded.astype(jnp.int8)
        return integers if self.surplus is None else integers ^ _SIGN

    def _sums(self, integers: jax.Array) -> jax.Array:
        """Multiplies bytes, (..., in), giving float32 (..., out), the same whichever way."""
        if math.prod(integers.shape[:-1]) == 1:
            # XLA multiplies a single row by other code, several times as slowly as two.
            beside = [(0, 1), *[(0, 0)] * (integers.ndim - 1)]
            return self._sums(jnp.pad(integers, beside))[:1]
        if self.surplus is None:
            sums = jax.lax.dot_general(
                integers,
                self.kernel[...],
                (((integers.ndim - 1,), (1,)), ((), ())),
                preferred_element_type=jnp.int32,
            )
        else:
            sums = mixed_product(jax.lax.bitcast_convert_type(integers, jnp.uint8), self.kernel[...])
            sums = sums - self.surplus[...].reshape((1,) * (sums.ndim - 1) + (-1,))
        return sums.astype(jnp.float32)


class Int8Linear(_Int8Product):
    """A `Linear` that multiplies integers; its result is near that of the one it stands for."""

    def __init__(self, linear: Linear, least: float | None = None, *, unsigned: bool = False) -> None:
        """Take the parameters of a layer.

        Args:
            linear: The layer.
            least: Its inputs are never less; None: that is not known.
            unsigned: Whether inputs are multiplied as uint8; the result is the same.
        """
        super().__init__(np.asarray(linear.kernel[...]), unsigned=unsigned)
        self.least = least
        self.bias = linear.bias

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Float32 (..., in) to float32 (..., out)."""
        rounded, steps = _with_steps(inputs, self.least)
        return self._scaled(self._bytes(rounded), steps)

    def of_heads(self, inputs: jax.Array) -> jax.Array:
        """As `Linear.of_heads`."""
        steps = _steps(_largest(inputs).max(axis=1))
        rounded = self._bytes(jnp.rint(inputs * (1.0 / steps)[:, None, :, None]))
        return self._scaled(_unpacked(joined_heads(_packed(rounded, rounded.shape[-1]))), steps[..., None])

    def _scaled(self, integers: jax.Array, steps: jax.Array) -> jax.Array:
        outputs = self._sums(integers) * steps * along_last(self.scale[...], steps)
        return outputs if self.bias is None else outputs + along_last(self.bias[...], outputs)


class Int8PatchEmbedding(_Int8Product):
    """A `PatchEmbedding` of pixels as they are, which are integers to begin with: only its weights are rounded.

    What normalises pixels is a scale and an offset for each channel, and moves into the weights and the bias.
    """

    def __init__(
        self, embedding: PatchEmbedding, normalization: Normalization, *, unsigned: bool = False
    ) -> None:
        """Take the parameters of a layer; the other arguments are those of `quantize`."""
        kernel = np.asarray(embedding.kernel[...], dtype=np.float64)
        bias = 0.0 if embedding.bias is None else np.asarray(embedding.bias[...], dtype=np.float64)
        scale, offset = (np.asarray(values, np.float64)[:, None] for values in normalization)
        scaled = (kernel * scale).reshape(-1, kernel.shape[-1]).astype(np.float32)
        super().__init__(scaled, unsigned=unsigned)
        self.patch = kernel.shape[:2]
        # Pixels are shifted into the range of int8. Given back by the exact weights, the shift costs nothing: rounding
        # then errs by how far a pixel is from grey.
        whole = bias + (kernel * (offset + _MIDDLE_PIXEL * scale)).sum(axis=(0, 1, 2))
        self.bias = nnx.Param(jnp.asarray(whole.astype(np.float32)))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Whole numbers from 0 to 255, (batch, height, width, channels), to float32 (batch, patches, width)."""
        height, width = self.patch
        whole = images[:, :, : images.shape[2] // width * width]
        rows = self._bytes(whole - _MIDDLE_PIXEL).reshape(*images.shape[:2], -1)
        packed = _packed(rows, width * images.shape[3])
        patches = _unpacked(patches_of(packed[..., None], height, packed.shape[2] * width // whole.shape[2]))
        outputs = self._sums(patches)
        return outputs * along_last(self.scale[...], outputs) + along_last(self.bias[...], outputs)


class _SwitchedLinear(nnx.Module):
    """A `Linear` that gives, while its switch is on, what `Int8Linear` would give."""

    def __init__(self, linear: Linear, least: float | None) -> None:
        self.linear = linear
        self.least = least
        self.switch = nnx.Param(jnp.zeros((), jnp.float32))

    def of_heads(self, inputs: jax.Array) -> jax.Array:
        return self(joined_heads(inputs))

    def __call__(self, inputs: jax.Array) -> jax.Array:
        # Not `where`: rounding a matrix costs as much as multiplying with it.
        outputs: jax.Array = jax.lax.cond(
            self.switch[...] > 0,
            lambda inputs, kernel: _exact_product(_rounded(inputs, self.least), _rounded(kernel.T).T),
            _exact_product,
            inputs,
            self.linear.kernel[...],
        )
        bias = self.linear.bias
        return outputs if bias is None else outputs + along_last(bias[...], outputs)


class _SwitchedPatchEmbedding(nnx.Module):
    """A `PatchEmbedding` of normalised pixels that gives, while its switch is on, what `Int8PatchEmbedding` would."""

    def __init__(self, embedding: PatchEmbedding, normalization: Normalization) -> None:
        self.embedding = embedding
        self.scale, self.offset = (tuple(values.tolist()) for values in normalization)
        self.switch = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(self, images: jax.Array) -> jax.Array:
        kernel = self.embedding.kernel[...]
        scale, offset = (jnp.asarray(values, jnp.float32) for values in (self.scale, self.offset))
        scaled = (kernel * scale.reshape(1, 1, -1, 1)).reshape(-1, kernel.shape[-1])
        from_grey = (images - offset.reshape(1, 1, 1, -1)) / scale.reshape(1, 1, 1, -1) - _MIDDLE_PIXEL
        error = _exact_product(patches_of(from_grey, *kernel.shape[:2]), _rounded(scaled.T).T - scaled)
        return self.embedding(images) + self.switch[...] * error


def _rounded(inputs: jax.Array, least: float | None = None) -> jax.Array:
    rounded, steps = _with_steps(inputs, least)
    return rounded * steps


def _exact_product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


# What people type, and what they hardly do; which products of integers a text tower bears is measured with these.
TEXTS_TO_MEASURE_WITH = (
    "dog",
    "a photo of a cat",
    "sunset over the sea",
    "two children on a red bicycle in the rain",
    "birthday cake with candles",
    "Eiffel Tower at night, black and white",
    "a close-up of hands holding a cup of coffee",
    "no people",
    "passport",
    "IMG_2041.JPG",
    "1998",
    "Gebirge im Nebel",
    "a",
    "",
    "!!!",
    "the the the the",
)

Parts: TypeAlias = list[tuple[nnx.Module, str]]
"""Modules, and the names of their attributes."""


def products(model: nnx.Module) -> dict[str, Parts]:
    """Where the products of a tower are that may be of integers, by name.

    Queries, keys and values share their inputs and go together. Attention's own products and projections are a small
    part of the work and stay as they are, and so do towers that are narrow.
    """
    found: dict[str, Parts] = {}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, PreNormBlock) and module.attention.out.kernel.shape[1] >= _LEAST_WIDTH:
            name = ".".join(map(str, path))
            found[f"{name}.attention"] = [(module.attention, part) for part in ("query", "key", "value")]
            found[f"{name}.attention.out"] = [(module.attention, "out")]
            pieces = module.mlp.pieces if isinstance(module.mlp, DividedMlp) else [module.mlp]
            found |= {f"{name}.mlp.{part}": [(piece, part) for piece in pieces] for part in ("up", "down")}
    if found:
        patches = [
            (module, name)
            for _, module in nnx.iter_modules(model)
            for name, part in vars(module).items()
            if isinstance(part, PatchEmbedding)
        ]
        if len(patches) == 1:
            found[_PATCHES] = patches
    return found


def quantize(
    model: nnx.Module, names: Collection[str], normalization: Normalization, *, unsigned: bool = False
) -> None:
    """Makes the `products` of these names such of integers.

    Args:
        model: The tower. If `takes_pixels_as_they_are` afterwards, it wants them so.
        names: Of products.
        normalization: What pixels are multiplied with, and what is added then, each float (channels,).
        unsigned: Whether the inputs of products go into the processor as uint8, which some multiply faster.
    """
    for name, places in products(model).items():
        if name in names:
            for module, part in places:
                old = getattr(module, part)
                new = (
                    Int8Linear(old, _least_input(module, part), unsigned=unsigned)
                    if isinstance(old, Linear)
                    else Int8PatchEmbedding(old, normalization, unsigned=unsigned)
                )
                setattr(module, part, new)


def _least_input(module: nnx.Module, part: str) -> float | None:
    """The least value that goes into a product, where it is known: into the second one of an MLP."""
    if isinstance(module, Mlp) and part == "down":
        return LEAST_VALUES[module.activation]
    return None


def takes_pixels_as_they_are(model: nnx.Module) -> bool:
    """Tells whether a tower wants pixels from 0 to 255, not normalised."""
    return any(isinstance(module, Int8PatchEmbedding) for _, module in nnx.iter_modules(model))


def choose_products(
    model: nnx.Module,
    run: Callable[[Any], jax.Array],
    normalization: Normalization,
    least_cosine: float = LEAST_COSINE,
) -> frozenset[str]:
    """Finds out which products of a tower may be of integers.

    Args:
        model: The tower, computing in float32; it is of no use afterwards.
        run: Calls it with the inputs to measure with, giving features, float32 (batch, dimension).
        normalization: As for `quantize`.
        least_cosine: Between any input's vectors of float32 and of integers.
    """
    switches: dict[str, list[_SwitchedLinear | _SwitchedPatchEmbedding]] = {}
    for name, places in products(model).items():
        switches[name] = []
        for module, part in places:
            old = getattr(module, part)
            new = (
                _SwitchedLinear(old, _least_input(module, part))
                if isinstance(old, Linear)
                else _SwitchedPatchEmbedding(old, normalization)
            )
            setattr(module, part, new)
            switches[name].append(new)
    if not switches:
        return frozenset()
    vectors = nnx.jit(lambda tower: unit_length(run(tower)))

    def vectors_with(names: Collection[str]) -> npt.NDArray[np.float32]:
        for name, parts in switches.items():
            for part in parts:
                part.switch.set_value(jnp.float32(name in names))
        return np.asarray(vectors(model))

    exact = vectors_with(())

    def worst_cosine(names: Collection[str]) -> float:
        return float((vectors_with(names) * exact).sum(axis=1).min())

    kinds: dict[str, list[str]] = {}
    for name in switches:
        kinds.setdefault(name.rpartition(".")[2], []).append(name)
    return choose(list(kinds.values()), worst_cosine, least_cosine)


def choose(
    kinds: Sequence[Sequence[str]], worst_cosine: Callable[[Collection[str]], float], least_cosine: float
) -> frozenset[str]:
    """Chooses as many products as the least cosine allows, all of them if it can be.

    What each loses is taken to add up. Kinds that lose little are measured as one, others in halves, down to single
    products; what then may be together is tried, and made less until it holds.

    Args:
        kinds: Names of products, those together that have the same place in each block, in the blocks' order.
        worst_cosine: Measures with the given ones in integers, the others exact; costs much.
        least_cosine: That the chosen ones together must reach.
    """

    def loss(names: Collection[str]) -> float:
        lost = 1.0 - worst_cosine(names)
        return lost if np.isfinite(lost) else np.inf

    everything = frozenset(name for kind in kinds for name in kind)
    allowed = 1.0 - least_cosine
    if loss(everything) <= allowed:
        return everything
    losses: dict[frozenset[str], float] = {}
    waiting = [list(kind) for kind in reversed(kinds)]
    while waiting:
        names = waiting.pop()
        lost = loss(names)
        if lost <= allowed * len(names) / len(everything) or len(names) == 1:
            losses[frozenset(names)] = lost
        else:
            middle = len(names) // 2
            waiting += [names[middle:], names[:middle]]
    groups = list(_cheapest(losses, allowed))
    for _ in range(_MOST_TRIALS):
        chosen = frozenset().union(*groups)
        if not chosen or (lost := loss(chosen)) <= allowed:
            return chosen
        budget = 0.9 * allowed / lost * sum(losses[group] for group in groups)
        groups = list(_cheapest(losses, budget)) or groups[: len(groups) > 1]
    return frozenset()


def _cheapest(losses: dict[frozenset[str], float], budget: float) -> Iterator[frozenset[str]]:
    total = 0.0
    for names in sorted(losses, key=lambda names: losses[names] / len(names)):
        total += losses[names]
        if total > budget:
            return
        yield names


def pictures_to_measure_with(height_pixels: int, width_pixels: int) -> npt.NDArray[np.uint8]:
    """Drawn pictures of many kinds: uint8 (12, height, width, 3), always the same.

    Flat ones are among them, since a tower gives its most lopsided values to what has nothing to see.
    """
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : 1 : height_pixels * 1j, 0 : 1 : width_pixels * 1j]
    flat = [
        np.broadcast_to(colour, (height_pixels, width_pixels, 3))
        for colour in ((0, 0, 0), (1, 1, 1), (0.9, 0.2, 0.1))
    ]
    slopes = [np.stack([rows, columns, 1 - rows], axis=-1), np.stack([(rows + columns) / 2] * 3, axis=-1)]
    waves = [
        np.stack([(np.sin(count * 6.28 * (rows + slope * columns)) > 0) * 1.0] * 3, axis=-1)
        for count, slope in ((3, 0.0), (14, 1.5))
    ]
    disc = (np.hypot(rows - 0.5, columns - 0.4) < 0.25)[..., None]
    shapes = [np.where(disc, (0.2, 0.6, 0.9), (0.8, 0.75, 0.6))]
    noises = [_noise(random, height_pixels, width_pixels, roughness) for roughness in (0.3, 0.5, 0.7, 1.0)]
    return np.stack(
        [(255 * np.clip(image, 0, 1)).astype(np.uint8) for image in flat + slopes + waves + shapes + noises]
    )


def _noise(random: np.random.Generator, height: int, width: int, roughness: float) -> npt.NDArray[np.float64]:
    """Noise with detail at every scale, each finer one weaker by `roughness`."""
    total = np.full((height, width, 3), 0.5)
    cells, strength = 2, 0.25
    while cells < max(height, width):
        octave = random.standard_normal((cells, cells, 3))
        total += (
            strength * octave[np.arange(height)[:, None] * cells // height, np.arange(width) * cells // width]
        )
        cells, strength = cells * 2, strength * roughness
    return total

"""Gradients against PyTorch, dropout only where it was asked for, and every parameter that should move moves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import (
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    OpenCLIPConfig,
    OpenCLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)
from model.layers import PatchDropout, dropout
from model.open_clip import OpenCLIPVisionConfig
from model.products import product
from model.weights import export


def gradients(
    model: Any, known: Any, seed: int | None = None, images: slice | list[int] = slice(None)
) -> Any:
    """The gradient of the contrastive loss, as a state; with a seed, through dropout."""
    graph, state = nnx.split(model)

    def loss(state: nnx.State) -> jax.Array:
        rngs = None if seed is None else nnx.Rngs(dropout=seed)
        whole = nnx.merge(graph, state)
        pixels = known["pixel_values"][images]
        result = whole(known["input_ids"], pixels, known["attention_mask"], return_loss=True, rngs=rngs).loss
        assert result is not None
        return result

    return jax.jit(jax.grad(loss))(state)


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("name", ["clip-first-rules"])
def test_clip_gradients_are_those_of_pytorch(golden: Callable[[str], Any], name: str) -> None:
    known = golden(name)
    model = CLIPModel.from_pretrained(known.folder)
    nnx.update(model, gradients(model, known, images=[0, 1, 0]))
    arrays = export(model, model.weights)
    norms = np.array([np.linalg.norm(arrays[key]) for key in sorted(arrays)])
    np.testing.assert_allclose(norms, known["gradient_norms"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["dual-vit-roberta"])
def test_dual_encoder_gradients_are_those_of_pytorch(golden: Callable[[str], Any], name: str) -> None:
    known = golden(name)
    state = gradients(VisionTextDualEncoderModel.from_pretrained(known.folder), known)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(state)))
    np.testing.assert_allclose(norm, known["gradient_norm"], rtol=1e-4)


def with_dropout(folder: Any, model_class: Any, rate: float) -> Any:
    """The same weights with every dropout of the configuration at one rate."""

    def changed(config: Any) -> Any:
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                changes[field.name] = changed(value)
            elif "dropout" in field.name or field.name == "drop_path_rate":
                changes[field.name] = rate
        return dataclasses.replace(config, **changes)

    given = model_class.from_pretrained(folder)
    model = model_class(changed(given.config), rngs=None)
    nnx.update(model, nnx.state(given))
    return model


# A bias of the keys shifts all scores of a row alike, which softmax does not see; the mask token is only carried.
STILL = ("key.bias", "mask_token")


@pytest.mark.parametrize("pair", ["clip-roberta", "vit-bert", "dinov2-clip"])
def test_one_step_moves_every_parameter(golden: Callable[[str], Any], pair: str) -> None:
    known = golden(f"dual-pairs/{pair}")
    model = with_dropout(known.folder, VisionTextDualEncoderModel, 0.1)
    before = nnx.to_flat_state(nnx.state(model))
    moves = nnx.to_flat_state(gradients(model, known, seed=1))
    assert len(before) == len(moves) > 30
    still = []
    for (path, parameter), (_, gradient) in zip(before, moves, strict=True):
        stepped = np.asarray(parameter[...]) - 0.1 * np.asarray(gradient[...])
        assert np.isfinite(stepped).all()
        if np.abs(stepped - np.asarray(parameter[...])).max() < 1e-7:
            still.append(".".join(map(str, path)))
    assert all(name.endswith(STILL) for name in still), still


@pytest.mark.parametrize("pair", ["vit-bert", "dinov2-clip"])
def test_dropout_happens_where_a_call_is_given_rngs(golden: Callable[[str], Any], pair: str) -> None:
    known = golden(f"dual-pairs/{pair}")
    model = with_dropout(known.folder, VisionTextDualEncoderModel, 0.4)
    inputs = (known["input_ids"], known["pixel_values"], known["attention_mask"])
    exact = model(*inputs)
    one, again, other = (model(*inputs, rngs=nnx.Rngs(dropout=seed)) for seed in (1, 1, 2))
    for name in ("text_embeds", "image_embeds"):
        known.check(exact[name], f"joint_{name}")
        np.testing.assert_array_equal(one[name], again[name])
        assert np.abs(np.asarray(one[name]) - np.asarray(other[name])).max() > 1e-3
        assert np.abs(np.asarray(one[name]) - known[f"joint_{name}"]).max() > 1e-3
    none = with_dropout(known.folder, VisionTextDualEncoderModel, 0.0)
    known.check(none(*inputs, rngs=nnx.Rngs(dropout=1)).text_embeds, "joint_text_embeds")


def test_dropout_keeps_the_mean() -> None:
    ones = jnp.ones((100, 100))
    dropped = np.asarray(dropout(ones, 0.25, nnx.Rngs(dropout=0)))
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)
    assert abs(dropped.mean() - 1) < 0.02
    np.testing.assert_array_equal(dropout(ones, 0.25, None), ones)


def test_patch_dropout_keeps_the_prefix_and_a_random_choice_of_the_rest() -> None:
    layer = PatchDropout(prefix_tokens=1)
    tokens = jnp.broadcast_to(jnp.arange(9.0)[None, :, None], (50, 9, 3))
    np.testing.assert_array_equal(layer(tokens, nnx.Rngs(dropout=0)), tokens)
    layer.rate = 0.75
    np.testing.assert_array_equal(layer(tokens, None), tokens)
    kept = np.asarray(layer(tokens, nnx.Rngs(dropout=0)))[:, :, 0]
    assert kept.shape == (50, 3)
    assert (kept[:, 0] == 0).all()
    assert (kept[:, 1] != kept[:, 2]).all()
    assert set(kept[:, 1:].flat) == set(range(1, 9))
    layer.rate = 0.99
    assert layer(tokens, nnx.Rngs(dropout=0)).shape == (50, 2, 3)


SMALL_TOWER = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


@pytest.mark.parametrize(
    ("tower", "config", "prefix_tokens"),
    [
        (CLIPVisionModel, CLIPVisionConfig(**SMALL_TOWER), 1),
        (SiglipVisionModel, SiglipVisionConfig(**SMALL_TOWER), 0),
        (ViTModel, ViTConfig(**SMALL_TOWER), 1),
        (Dinov2Model, Dinov2Config(**SMALL_TOWER), 1),
        (
            OpenCLIPVisionModelWithProjection,
            OpenCLIPConfig(
                vision_cfg=OpenCLIPVisionConfig(1, 24, head_width=12, image_size=16, patch_size=4)
            ),
            1,
        ),
    ],
)
def test_every_vision_tower_leaves_patches_out_where_it_is_told_to(
    tower: Any, config: Any, prefix_tokens: int
) -> None:
    model = tower(config, rngs=nnx.Rngs(0))
    pixels = jnp.zeros((2, 3, 16, 16))
    assert model(pixels, rngs=nnx.Rngs(0)).last_hidden_state.shape[1] == 16 + prefix_tokens
    model.patch_dropout.rate = 0.75
    assert model(pixels, rngs=nnx.Rngs(0)).last_hidden_state.shape[1] == 4 + prefix_tokens
    assert model(pixels).last_hidden_state.shape[1] == 16 + prefix_tokens


def test_gradients_flow_through_half_precision(golden: Callable[[str], Any]) -> None:
    known = golden("clip-first-rules")
    model = CLIPModel.from_pretrained(known.folder, dtype=jnp.bfloat16)
    state = gradients(model, known, images=[0, 1, 0])
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(state)))
    np.testing.assert_allclose(norm, np.linalg.norm(known["gradient_norms"]), rtol=0.02)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("aby,yz->abz", ((3, 8, 30), (30, 42))),
        ("bihc,bjhc->bhij", ((3, 7, 3, 10), (3, 7, 3, 10))),
        ("bhij,bjhc->bihc", ((3, 3, 7, 7), (3, 7, 3, 10))),
    ],
)
def test_gradients_of_half_products_arrive_in_float32_and_not_rounded_again(
    subscripts: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    half = jnp.dtype(jnp.bfloat16)
    operands = [jax.random.normal(jax.random.key(seed), shape) for seed, shape in enumerate(shapes)]

    def loss(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(product(subscripts, left, right, half)))

    def exact(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jnp.einsum(subscripts, left, right, precision="highest")))

    found = jax.jit(jax.grad(loss, (0, 1)))(*operands)
    for given, wanted in zip(found, jax.grad(exact, (0, 1))(*operands), strict=True):
        assert given.dtype == jnp.float32
        assert np.any(np.asarray(given) != np.asarray(given.astype(half).astype(jnp.float32)))
        np.testing.assert_allclose(given, wanted, rtol=0.05, atol=0.05 * np.abs(wanted).max())


def test_the_way_back_of_a_layer_multiplies_halves() -> None:
    """As the way there does: that is what half precision is fast at."""
    half = jnp.dtype(jnp.bfloat16)

    def loss(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.sum(product("ay,yz->az", left, right, half))

    traced = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(jnp.ones((3, 4)), jnp.ones((4, 5)))
    products = [line for line in traced.eqns if line.primitive.name == "dot_general"]
    assert len(products) == 3
    assert {operand.aval.dtype for line in products for operand in line.invars} == {half}
    assert {line.outvars[0].aval.dtype for line in products} == {jnp.dtype(jnp.float32)}

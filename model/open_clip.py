"""CLIP as OpenCLIP writes it (Ilharco et al. 2021, https://github.com/mlfoundations/open_clip).

A folder holds `open_clip_config.json` and `open_clip_model.safetensors` (or
`open_clip_pytorch_model.safetensors`). The arrays' layout is that of `open_clip.model.CLIP` and
`CustomTextCLIP`: query, key and value stacked, projections that are multiplied from the right. Read are
plain vision transformers with OpenCLIP's own text transformer; towers that come from elsewhere (timm,
Hugging Face) and other architectures (CoCa, ResNet) are named and refused.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from model.configuration import Configuration, Pixels, grid, height_and_width
from model.contrast import compare
from model.errors import ConfigurationError, ModelInputError
from model.inputs import check_attention_mask, check_ids, check_pixels
from model.json_file import read_json
from model.layers import (
    BlockSettings,
    BlocksOutput,
    Build,
    Embedding,
    LayerNorm,
    Linear,
    PatchDropout,
    PatchEmbedding,
    Places,
    PreNormBlock,
    along_last,
    attention_pattern,
    run_blocks,
    tokens_at,
)
from model.open_clip_files import (
    OPEN_CLIP_CONFIG_NAME,
    OPEN_CLIP_WEIGHTS_NAMES,
    open_clip_weights,
    split_open_clip_settings,
)
from model.outputs import DualEncoderOutput, ImageEmbeddingOutput, TextEmbeddingOutput, TowerOutput
from model.pretrained import PretrainedModel, locate_folder
from model.weights import (
    CONVOLUTION,
    EMBEDDING,
    LINEAR,
    MATRIX,
    NORM,
    PARAMETER,
    STACKED_LINEAR,
    Rename,
    Row,
    WeightTable,
    export,
    fill,
    under,
)
from model.whole_file import put_in_place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from jax.typing import ArrayLike, DTypeLike


# Configurations

# Variants of a block that no published checkpoint of these towers was found to use.
_PLAIN_BLOCKS: dict[str, tuple[Any, ...]] = {
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}


@dataclass(frozen=True)
class OpenCLIPVisionConfig(Configuration):
    """`vision_cfg`; names and defaults are those of OpenCLIP. Sizes in pixels; pairs are height, width."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"}
        | {"timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"}
    )
    inert: ClassVar[dict[str, tuple[Any, ...]]] = _PLAIN_BLOCKS | {
        "attentional_pool": (False,),
        "pos_embed_type": ("learnable",),
        "timm_model_name": (None,),
    }

    layers: int = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: Pixels = 16
    image_size: Pixels = 224
    ls_init_value: float | None = None
    no_ln_pre: bool = False
    final_ln_after_pool: bool = False
    pool_type: str = "tok"
    act_kwargs: dict | None = None  # type: ignore[type-arg]  # the check of fields knows plain types only
    norm_kwargs: dict | None = None  # type: ignore[type-arg]

    def __post_init__(self) -> None:
        super().__post_init__()
        _among("vision_cfg.pool_type", self.pool_type, ("tok", "avg"))
        if self.head_width < 1 or self.width % self.head_width:
            raise ConfigurationError(
                f"vision_cfg.width {self.width} is no multiple of vision_cfg.head_width {self.head_width}"
            )
        grid(self.image_size, self.patch_size)

    def block_settings(self, *, quick_gelu: bool) -> BlockSettings:
        """What the tower's blocks have in common."""
        return _block_settings(self, self.width // self.head_width, quick_gelu=quick_gelu)


@dataclass(frozen=True)
class OpenCLIPTextConfig(Configuration):
    """`text_cfg`; names and defaults are those of OpenCLIP."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        {"pad_id", "output_tokens", "hf_tokenizer_name", "tokenizer_kwargs", "final_ln_after_pool"}
        | {"hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}
    )
    inert: ClassVar[dict[str, tuple[Any, ...]]] = _PLAIN_BLOCKS | {
        "embed_cls": (False,),
        "hf_model_name": (None,),
        "tokenizer_mode": (None,),
    }

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    ls_init_value: float | None = None
    eos_id: int = 2
    no_causal_mask: bool = False
    pool_type: str = "argmax"
    proj_bias: bool = False
    proj_type: str = "linear"
    act_kwargs: dict | None = None  # type: ignore[type-arg]  # the check of fields knows plain types only
    norm_kwargs: dict | None = None  # type: ignore[type-arg]

    def __post_init__(self) -> None:
        super().__post_init__()
        _among("text_cfg.pool_type", self.pool_type, ("argmax", "eos", "first", "last"))
        _among("text_cfg.proj_type", self.proj_type, ("linear", "none"))

    def block_settings(self, *, quick_gelu: bool) -> BlockSettings:
        """What the tower's blocks have in common."""
        return _block_settings(self, self.heads, quick_gelu=quick_gelu)


@dataclass(frozen=True)
class OpenCLIPConfig(Configuration):
    """`open_clip_config.json`: what its `model_cfg` says, and `preprocess_cfg` as it is."""

    ignored: ClassVar[frozenset[str]] = frozenset({"cast_dtype", "output_dict", "custom_text"})
    inert: ClassVar[dict[str, tuple[Any, ...]]] = {
        "nonscalar_logit_scale": (False,),
        "multimodal_cfg": (None,),
    }

    embed_dim: int = 512
    vision_cfg: OpenCLIPVisionConfig = field(default_factory=OpenCLIPVisionConfig)
    text_cfg: OpenCLIPTextConfig = field(default_factory=OpenCLIPTextConfig)
    quick_gelu: bool = False
    init_logit_scale: float = 2.6592600
    init_logit_bias: float | None = None
    preprocess_cfg: dict = field(default_factory=dict)  # type: ignore[type-arg]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.vision_cfg.block_settings(quick_gelu=self.quick_gelu)
        self.text_cfg.block_settings(quick_gelu=self.quick_gelu)
        if self.text_cfg.proj_type == "none" and self.text_cfg.width != self.embed_dim:
            raise ConfigurationError(
                f"text_cfg.proj_type 'none' leaves texts with {self.text_cfg.width} dimensions, embed_dim is "
                f"{self.embed_dim}"
            )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read what an open_clip_config.json holds, or its `model_cfg` alone.

        Raises:
            UnsupportedCheckpointError: it asks for towers that are not read here; all of them are named.
            ConfigurationError: settings are unknown, or contradict each other.
        """
        model, preprocess = split_open_clip_settings(settings)
        model["vision_cfg"] = OpenCLIPVisionConfig.from_dict(model.get("vision_cfg", {}))
        model["text_cfg"] = OpenCLIPTextConfig.from_dict(model.get("text_cfg", {}))
        return super().from_dict(model | {"preprocess_cfg": preprocess})

    def to_dict(self) -> dict[str, Any]:
        """What goes into open_clip_config.json; `from_dict` gives the same configuration back."""
        model = json.loads(json.dumps(asdict(self)))
        return {"preprocess_cfg": model.pop("preprocess_cfg"), "model_cfg": model}


def _among(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(f"{name} = {value!r} is not supported: known are {', '.join(known)}")


def _activation(settings: Mapping[str, Any] | None, *, quick_gelu: bool) -> str:
    if quick_gelu:
        return "quick_gelu"
    rest = dict(settings or {})
    kinds = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
    approximate = rest.pop("approximate", "none")
    if rest or approximate not in kinds:
        raise ConfigurationError(
            f"act_kwargs = {settings} is not supported: known is approximate, 'none' or 'tanh'"
        )
    return kinds[approximate]


def _epsilon(settings: Mapping[str, Any] | None) -> float:
    rest = dict(settings or {})
    epsilon = rest.pop("eps", 1e-5)
    if rest or not isinstance(epsilon, int | float):
        raise ConfigurationError(f"norm_kwargs = {settings} is not supported: known is eps, a number")
    return float(epsilon)


def _block_settings(
    config: OpenCLIPTextConfig | OpenCLIPVisionConfig, heads: int, *, quick_gelu: bool
) -> BlockSettings:
    narrow = config.width**-0.5
    deep = narrow * (2 * config.layers) ** -0.5 if config.layers else narrow
    return BlockSettings(
        width=config.width,
        heads=heads,
        mlp_width=int(config.width * config.mlp_ratio),
        activation=_activation(config.act_kwargs, quick_gelu=quick_gelu),
        epsilon=_epsilon(config.norm_kwargs),
        in_deviation=narrow,
        out_deviation=deep,
        up_deviation=2**-0.5 * narrow,
        down_deviation=deep,
    )


# What the parameters are called in a checkpoint (see `model.weights`)

BLOCK_ROWS = (
    Row("ln_1", "attention_norm", NORM),
    Row("attn.in_proj", "attention.query", STACKED_LINEAR, part=(0, 3)),
    Row("attn.in_proj", "attention.key", STACKED_LINEAR, part=(1, 3)),
    Row("attn.in_proj", "attention.value", STACKED_LINEAR, part=(2, 3)),
    Row("attn.out_proj", "attention.out", LINEAR),
    Row("ls_1.gamma", "attention_scale", PARAMETER),
    Row("ln_2", "mlp_norm", NORM),
    Row("mlp.c_fc", "mlp.up", LINEAR),
    Row("mlp.c_proj", "mlp.down", LINEAR),
    Row("ls_2.gamma", "mlp_scale", PARAMETER),
)

TEXT_ROWS = (
    Row("token_embedding", "token_embedding", EMBEDDING),
    Row("positional_embedding", "position_embedding", PARAMETER),
    *under(BLOCK_ROWS, "transformer.resblocks.{}.", "blocks.{}."),
    Row("ln_final", "final_norm", NORM),
)

VISION_ROWS = (
    Row("visual.class_embedding", "class_embedding", PARAMETER),
    Row("visual.positional_embedding", "position_embedding", PARAMETER),
    Row("visual.conv1", "patch_embedding", CONVOLUTION),
    Row("visual.ln_pre", "first_norm", NORM),
    *under(BLOCK_ROWS, "visual.transformer.resblocks.{}.", "blocks.{}."),
    Row("visual.ln_post", "final_norm", NORM),
    Row("visual.proj", "projection", MATRIX),
)

# `CustomTextCLIP` puts the text tower under a name of its own; OpenCLIP reads either.
_RENAMES = (Rename(r"^text\.", ""),)
_TEXT_PART = r"^(token_embedding\.|positional_embedding$|transformer\.|ln_final\.|text_projection)"
_VISION_PART = r"^visual\."
# A constant that early versions saved beside the weights.
_MASK = r"^attn_mask$"
_SCALES = r"^logit_(scale|bias)$"


def _text_rows(config: OpenCLIPTextConfig) -> tuple[Row, ...]:
    return (*TEXT_ROWS, Row("text_projection", "projection", LINEAR if config.proj_bias else MATRIX))


# Towers


class ScaledBlock(nnx.Module):
    """A pre-norm block whose two additions are scaled channel by channel (layer scale)."""

    def __init__(self, settings: BlockSettings, scale: float, build: Build) -> None:
        block = PreNormBlock(settings, build)
        self.attention_norm, self.attention = block.attention_norm, block.attention
        self.mlp_norm, self.mlp = block.mlp_norm, block.mlp
        self.attention_scale = build.constant((settings.width,), scale)
        self.mlp_scale = build.constant((settings.width,), scale)

    @property
    def is_random(self) -> bool:
        """As `model.layers.Block` says."""
        return self.attention.dropout_rate > 0.0

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        at: Places | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As `model.layers.Block` says."""
        attended, weights = self.attention(self.attention_norm(hidden), mask, rngs=rngs, at=at)
        hidden = tokens_at(hidden, at) + attended * along_last(self.attention_scale[...], attended)
        widened = self.mlp(self.mlp_norm(hidden))
        return hidden + widened * along_last(self.mlp_scale[...], widened), weights


def _blocks(settings: BlockSettings, count: int, scale: float | None, build: Build) -> nnx.List[Any]:
    make = (
        (lambda: PreNormBlock(settings, build))
        if scale is None
        else (lambda: ScaledBlock(settings, scale, build))
    )
    return nnx.List([make() for _ in range(count)])


class OpenCLIPPretrained(PretrainedModel):
    """Coming from an OpenCLIP folder and going back into one."""

    configuration_class = OpenCLIPConfig
    config: OpenCLIPConfig

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, dtype: DTypeLike = jnp.float32, param_dtype: DTypeLike = jnp.float32
    ) -> Self:
        """Load a checkpoint; arguments and errors as for `PretrainedModel`."""
        folder = locate_folder(path_or_id)
        model = cls.from_settings(
            read_json(folder / OPEN_CLIP_CONFIG_NAME), dtype=dtype, param_dtype=param_dtype
        )
        fill(model, open_clip_weights(folder), model.weights)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `open_clip_config.json` and `open_clip_model.safetensors` as OpenCLIP reads them.

        Args:
            folder: made if it is not there; files of these names in it are replaced.
        """
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{OPEN_CLIP_WEIGHTS_NAMES[0]}.unfinished"
        save_file(export(self, self.weights), unfinished, metadata={"format": "pt"})
        put_in_place(unfinished, folder / OPEN_CLIP_WEIGHTS_NAMES[0])
        unfinished = folder / f"{OPEN_CLIP_CONFIG_NAME}.unfinished"
        unfinished.write_text(json.dumps(self.config.to_dict(), indent=2) + "\n", encoding="utf-8")
        put_in_place(unfinished, folder / OPEN_CLIP_CONFIG_NAME)


class OpenCLIPTextModelWithProjection(OpenCLIPPretrained):
    """The text tower and its projection into the space that both towers share."""

    def __init__(
        self,
        config: OpenCLIPConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh tower; arguments as for `OpenCLIPModel`."""
        build = Build.of(rngs, dtype, param_dtype)
        text = config.text_cfg
        settings = text.block_settings(quick_gelu=config.quick_gelu)
        self.config = config
        self.token_embedding = Embedding(text.vocab_size, text.width, build)
        self.position_embedding = build.normal((text.context_length, text.width), 0.01)
        self.blocks = _blocks(settings, text.layers, text.ls_init_value, build)
        self.final_norm = LayerNorm(text.width, build, epsilon=settings.epsilon)
        self.projection = (
            None
            if text.proj_type == "none"
            else Linear(
                text.width, config.embed_dim, build, deviation=text.width**-0.5, use_bias=text.proj_bias
            )
        )

    @property
    def weights(self) -> WeightTable:  # type: ignore[override]
        """The tower's table, which depends on the projection's having a bias."""
        return WeightTable(
            _text_rows(self.config.text_cfg), renames=_RENAMES, elsewhere=(_VISION_PART, _SCALES, _MASK)
        )

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> TextEmbeddingOutput:
        """Encode texts.

        Args:
            input_ids: integer (batch, length), length at most context_length.
            attention_mask: (batch, length), 0 where there is padding. OpenCLIP knows no such mask: leave it
                out to get its numbers.
            output_attentions: whether to return every block's attention weights.
            output_hidden_states: whether to return what went into the blocks and what left each. The last of
                them is before the final norm.
            rngs: taken for the sake of the other families; there is no dropout here.

        Returns:
            `text_embeds` (batch, embed_dim), not normalised; `last_hidden_state` passed the final norm.

        Raises:
            ModelInputError: the arrays do not fit.
        """
        text = self.config.text_cfg
        ids = check_ids(input_ids, text.vocab_size, text.context_length)
        rows = self.token_embedding(ids)
        positions = self.position_embedding[...].astype(jnp.float32)[: ids.shape[1]]
        passed = run_blocks(
            self.blocks,
            rows + jnp.broadcast_to(positions, rows.shape),
            attention_pattern(
                ids.shape[1], check_attention_mask(attention_mask, ids), causal=not text.no_causal_mask
            ),
            pooled_at=self._place_of_text(ids),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        last, pooled = self.final_norm(passed.last), self.final_norm(passed.pooled)
        features = pooled if self.projection is None else self.projection(pooled)
        output = TowerOutput(last, pooled, passed.hidden_states, passed.attentions)
        return TextEmbeddingOutput.of(output, features)

    def _place_of_text(self, ids: jax.Array) -> jax.Array:
        """Where in each row the token stands that the text is pooled at: integer (batch,)."""
        text = self.config.text_cfg
        if text.pool_type == "argmax":
            return jnp.argmax(ids, axis=1)
        if text.pool_type == "eos":
            return jnp.argmax((ids == text.eos_id).astype(jnp.int32), axis=1)
        return jnp.full(ids.shape[0], 0 if text.pool_type == "first" else ids.shape[1] - 1)


class OpenCLIPVisionModelWithProjection(OpenCLIPPretrained):
    """The vision tower and its projection into the space that both towers share."""

    weights = WeightTable(VISION_ROWS, renames=_RENAMES, elsewhere=(_TEXT_PART, _SCALES, _MASK))

    def __init__(
        self,
        config: OpenCLIPConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh tower; arguments as for `OpenCLIPModel`."""
        build = Build.of(rngs, dtype, param_dtype)
        vision = config.vision_cfg
        settings = vision.block_settings(quick_gelu=config.quick_gelu)
        rows, columns = grid(vision.image_size, vision.patch_size)
        deviation = vision.width**-0.5
        self.config = config
        self.class_embedding = build.normal((vision.width,), deviation)
        self.position_embedding = build.normal((rows * columns + 1, vision.width), deviation)
        self.patch_dropout = PatchDropout(prefix_tokens=1)
        self.patch_embedding = PatchEmbedding(
            height_and_width(vision.patch_size), 3, vision.width, build, use_bias=False
        )
        self.first_norm = (
            None if vision.no_ln_pre else LayerNorm(vision.width, build, epsilon=settings.epsilon)
        )
        self.blocks = _blocks(settings, vision.layers, vision.ls_init_value, build)
        self.final_norm = LayerNorm(vision.width, build, epsilon=settings.epsilon)
        self.projection = Linear(vision.width, config.embed_dim, build, deviation=deviation, use_bias=False)

    def __call__(
        self,
        pixel_values: ArrayLike,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> ImageEmbeddingOutput:
        """Encode images.

        Args:
            pixel_values: float (batch, 3, height, width), normalised, of the configured size.
            output_attentions: whether to return every block's attention weights.
            output_hidden_states: whether to return what went into the blocks (after the first norm) and what
                left each. The last of them is `last_hidden_state`.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            `image_embeds` (batch, embed_dim), not normalised. `last_hidden_state` did not pass the final
            norm.

        Raises:
            ModelInputError: the array does not fit.
        """
        vision = self.config.vision_cfg
        images = check_pixels(pixel_values, 3, height_and_width(vision.image_size))
        patches = self.patch_embedding(images)
        class_token = jnp.broadcast_to(
            self.class_embedding[...].astype(jnp.float32), (patches.shape[0], 1, vision.width)
        )
        tokens = jnp.concatenate([class_token, patches], axis=1)
        tokens = tokens + jnp.broadcast_to(self.position_embedding[...].astype(jnp.float32), tokens.shape)
        tokens = self.patch_dropout(tokens, rngs)
        passed = run_blocks(
            self.blocks,
            tokens if self.first_norm is None else self.first_norm(tokens),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        pooled = self._pool(passed)
        output = TowerOutput(passed.last, pooled, passed.hidden_states, passed.attentions)
        return ImageEmbeddingOutput.of(output, self.projection(pooled))

    def _pool(self, passed: BlocksOutput) -> jax.Array:
        """Float32 (batch, tokens, width) to (batch, width), through the final norm."""
        vision = self.config.vision_cfg
        if vision.pool_type == "tok":
            return self.final_norm(passed.pooled)
        patches = passed.last[:, 1:]
        if vision.final_ln_after_pool:
            return self.final_norm(jnp.mean(patches, axis=1))
        return jnp.mean(self.final_norm(patches), axis=1)


class OpenCLIPModel(OpenCLIPPretrained):
    """Both towers, projected into one space, and the scale (and perhaps bias) of their cosines."""

    def __init__(
        self,
        config: OpenCLIPConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh model, to be trained.

        Args:
            config: its configuration.
            rngs: draws the parameters from its stream `params`; None makes shapes without values.
            dtype: of the operands of matrix products.
            param_dtype: of the parameters.
        """
        build = Build.of(rngs, dtype, param_dtype)
        self.config = config
        self.text = OpenCLIPTextModelWithProjection(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.visual = OpenCLIPVisionModelWithProjection(
            config, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.logit_scale = build.constant((), config.init_logit_scale)
        self.logit_bias = (
            None if config.init_logit_bias is None else build.constant((), config.init_logit_bias)
        )

    @property
    def weights(self) -> WeightTable:  # type: ignore[override]
        """Both towers' tables, and the scale and the bias."""
        rows = (
            *under(_text_rows(self.config.text_cfg), target="text."),
            *under(VISION_ROWS, target="visual."),
            Row("logit_scale", "logit_scale", PARAMETER),
            Row("logit_bias", "logit_bias", PARAMETER),
        )
        return WeightTable(rows, renames=_RENAMES, elsewhere=(_MASK,))

    def get_text_features(
        self, input_ids: ArrayLike, attention_mask: ArrayLike | None = None, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Texts in the shared space: float32 (batch, embed_dim), not normalised."""
        return self.text(input_ids, attention_mask, rngs=rngs).text_embeds

    def get_image_features(self, pixel_values: ArrayLike, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images in the shared space: float32 (batch, embed_dim), not normalised."""
        return self.visual(pixel_values, rngs=rngs).image_embeds

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        *,
        return_loss: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> DualEncoderOutput:
        """Compare texts with images.

        Args:
            input_ids: integer (texts, length).
            pixel_values: float (images, 3, height, width).
            attention_mask: (texts, length); leave it out to get OpenCLIP's numbers.
            return_loss: whether to return the contrastive loss; text i then belongs to image i.
            output_attentions: whether both towers return their attention weights.
            output_hidden_states: whether both towers return their hidden states.
            rngs: taken for the sake of the other families.

        Returns:
            Logits, unit embeddings and both towers' outputs, whose `pooler_output` is the projected one.

        Raises:
            ModelInputError: an array is missing or does not fit.
        """
        if input_ids is None or pixel_values is None:
            raise ModelInputError(
                "expected both input_ids and pixel_values; for one alone call get_text_features or "
                "get_image_features"
            )
        asked: dict[str, Any] = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "rngs": rngs,
        }
        text = self.text(input_ids, attention_mask, **asked)
        vision = self.visual(pixel_values, **asked)
        output = compare(
            TowerOutput(text.last_hidden_state, text.text_embeds, text.hidden_states, text.attentions),
            TowerOutput(
                vision.last_hidden_state, vision.image_embeds, vision.hidden_states, vision.attentions
            ),
            text.text_embeds,
            vision.image_embeds,
            self.logit_scale[...],
            return_loss=return_loss,
        )
        if self.logit_bias is None:
            return output
        bias = self.logit_bias[...].astype(jnp.float32)
        return dataclasses.replace(
            output,
            logits_per_image=output.logits_per_image + bias,
            logits_per_text=output.logits_per_text + bias,
        )

"""Any vision tower with any text tower, projected into one space, as Transformers' VisionTextDualEncoder.

What was `FlaxVisionTextDualEncoderModel` there. Two towers that were trained apart are put together with
`VisionTextDualEncoderModel.from_vision_text_pretrained`, then trained.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from model.bert import BertConfig, BertModel
from model.checkpoint import CONFIG_NAME
from model.clip import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel
from model.configuration import Configuration
from model.contrast import compare
from model.dinov2 import Dinov2Config, Dinov2Model
from model.errors import ConfigurationError, ModelInputError, UntrainedWeightsWarning
from model.inputs import check_pair
from model.json_file import read_json
from model.layers import Build, Linear
from model.outputs import DualEncoderOutput, ImageEmbeddingOutput, TextEmbeddingOutput, TowerOutput
from model.pretrained import PretrainedModel, locate_folder
from model.roberta import RobertaConfig, RobertaModel, XLMRobertaConfig, XLMRobertaModel
from model.vit import ViTConfig, ViTModel
from model.weights import LINEAR, PARAMETER, Row, WeightTable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from jax.typing import ArrayLike, DTypeLike

VisionConfig = CLIPVisionConfig | Dinov2Config | ViTConfig
TextConfig = BertConfig | CLIPTextConfig | RobertaConfig | XLMRobertaConfig
VisionTower = CLIPVisionModel | Dinov2Model | ViTModel
TextTower = BertModel | CLIPTextModel | RobertaModel | XLMRobertaModel

# By the model_type in a configuration. A whole CLIP stands for the tower that is needed of it.
VISION_TOWERS: dict[str, type[VisionTower]] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "dinov2": Dinov2Model,
    "vit": ViTModel,
}
TEXT_TOWERS: dict[str, type[TextTower]] = {
    "bert": BertModel,
    "clip": CLIPTextModel,
    "clip_text_model": CLIPTextModel,
    "roberta": RobertaModel,
    "xlm-roberta": XLMRobertaModel,
}


@dataclass(frozen=True)
class VisionTextDualEncoderConfig(Configuration):
    """Two towers' configurations, and what joins them."""

    model_types: ClassVar[tuple[str, ...]] = ("vision-text-dual-encoder",)

    vision_config: VisionConfig = field(default_factory=ViTConfig)
    text_config: TextConfig = field(default_factory=BertConfig)
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read a config.json; each tower's part says of which family it is."""
        cls.check_model_type(settings)
        settings = dict(settings)
        for key, default, towers in (
            ("vision_config", "vit", VISION_TOWERS),
            ("text_config", "bert", TEXT_TOWERS),
        ):
            part = settings.get(key) or {}
            tower = _tower(towers, part.get("model_type", default), key)
            settings[key] = tower.configuration_class.from_dict(part)
        return super().from_dict(settings)


def _tower(towers: Mapping[str, type[Any]], model_type: object, where: str) -> Any:
    if not isinstance(model_type, str) or model_type not in towers:
        raise ConfigurationError(
            f"{where}: model_type {model_type!r} is not supported; known: {', '.join(towers)}"
        )
    return towers[model_type]


def _vision_tower(config: VisionConfig, **kinds: Any) -> VisionTower:
    tower: VisionTower = _tower(VISION_TOWERS, config.model_types[0], "vision_config")(config, **kinds)
    return tower


def _text_tower(config: TextConfig, **kinds: Any) -> TextTower:
    tower: TextTower = _tower(TEXT_TOWERS, config.model_types[0], "text_config")(config, **kinds)
    return tower


def _vision_width(config: VisionConfig) -> int:
    """Width of the vision tower's `pooler_output`."""
    return config.pooler_width if isinstance(config, ViTConfig) else config.hidden_size


def _part_of_table(tower: PretrainedModel, name: str, projection: str) -> WeightTable:
    table = tower.weights.inside(name)
    return dataclasses.replace(table, rows=(*table.rows, Row(projection, projection, LINEAR)))


def _encode_texts(
    tower: TextTower,
    input_ids: ArrayLike,
    attention_mask: ArrayLike | None,
    position_ids: ArrayLike | None,
    token_type_ids: ArrayLike | None,
    **asked: Any,
) -> TowerOutput:
    """Call a text tower with those inputs that it knows; only BERT's kind has token types."""
    if isinstance(tower, BertModel):
        return tower(
            input_ids, attention_mask, token_type_ids=token_type_ids, position_ids=position_ids, **asked
        )
    if token_type_ids is not None:
        raise ModelInputError(f"token_type_ids: {type(tower).__name__} has no token types, leave them out")
    return tower(input_ids, attention_mask, position_ids, **asked)


class VisionTextDualEncoderModel(PretrainedModel):
    """Both towers, projected into one space, and the scale of their cosines."""

    configuration_class = VisionTextDualEncoderConfig
    config: VisionTextDualEncoderConfig

    def __init__(
        self,
        config: VisionTextDualEncoderConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh model, to be trained; arguments as for `model.clip.CLIPModel`."""
        vision, text = config.vision_config, config.text_config
        self.config = config
        self.vision_model = _vision_tower(vision, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.text_model = _text_tower(text, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self._join(Build.of(rngs, dtype, param_dtype))

    def _join(self, build: Build) -> None:
        """Make what stands between the towers."""
        config = self.config
        self.visual_projection = Linear(
            _vision_width(config.vision_config), config.projection_dim, build, use_bias=False
        )
        self.text_projection = Linear(
            config.text_config.hidden_size, config.projection_dim, build, use_bias=False
        )
        self.logit_scale = build.constant((), config.logit_scale_init_value)

    @property
    def weights(self) -> WeightTable:  # type: ignore[override]
        """The towers' tables, put under the names that the towers have here."""
        vision = _part_of_table(self.vision_model, "vision_model", "visual_projection")
        text = _part_of_table(self.text_model, "text_model", "text_projection")
        return WeightTable(
            (*vision.rows, *text.rows, Row("logit_scale", "logit_scale", PARAMETER)),
            (*vision.renames, *text.renames),
        )

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | Path | VisionTower,
        text: str | Path | TextTower,
        *,
        projection_dim: int = 512,
        logit_scale_init_value: float = 2.6592,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Put two towers together that were trained apart, with fresh projections.

        Args:
            vision: a checkpoint of CLIP (whole, or its vision tower), ViT or DINOv2, or such a tower.
            text: a checkpoint of BERT, RoBERTa, XLM-RoBERTa or CLIP (whole, or its text tower), or such a tower.
            projection_dim: width of the space that they will share.
            logit_scale_init_value: logarithm of the scale that the training starts from.
            rngs: draws the projections from its stream `params`; None: always the same ones.
            dtype: of the operands of matrix products.
            param_dtype: of the parameters.

        Warns:
            UntrainedWeightsWarning: always; the model answers at random until it is trained.

        Raises:
            ConfigurationError: a checkpoint is of another family.
            ModelNotFoundError: as for `from_pretrained`, like the other errors there.
        """
        kinds: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        vision_tower = vision if isinstance(vision, PretrainedModel) else _load(VISION_TOWERS, vision, kinds)
        text_tower = text if isinstance(text, PretrainedModel) else _load(TEXT_TOWERS, text, kinds)
        config = VisionTextDualEncoderConfig(
            vision_config=vision_tower.config,
            text_config=text_tower.config,
            projection_dim=projection_dim,
            logit_scale_init_value=logit_scale_init_value,
        )
        model = cls(config, rngs=None, **kinds)
        model.vision_model, model.text_model = vision_tower, text_tower
        model._join(Build.of(nnx.Rngs(0) if rngs is None else rngs, dtype, param_dtype))
        warnings.warn(
            "visual_projection, text_projection and logit_scale are new: train this model before you use it",
            UntrainedWeightsWarning,
            stacklevel=2,
        )
        return model

    def get_text_features(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Texts in the shared space: float32 (batch, projection_dim), not normalised."""
        output = _encode_texts(
            self.text_model, input_ids, attention_mask, position_ids, token_type_ids, rngs=rngs
        )
        return self.text_projection(output.pooler_output)

    def get_image_features(self, pixel_values: ArrayLike, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images in the shared space: float32 (batch, projection_dim), not normalised."""
        return self.visual_projection(self.vision_model(pixel_values, rngs=rngs).pooler_output)

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        *,
        return_loss: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> DualEncoderOutput:
        """Compare texts with images.

        Args:
            input_ids: integer (texts, length).
            pixel_values: float (images, channels, height, width).
            attention_mask: (texts, length), 0 where there is padding.
            position_ids: integer (texts or 1, length).
            token_type_ids: integer (texts or 1, length); for BERT and its kin alone.
            return_loss: whether to return the contrastive loss; text i then belongs to image i.
            output_attentions: whether both towers return their attention weights.
            output_hidden_states: whether both towers return their hidden states.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            Logits, unit embeddings and both towers' outputs as the towers give them.

        Raises:
            ModelInputError: an array is missing or does not fit.
        """
        input_ids, pixel_values = check_pair(input_ids, pixel_values, equally_many=return_loss)
        asked: dict[str, Any] = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "rngs": rngs,
        }
        text = _encode_texts(
            self.text_model, input_ids, attention_mask, position_ids, token_type_ids, **asked
        )
        vision = self.vision_model(pixel_values, **asked)
        return compare(
            text,
            vision,
            self.text_projection(text.pooler_output),
            self.visual_projection(vision.pooler_output),
            self.logit_scale[...],
            return_loss=return_loss,
        )


class DualEncoderTextModelWithProjection(PretrainedModel):
    """The text tower of a dual encoder's checkpoint and its projection, read without the other half."""

    configuration_class = VisionTextDualEncoderConfig
    config: VisionTextDualEncoderConfig

    def __init__(
        self,
        config: VisionTextDualEncoderConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh half; arguments as for `model.clip.CLIPModel`."""
        text = config.text_config
        self.config = config
        self.text_model = _text_tower(text, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.text_projection = Linear(
            text.hidden_size, config.projection_dim, Build.of(rngs, dtype, param_dtype), use_bias=False
        )

    @property
    def weights(self) -> WeightTable:  # type: ignore[override]
        """The text tower's table, put under the name that the tower has here."""
        table = _part_of_table(self.text_model, "text_model", "text_projection")
        return dataclasses.replace(
            table, elsewhere=(r"^vision_model\.", r"^visual_projection\.", r"^logit_scale$")
        )

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> TextEmbeddingOutput:
        """Encode texts; arguments as for `VisionTextDualEncoderModel`."""
        output = _encode_texts(
            self.text_model,
            input_ids,
            attention_mask,
            position_ids,
            token_type_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            rngs=rngs,
        )
        return TextEmbeddingOutput.of(output, self.text_projection(output.pooler_output))


class DualEncoderVisionModelWithProjection(PretrainedModel):
    """The vision tower of a dual encoder's checkpoint and its projection, read without the other half."""

    configuration_class = VisionTextDualEncoderConfig
    config: VisionTextDualEncoderConfig

    def __init__(
        self,
        config: VisionTextDualEncoderConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh half; arguments as for `model.clip.CLIPModel`."""
        vision = config.vision_config
        self.config = config
        self.vision_model = _vision_tower(vision, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.visual_projection = Linear(
            _vision_width(vision), config.projection_dim, Build.of(rngs, dtype, param_dtype), use_bias=False
        )

    @property
    def weights(self) -> WeightTable:  # type: ignore[override]
        """The vision tower's table, put under the name that the tower has here."""
        table = _part_of_table(self.vision_model, "vision_model", "visual_projection")
        return dataclasses.replace(
            table, elsewhere=(r"^text_model\.", r"^text_projection\.", r"^logit_scale$")
        )

    def __call__(
        self,
        pixel_values: ArrayLike,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> ImageEmbeddingOutput:
        """Encode images; arguments as for the vision tower."""
        output = self.vision_model(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            rngs=rngs,
        )
        return ImageEmbeddingOutput.of(output, self.visual_projection(output.pooler_output))


def _load(towers: Mapping[str, type[Any]], path_or_id: str | Path, kinds: Mapping[str, Any]) -> Any:
    folder = locate_folder(path_or_id)
    model_type = read_json(folder / CONFIG_NAME).get("model_type")
    return _tower(towers, model_type, str(folder)).from_pretrained(folder, **kinds)

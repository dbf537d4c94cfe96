"""What does this text or image mean, as a vector? Towers, checkpoints, preprocessing, tokenising, `Encoder`.

Importing this package costs nothing: each name is fetched from its module when it is first used, because JAX
takes seconds to import and much of what the package holds does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.bert import BertConfig as BertConfig
    from model.bert import BertModel as BertModel
    from model.clip import CLIPConfig as CLIPConfig
    from model.clip import CLIPModel as CLIPModel
    from model.clip import CLIPTextConfig as CLIPTextConfig
    from model.clip import CLIPTextModel as CLIPTextModel
    from model.clip import CLIPTextModelWithProjection as CLIPTextModelWithProjection
    from model.clip import CLIPVisionConfig as CLIPVisionConfig
    from model.clip import CLIPVisionModel as CLIPVisionModel
    from model.clip import CLIPVisionModelWithProjection as CLIPVisionModelWithProjection
    from model.dinov2 import Dinov2Config as Dinov2Config
    from model.dinov2 import Dinov2Model as Dinov2Model
    from model.dual_encoder import VisionTextDualEncoderConfig as VisionTextDualEncoderConfig
    from model.dual_encoder import VisionTextDualEncoderModel as VisionTextDualEncoderModel
    from model.encoder import Encoder as Encoder
    from model.errors import CheckpointError as CheckpointError
    from model.errors import ConfigurationError as ConfigurationError
    from model.errors import ModelError as ModelError
    from model.errors import ModelInputError as ModelInputError
    from model.errors import ModelNotFoundError as ModelNotFoundError
    from model.errors import UnsupportedCheckpointError as UnsupportedCheckpointError
    from model.errors import UntrainedWeightsWarning as UntrainedWeightsWarning
    from model.identity import ModelIdentity as ModelIdentity
    from model.open_clip import OpenCLIPConfig as OpenCLIPConfig
    from model.open_clip import OpenCLIPModel as OpenCLIPModel
    from model.open_clip import OpenCLIPTextModelWithProjection as OpenCLIPTextModelWithProjection
    from model.open_clip import OpenCLIPVisionModelWithProjection as OpenCLIPVisionModelWithProjection
    from model.preprocess import ImagePreprocessor as ImagePreprocessor
    from model.registry import locate as locate
    from model.registry import resolve_default as resolve_default
    from model.roberta import RobertaConfig as RobertaConfig
    from model.roberta import RobertaModel as RobertaModel
    from model.roberta import XLMRobertaConfig as XLMRobertaConfig
    from model.roberta import XLMRobertaModel as XLMRobertaModel
    from model.siglip import SiglipConfig as SiglipConfig
    from model.siglip import SiglipModel as SiglipModel
    from model.siglip import SiglipTextConfig as SiglipTextConfig
    from model.siglip import SiglipTextModel as SiglipTextModel
    from model.siglip import SiglipVisionConfig as SiglipVisionConfig
    from model.siglip import SiglipVisionModel as SiglipVisionModel
    from model.vit import ViTConfig as ViTConfig
    from model.vit import ViTModel as ViTModel

# Where each public name lives.
_HOMES = {
    "model.bert": ("BertConfig", "BertModel"),
    "model.clip": (
        "CLIPConfig",
        "CLIPModel",
        "CLIPTextConfig",
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "CLIPVisionConfig",
        "CLIPVisionModel",
        "CLIPVisionModelWithProjection",
    ),
    "model.dinov2": ("Dinov2Config", "Dinov2Model"),
    "model.dual_encoder": ("VisionTextDualEncoderConfig", "VisionTextDualEncoderModel"),
    "model.encoder": ("Encoder",),
    "model.errors": (
        "CheckpointError",
        "ConfigurationError",
        "ModelError",
        "ModelInputError",
        "ModelNotFoundError",
        "UnsupportedCheckpointError",
        "UntrainedWeightsWarning",
    ),
    "model.identity": ("ModelIdentity",),
    "model.open_clip": (
        "OpenCLIPConfig",
        "OpenCLIPModel",
        "OpenCLIPTextModelWithProjection",
        "OpenCLIPVisionModelWithProjection",
    ),
    "model.preprocess": ("ImagePreprocessor",),
    "model.registry": ("locate", "resolve_default"),
    "model.roberta": ("RobertaConfig", "RobertaModel", "XLMRobertaConfig", "XLMRobertaModel"),
    "model.siglip": (
        "SiglipConfig",
        "SiglipModel",
        "SiglipTextConfig",
        "SiglipTextModel",
        "SiglipVisionConfig",
        "SiglipVisionModel",
    ),
    "model.vit": ("ViTConfig", "ViTModel"),
}

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 (the list is the table's)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})

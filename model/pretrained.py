"""What all models share: coming from a checkpoint and going back into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from model.checkpoint import CONFIG_NAME, open_weights, write_checkpoint
from model.errors import ModelNotFoundError, UnsupportedCheckpointError
from model.json_file import read_json
from model.open_clip_files import OPEN_CLIP_CONFIG_NAME
from model.weights import WeightTable, export, fill

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from jax.typing import DTypeLike

    from model.configuration import Configuration


class PretrainedModel(nnx.Module):
    """A model with a configuration and a table of weights.

    Attributes:
        configuration_class: reads the model's config.json.
        weights: what its parameters are called in checkpoints; of the class, or of the model where it depends on
            the configuration.
        config: the configuration that it was made with.
    """

    configuration_class: ClassVar[type[Configuration]]
    weights: WeightTable
    config: Configuration

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, dtype: DTypeLike = jnp.float32, param_dtype: DTypeLike = jnp.float32
    ) -> Self:
        """Load a checkpoint; of a larger one that holds this model as a part, only that part is read.

        Args:
            path_or_id: a folder, an alias, or the id of a repository on the Hugging Face hub.
            dtype: of the operands of matrix products: float32, bfloat16 or float16; results are float32 in any case.
                What comes out has, to what float32 gives, a cosine of at least 0.999 with bfloat16 and of at least
                0.99999 with float16.
            param_dtype: in which the weights are held, whatever the file's own.

        Raises:
            ModelNotFoundError: there is no such folder or model.
            CheckpointError: files are missing or damaged, or do not fit the configuration.
            UnsupportedCheckpointError: the weights are in a format that is not read.
            ConfigurationError: the configuration is of another architecture or asks for what is not
                implemented.
        """
        folder = locate_folder(path_or_id)
        if (folder / OPEN_CLIP_CONFIG_NAME).exists() and not (folder / CONFIG_NAME).exists():
            raise UnsupportedCheckpointError(
                f"{folder} is laid out by OpenCLIP, {cls.__name__} reads Transformers' layout: use OpenCLIPModel"
            )
        model = cls.from_settings(read_json(folder / CONFIG_NAME), dtype=dtype, param_dtype=param_dtype)
        fill(model, open_weights(folder), model.weights, origin=str(folder))
        return model

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], *, dtype: DTypeLike, param_dtype: DTypeLike) -> Self:
        """The model that a config.json describes, with shapes where values will be."""
        make: Any = cls  # every subclass takes (config, rngs, dtype, param_dtype)
        model: Self = make(
            cls.configuration_class.from_dict(settings), rngs=None, dtype=dtype, param_dtype=param_dtype
        )
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` as Transformers, 4 and 5, reads them.

        Args:
            folder: made if it is not there; files of these names in it are replaced.
        """
        arrays = export(self, self.weights)
        dtype = next(iter(arrays.values())).dtype.name
        config = self.config.to_dict() | {"architectures": [type(self).__name__], "dtype": dtype}
        write_checkpoint(Path(folder), config, arrays)


def locate_folder(path_or_id: str | Path) -> Path:
    """The folder of a checkpoint: the one given, or the one that a name stands for (ModelNotFoundError)."""
    folder = Path(path_or_id)
    if folder.is_dir():
        return folder
    if isinstance(path_or_id, Path):
        raise ModelNotFoundError(f"there is no folder {path_or_id}")
    # Names cost a look into the hub's cache, or the network; folders must not pay for importing that.
    from model.registry import locate

    return locate(path_or_id)

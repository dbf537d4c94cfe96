"""From a name that a user types to a folder with a checkpoint: aliases, folders, hub ids, the default.

Nothing here loads a model, and nothing goes to the network for a model that is already on disk.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import CheckpointError, ModelError, ModelNotFoundError, UnsupportedCheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STARTER_FOLDER = Path(__file__).parent / "starter"

# The hub answers within a second or is not worth waiting for: the way without it is a clear message.
_HUB_TIMEOUT_SECONDS = 5.0

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_SINGLE_WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "flax_model.msgpack",
)
_INDEX = "model.safetensors.index.json"
_CONFIGURATIONS = ("config.json", "open_clip_config.json")
# Everything else of a checkpoint that is read here: settings and vocabularies. Never a pickle, never code.
_SIDE_FILES = re.compile(r"[\w.-]+\.json|merges\.txt|vocab\.txt|[\w.-]+\.model")


@dataclass(frozen=True)
class Quality:
    """One published figure of a model.

    Attributes:
        measure: What was measured, on which data.
        value: The figure, in percent.
        source: Who published it.
    """

    measure: str
    value: float
    source: str


@dataclass(frozen=True)
class Alias:
    """A short name for a checkpoint that is known to be a good choice.

    Attributes:
        name: What the user types.
        hub_id: Where it comes from; None for the one in this package.
        summary: Why one would take it, in one line.
        download_bytes: Size of what is fetched, to two digits.
        languages: The languages whose words it understands.
        licence: Of the weights.
        quality: Published figures.
        can_say_no: Whether its scores tell pictures that show a thing from those that do not well enough to
            cut off what does not fit.
    """

    name: str
    hub_id: str | None
    summary: str
    download_bytes: int
    languages: str
    licence: str
    quality: tuple[Quality, ...]
    can_say_no: bool = True


_IMAGENET = "ImageNet-1k zero-shot accuracy"
_COCO = "COCO text-to-image recall at 1"
_SIGLIP2_PAPER = "Tschannen et al. 2025, arXiv:2502.14786"
_OPEN_CLIP_TABLE = "OpenCLIP's table of zero-shot results"

ALIASES: dict[str, Alias] = {
    alias.name: alias
    for alias in (
        Alias(
            name="siglip2",
            hub_id="google/siglip2-base-patch32-256",
            summary="the default: best search for its cost, in many languages",
            download_bytes=1_500_000_000,
            languages="more than 100",
            licence="Apache-2.0",
            quality=(Quality(_IMAGENET, 74.0, _SIGLIP2_PAPER), Quality(_COCO, 47.2, _SIGLIP2_PAPER)),
        ),
        Alias(
            name="clip",
            hub_id="openai/clip-vit-base-patch32",
            summary="the classic that most others are compared with",
            download_bytes=610_000_000,
            languages="English",
            licence="MIT (code)",
            quality=(Quality(_IMAGENET, 63.3, _OPEN_CLIP_TABLE), Quality(_COCO, 30.4, _OPEN_CLIP_TABLE)),
        ),
        Alias(
            name="datacomp",
            hub_id="laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
            summary="the same architecture on far better data",
            download_bytes=610_000_000,
            languages="English",
            licence="MIT",
            quality=(Quality(_IMAGENET, 72.8, _OPEN_CLIP_TABLE), Quality(_COCO, 39.9, _OPEN_CLIP_TABLE)),
        ),
        Alias(
            name="starter",
            hub_id=None,
            summary="in this package, needs no network; knows a few hundred everyday things at 70 pixels",
            download_bytes=0,
            languages="English",
            licence="Apache-2.0 (trained on research data)",
            quality=(),
            can_say_no=False,
        ),
    )
}
DEFAULT_ALIAS = "siglip2"
FALLBACK_ALIAS = "starter"


@dataclass(frozen=True)
class LocatedModel:
    """A checkpoint on this disk.

    Attributes:
        name: What finds it again: the alias, the hub id, or the absolute folder.
        folder: Where its files are.
        revision: The hub commit, the package version for the starter, None for a folder of the user's.
    """

    name: str
    folder: Path
    revision: str | None


def locate(name: str | Path) -> Path:
    """Returns the local folder of a checkpoint, fetching it from the hub if need be; see `find_model`."""
    return find_model(name).folder


def find_model(
    name: str | Path, *, may_download: bool = True, before_download: Callable[[], None] | None = None
) -> LocatedModel:
    """Finds a checkpoint by alias, local folder or hub id, in this order.

    A hub id that is whole in the hub library's cache is taken from there without a word to the network, so
    its revision does not change under a library that was indexed with it. `HF_HUB_OFFLINE` and `HF_HOME`
    are honoured.

    Args:
        name: Alias, folder or hub id.
        may_download: False to look on this disk only.
        before_download: Called once the hub has answered and before the weights are fetched.

    Raises:
        ModelNotFoundError: If there is no such alias, folder or model, or it would have to be fetched and
            cannot be.
        UnsupportedCheckpointError: If the hub has the model, but in no format that is read here.
    """
    text = str(name)
    if isinstance(name, str) and name in ALIASES:
        hub_id = ALIASES[name].hub_id
        if hub_id is None:
            return LocatedModel(name, STARTER_FOLDER, _package_version())
        located = _find_on_hub(hub_id, may_download=may_download, before_download=before_download)
        return LocatedModel(name, located.folder, located.revision)
    if not text.strip():  # which would be the folder that one is in
        raise ModelNotFoundError(f"{text!r} names no model. Known short names are {_names()}.")
    folder = Path(name).expanduser()
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except (OSError, ValueError) as error:  # too long, a null character
        raise ModelNotFoundError(f"{text[:200]!r} is not a name a model could have: {error}.") from error
    if is_folder:
        return LocatedModel(str(folder.resolve()), folder.resolve(), None)
    if exists:
        raise ModelNotFoundError(
            f"{text!r} is a file. Name the folder that holds the checkpoint, or one of {_names()}."
        )
    if isinstance(name, str) and _HUB_ID.fullmatch(name):
        return _find_on_hub(name, may_download=may_download, before_download=before_download)
    raise ModelNotFoundError(
        f"There is no model {text!r}: it is neither an alias ({_names()}), nor a folder that is there, nor a hub id "
        "such as openai/clip-vit-base-patch32."
    )


def is_on_disk(name: str) -> bool:
    """Tells whether a model could be loaded right now, with no network."""
    try:
        find_model(name, may_download=False)
    except ModelError:
        return False
    return True


def resolve_default(notify: Callable[[str], None]) -> str:
    """Chooses for someone who named no model: the best one if it can be had, else the one in the package.

    Args:
        notify: Called with one line that says what was chosen and why, and with one before that if something
            large has to be fetched.

    Returns:
        A name that `find_model` finds on this disk.
    """
    default = ALIASES[DEFAULT_ALIAS]
    if is_on_disk(DEFAULT_ALIAS):
        notify(f"Model: {DEFAULT_ALIAS} ({default.hub_id}), the default.")
        return DEFAULT_ALIAS

    def announce() -> None:
        notify(
            f"Fetching the default model, {default.hub_id}: {default.download_bytes / 1e9:.1f} GB, once. "
            f"--model {FALLBACK_ALIAS} does without."
        )

    try:
        find_model(DEFAULT_ALIAS, before_download=announce)
    except ModelError as error:
        notify(
            f"Model: {FALLBACK_ALIAS}, the small one in this package, which knows a few hundred everyday things. "
            f"{_first_sentence(str(error))}. For far better results, once it can be fetched "
            f"({default.download_bytes / 1e9:.1f} GB): imago index DIR... --model {DEFAULT_ALIAS}"
        )
        return FALLBACK_ALIAS
    notify(f"Model: {DEFAULT_ALIAS} ({default.hub_id}), the default, fetched once and kept.")
    return DEFAULT_ALIAS


def choose_files(names: Iterable[str]) -> list[str]:
    """Picks the files of a repository that are needed: one form of the weights and the small files.

    Args:
        names: Paths inside the repository, with slashes.

    Returns:
        The chosen ones, sorted.

    Raises:
        UnsupportedCheckpointError: If the weights are there only in forms that are not read here, or not
            at all.
    """
    top = [name for name in names if "/" not in name]
    shards = [name for name in top if _SHARD.fullmatch(name)]
    if _INDEX in top and shards:
        weights = shards
    else:
        candidates = [name for name in _SINGLE_WEIGHTS if name in top]
        if "config.json" not in top:  # then a plain model.safetensors could not be read
            candidates.sort(key=lambda name: not name.startswith("open_clip"))
        if not candidates:
            raise UnsupportedCheckpointError(_no_weights(top))
        weights = candidates[:1]
    small = [name for name in top if _SIDE_FILES.fullmatch(name) and not name.endswith(".index.json")]
    return sorted({*weights, *small, *([_INDEX] if weights is shards else [])})


def has_whole_checkpoint(folder: Path) -> bool:
    """Tells whether a folder holds all that a checkpoint needs, with every shard that its index names.

    Beside configuration and weights, that is how pictures are prepared and a tokenizer. OpenCLIP does without files of
    them.
    """
    if not any((folder / name).is_file() for name in _CONFIGURATIONS):
        return False
    index = folder / _INDEX
    weights = [name for name in _SINGLE_WEIGHTS if (folder / name).is_file()]
    is_open_clip = not (folder / "config.json").is_file() or not (
        index.is_file() or any(not name.startswith("open_clip") for name in weights)
    )
    if not is_open_clip:
        from model.preprocess import JOINT_SETTINGS_NAME, SETTINGS_NAME
        from model.tokenizer import VOCABULARY_FILES

        needed = ((SETTINGS_NAME, JOINT_SETTINGS_NAME), ("tokenizer.json", *VOCABULARY_FILES))
        if not all(any((folder / name).is_file() for name in names) for names in needed):
            return False
    if index.is_file():
        from model.checkpoint import names_of_shards

        try:
            return all((folder / shard).is_file() for shard in names_of_shards(index))
        except CheckpointError:
            return False
    return bool(weights)


def _find_on_hub(
    hub_id: str, *, may_download: bool, before_download: Callable[[], None] | None
) -> LocatedModel:
    from huggingface_hub import constants

    cached = _find_in_cache(hub_id, Path(constants.HF_HUB_CACHE))
    if cached is not None:
        return cached
    if not may_download:
        raise ModelNotFoundError(f"{hub_id} is not on this disk.")
    if constants.HF_HUB_OFFLINE:
        raise ModelNotFoundError(
            f"{hub_id} is not on this disk, and HF_HUB_OFFLINE forbids to fetch it. Unset it, or take a model that "
            f"is here, such as {FALLBACK_ALIAS}."
        )
    return _fetch(hub_id, before_download)


def _find_in_cache(hub_id: str, cache: Path) -> LocatedModel | None:
    """Looks into the hub library's cache by its documented layout.

    The library could be asked, but importing that part of it costs 0.4 s at each start.
    """
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    folder = repository / "snapshots" / commit
    if not commit or not has_whole_checkpoint(folder):
        return None
    return LocatedModel(hub_id, folder, commit)


def _fetch(hub_id: str, before_download: Callable[[], None] | None) -> LocatedModel:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        information = HfApi().model_info(hub_id, timeout=_HUB_TIMEOUT_SECONDS)
        files = choose_files(sibling.rfilename for sibling in information.siblings or [])
        if before_download is not None:
            before_download()
        folder = Path(
            snapshot_download(
                hub_id,
                revision="main",
                allow_patterns=files,
                etag_timeout=_HUB_TIMEOUT_SECONDS,
                max_workers=4,
            )
        )
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{hub_id} is only given to those who accepted its terms. Do so on its page, then say: hf auth login."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"The hub has no model {hub_id!r}, or it is private. Check the spelling; known short names are "
            f"{_names()}."
        ) from error
    except ModelError:
        raise
    except Exception as error:  # the transport's errors, a full disk, a broken proxy
        raise ModelNotFoundError(
            f"{hub_id} is not on this disk and could not be fetched ({_reason(error)}). Check the network, or take a "
            f"model that is here, such as {FALLBACK_ALIAS}."
        ) from error
    return LocatedModel(hub_id, folder, folder.name)


def _no_weights(names: list[str]) -> str:
    pickles = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if pickles:
        return (
            f"The weights are there only as {', '.join(pickles)}: a pickle, which may run any code when it is "
            "opened, so it is not. Convert it where you trust it: load it with Transformers and PyTorch, then "
            "save_pretrained(folder)."
        )
    return (
        f"There are no weights that are read here ({', '.join(_SINGLE_WEIGHTS)} or {_INDEX} with its shards)."
    )


def _package_version() -> str | None:
    try:
        return importlib.metadata.version("imago-search")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return None


def _names() -> str:
    return ", ".join(ALIASES)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()  # the rest of a longer message is advice for developers
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}" if lines else type(error).__name__


def _first_sentence(text: str) -> str:
    return text.split(". ", maxsplit=1)[0].rstrip(".")

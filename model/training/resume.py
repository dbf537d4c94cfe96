"""Whether a folder holds the very run that is to go on: what decides a run's numbers is written at its start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from model.identity import fingerprint_of_file, fingerprint_of_settings
from model.training.errors import ResumeError
from model.training.setup import RUN_NAME
from model.whole_file import put_in_place

if TYPE_CHECKING:
    from pathlib import Path

    from model.training.setup import Prepared

# Settings that may differ when a run goes on: they change no number that it computes.
_HARMLESS = (
    "settings.workers",
    "settings.card",
    "settings.report",
    "settings.schedule.log_every",
    "settings.schedule.checkpoint_every",
    "settings.model.finished_image_size",
)


def steps_of_earlier_run(work: Path, prepared: Prepared) -> int | None:
    """How many steps the run was given that an earlier process began; None if there was none.

    Args:
        work: the run's own folder.
        prepared: what is to go on.

    Raises:
        ResumeError: it was another run, or what was written of it is damaged.
    """
    path = work / RUN_NAME
    if not path.is_file():
        return None
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResumeError(f"{path} is damaged ({error}): restart, or choose another folder") from error
    before, now = _flatten(known), _flatten(json.loads(json.dumps(_facts(prepared))))
    before.pop("steps", None)
    different = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(_HARMLESS)
    ]
    if different:
        raise ResumeError(
            f"{work.parent} holds a run with other settings: {'; '.join(different)}. Choose another folder, go "
            "back to those settings, or restart, which throws the earlier run away"
        )
    steps: int = known["steps"]
    return steps


def write_run(work: Path, prepared: Prepared, steps: int) -> None:
    """Write what `steps_of_earlier_run` compares and gives back, whole or not at all."""
    path = work / RUN_NAME
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(_facts(prepared) | {"steps": steps}, indent=2) + "\n", encoding="utf-8")
    put_in_place(unfinished, path)


def _facts(prepared: Prepared) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    weights = prepared.start.description.weight_files
    return {
        "settings": prepared.config.to_dict(),
        "start": fingerprint_of_settings({file.name: fingerprint_of_file(file) for file in weights}),
        "examples": [len(source.entries) for source in prepared.data.training],
        "text_length": prepared.tokenizer.length,
    }


def _flatten(values: Any, name: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one dictionary of dotted names."""
    if isinstance(values, dict):
        items = list(values.items())
    elif isinstance(values, list):
        items = list(enumerate(values))
    else:
        return {name: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flatten(value, f"{name}.{key}" if name else str(key))
    return flat

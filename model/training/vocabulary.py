"""Words: which mean the same, which are broader, what their plurals are.

A vocabulary is a TOML file of three tables:

    [synonyms]   car = ["automobile", "motorcar"]
    [kinds]      dog = ["chihuahua", "poodle"]   # what there is of a thing; then also of an animal, if it lists dog
    [plurals]    mouse = "mice"                  # only what the rules would get wrong

All words are lower case. What a word means depends on where it stands: the tables hold the everyday sense of things
that can be seen in pictures.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERYDAY_NAME = "everyday"
_EVERYDAY_FILE = Path(__file__).parent / "everyday.toml"

_LONGEST_TERM_WORDS = 3


@dataclass(frozen=True)
class Vocabulary:
    """Relations between names, all lower case.

    Attributes:
        synonyms: a name to others for the same thing; works both ways.
        broader: a name to what it is a kind of.
        plurals: irregular ones.
    """

    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broader: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plurals: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> Vocabulary:
        """Read a vocabulary: "everyday" for the one in the package, "" for none, else the path of a TOML file.

        Raises:
            ConfigurationError: the file is missing, no TOML, or not of the form that the module's docstring shows.
        """
        if not name:
            return cls()
        path = _EVERYDAY_FILE if name == EVERYDAY_NAME else Path(name)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigurationError(f"text.vocabulary: there is no file {path}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigurationError(f"text.vocabulary: {path} cannot be read as TOML: {error}") from error
        unknown = sorted(set(content) - {"synonyms", "kinds", "plurals"})
        if unknown:
            raise ConfigurationError(
                f"text.vocabulary: {path} has unknown tables {', '.join(unknown)} (known: synonyms, kinds, plurals)"
            )
        for key, table in content.items():
            if not isinstance(table, dict):
                raise ConfigurationError(f"text.vocabulary: {path}: {key} = {table!r} must be a table")
        broader: dict[str, tuple[str, ...]] = {}
        for parent, kinds in _lists(content.get("kinds", {}), path).items():
            for kind in kinds:
                broader[kind] = (*broader.get(kind, ()), parent)
        return cls(
            synonyms=_lists(content.get("synonyms", {}), path),
            broader=broader,
            plurals={key.lower(): str(value).lower() for key, value in content.get("plurals", {}).items()},
        )

    def names(self, *given: str) -> tuple[str, ...]:
        """The names given and all their synonyms, lower case, each once, the given ones first."""
        found = dict.fromkeys(normalise(name) for name in given)
        for name in tuple(found):
            found.update(dict.fromkeys(self._same.get(name, ())))
        return tuple(found)

    def broader_names(self, *given: str) -> tuple[str, ...]:
        """What things of these names are kinds of, nearest first, with synonyms; none of the names themselves."""
        own = self.names(*given)
        found: dict[str, None] = {}
        level = own
        while level:
            above = [parent for name in level for parent in self.broader.get(name, ())]
            level = tuple(name for name in self.names(*above) if name not in found and name not in own)
            found.update(dict.fromkeys(level))
        return tuple(found)

    def plural(self, name: str) -> str:
        """The plural of a name, by the table or by the rules of English spelling; of several words the last changes."""
        if name in self.plurals:
            return self.plurals[name]
        head, space, last = name.rpartition(" ")
        if last in self.plurals:
            return f"{head}{space}{self.plurals[last]}"
        if last.endswith("y") and len(last) > 1 and last[-2] not in "aeiou":
            last = f"{last[:-1]}ies"
        elif last.endswith(("s", "x", "z", "ch", "sh")):
            last = f"{last}es"
        else:
            last = f"{last}s"
        return f"{head}{space}{last}"

    def known_terms(self, text: str) -> tuple[str, ...]:
        """The names of this vocabulary that a text holds, singular, in the order of the text; longer ones go first.

        "Two dogs chase a tennis ball." holds dog and tennis ball, and of the latter not also ball.
        """
        words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
        found: dict[str, None] = {}
        start = 0
        while start < len(words):
            for length in range(min(_LONGEST_TERM_WORDS, len(words) - start), 0, -1):
                term = self._singular.get(" ".join(words[start : start + length]))
                if term is not None:
                    found[term] = None
                    start += length
                    break
            else:
                start += 1
        return tuple(found)

    @cached_property
    def _same(self) -> dict[str, tuple[str, ...]]:
        groups: dict[str, dict[str, None]] = {}
        for name, others in self.synonyms.items():
            group: dict[str, None] = {}
            for member in (name, *others):
                group.update(groups.get(member, {}))
                group[member] = None
            for member in group:
                groups[member] = group
        return {name: tuple(member for member in group if member != name) for name, group in groups.items()}

    @cached_property
    def _singular(self) -> dict[str, str]:
        every = {*self._same, *self.broader, *(name for above in self.broader.values() for name in above)}
        return {self.plural(name): name for name in sorted(every)} | {name: name for name in every}


def normalise(name: str) -> str:
    """A label as a word is written in a text: lower case, single spaces, no underscores."""
    return " ".join(name.replace("_", " ").lower().split())


def _lists(table: Any, path: Path) -> dict[str, tuple[str, ...]]:
    lists: dict[str, tuple[str, ...]] = {}
    for key, value in table.items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise ConfigurationError(f"text.vocabulary: {path}: {key} = {value!r} must be a list of words")
        lists[normalise(key)] = tuple(normalise(item) for item in values)
    return lists

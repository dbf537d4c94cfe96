"""A published collection on its server: its columns, its index, and the page that says what it is.

Beside the collection NAME lies a small one, NAME_imago: texts by key. `manifest` says whose vectors the rows hold
and how far the publication is, `lease` who writes now, `block/N` what the ids from N on were when they were last
written. It is a collection of its own because Milvus keeps texts nowhere else that all its editions have.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

from indexer.cluster.errors import CollectionForeignError, CollectionNotFoundError
from indexer.cluster.rows import COLUMNS, LONGEST_TEXT, SCHEMA_VERSION
from model.identity import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from indexer.cluster.connection import MilvusConnection

METRIC: Final = "IP"
"""The rows hold the very numbers that the library holds (halves, of unit norm within a thousandth), so that scores
are the same here and there; COSINE would normalise them again."""
MOST_HITS: Final = 16_384
"""The largest answer that Milvus gives to one search."""
INDEX_KINDS: Final = ("hnsw", "ivf_sq8", "flat")
_HNSW: Final = {"M": 32, "efConstruction": 200}
_LEAST_EF: Final = 256
_IVF_SHARE: Final = 8  # one list of eight is looked through
_PAGE_VECTOR: Final = [1.0, 0.0]  # every collection must have a vector; this one means nothing


@dataclass(frozen=True)
class Manifest:
    """What a collection is.

    Attributes:
        schema: Version of the columns.
        publication: The number in the column of the same name.
        library_id: The library that it is published from; "" for a job that wrote into it directly.
        library: Where that library was, for people.
        identity: The model's, as `ModelIdentity.to_dict` says.
        index: One of `INDEX_KINDS`.
        state: `publishing` or `complete`.
        images: Rows when it was last complete.
        created_at: When the collection was made, ISO 8601 in UTC.
        changed_at: When this page was written last.
        completed_at: When a publication last came to its end; None if none ever did.
        library_created_at, last_run_at: Of the library.
        files, failed, skipped, offline_images: Counts of the library.
        roots: (path, is there, files, last scanned at) of the library's folders.
        copies_left_out: Files that found no room in the row of their image.
    """

    schema: int
    publication: int
    library_id: str
    library: str
    identity: dict[str, Any]
    index: str
    state: str
    images: int
    created_at: str
    changed_at: str
    completed_at: str | None = None
    library_created_at: str | None = None
    last_run_at: str | None = None
    files: int = 0
    failed: int = 0
    skipped: int = 0
    offline_images: int = 0
    roots: list[list[Any]] = field(default_factory=list)
    copies_left_out: int = 0

    @property
    def model(self) -> ModelIdentity:
        """Whose vectors the rows hold."""
        return ModelIdentity.from_dict(self.identity)

    def to_text(self) -> str:
        """As JSON; folders that do not fit any more are left out."""
        roots = self.roots
        while True:
            text = json.dumps(asdict(replace(self, roots=roots)))
            if len(text) <= LONGEST_TEXT or not roots:
                return text
            roots = roots[: len(roots) // 2]

    @classmethod
    def from_text(cls, text: str) -> Manifest | None:
        """From JSON; None where it is no manifest of this version."""
        try:
            found = json.loads(text)
            known = {each.name for each in fields(cls)}
            return cls(**{name: value for name, value in found.items() if name in known})
        except (ValueError, TypeError, AttributeError):
            return None


class PublishedCollection:
    """One collection and its page, through a connection."""

    def __init__(self, connection: MilvusConnection) -> None:
        self.connection = connection
        self.name = connection.address.collection
        self._pages = f"{self.name}_imago"

    # the page

    def pages(self, keys: Iterable[str]) -> dict[str, str]:
        """Texts by their keys, as of now; those that are not there are left out.

        Raises:
            CollectionNotFoundError: There is no page at all.
        """
        listed = ", ".join(f'"{key}"' for key in keys)
        found = self.connection.call(
            "query",
            self._pages,
            filter=f"key in [{listed}]",
            output_fields=["key", "value"],
            consistency_level="Strong",
        )
        return {row["key"]: row["value"] for row in found}

    def blocks(self) -> dict[int, str]:
        """The state of every block of ids, by its first id."""
        found: dict[int, str] = {}
        for page in self.connection.all_rows(self._pages, 'key like "block/%"', ["key", "value"]):
            found.update((int(row["key"].removeprefix("block/")), row["value"]) for row in page)
        return found

    def write_page(self, key: str, value: str) -> None:
        """Writes one text."""
        row = {"key": key, "value": value, "unused": _PAGE_VECTOR}
        self.connection.call("upsert", self._pages, [row])

    def remove_page(self, key: str) -> None:
        """Deletes one text."""
        self.connection.call("delete", self._pages, filter=f'key in ["{key}"]')

    def manifest(self) -> Manifest:
        """What the collection is.

        Raises:
            CollectionNotFoundError: There is none.
            CollectionForeignError: It was not made by `imago publish`, or by another version of it.
        """
        connection = self.connection
        try:
            text = self.pages(["manifest"]).get("manifest")
        except CollectionNotFoundError:
            if connection.has(self.name):
                raise self._foreign("it was not made by `imago publish`") from None
            raise
        manifest = None if text is None else Manifest.from_text(text)
        if manifest is None:
            raise self._foreign(f"its page {self._pages} says nothing that can be read")
        if manifest.schema != SCHEMA_VERSION:
            raise self._foreign(
                f"it has schema {manifest.schema}, made by another version of Imago; this one knows {SCHEMA_VERSION}"
            )
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        """Says what the collection is from now on."""
        self.write_page("manifest", manifest.to_text())

    # the collection

    def check_columns(self, dimension: int) -> None:
        """Looks whether the rows are what this version writes and reads.

        Raises:
            CollectionNotFoundError: There is no collection.
            CollectionForeignError: It has other columns.
        """
        described = self.connection.call("describe_collection", self.name)
        found = {
            part["name"]: getattr(part["type"], "name", str(part["type"])) for part in described["fields"]
        }
        wrong = [f"{name} is missing" for name in COLUMNS if name not in found]
        wrong += [
            f"{name} is {found[name]}, not {kind}"
            for name, kind in COLUMNS.items()
            if name in found and found[name] != kind
        ]
        for part in described["fields"]:
            if part["name"] == "vector" and int(part["params"].get("dim", 0)) != dimension:
                wrong.append(f"its vectors have {part['params'].get('dim')} numbers, not {dimension}")
        if wrong:
            raise self._foreign("; ".join(wrong))

    def create_pages(self) -> None:
        """Makes the small collection where it is missing."""
        if self.connection.has(self._pages):
            return
        client, types = _client_and_types()
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", types.VARCHAR, is_primary=True, max_length=128)
        schema.add_field("value", types.VARCHAR, max_length=LONGEST_TEXT)
        schema.add_field("unused", types.FLOAT_VECTOR, dim=len(_PAGE_VECTOR))
        index = client.prepare_index_params()
        index.add_index("unused", index_type="FLAT", metric_type="L2")
        self.connection.call(
            "create_collection", self._pages, schema=schema, index_params=index, consistency_level="Strong"
        )

    def create_rows(self, dimension: int, kind: str, expected_rows: int, shards: int, replicas: int) -> None:
        """Makes the collection where it is missing, with its index.

        Args:
            dimension: Length of a vector.
            kind: One of `INDEX_KINDS`.
            expected_rows: For the number of IVF's lists.
            shards: Parts that the server may write at once.
            replicas: Copies that it may search.
        """
        if not self.connection.has(self.name):
            client, types = _client_and_types()
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            for name, column in COLUMNS.items():
                options: dict[str, Any] = {}
                if name == "id":
                    options["is_primary"] = True
                elif column == "VARCHAR":
                    options["max_length"] = LONGEST_TEXT
                elif column == "FLOAT_VECTOR":
                    options["dim"] = dimension
                schema.add_field(name, getattr(types, column), **options)
            self.connection.call(
                "create_collection",
                self.name,
                schema=schema,
                num_shards=shards,
                consistency_level=self.connection.address.consistency,
            )
        self.check_columns(dimension)
        self.set_index(kind, expected_rows, replicas)

    def set_index(self, kind: str, expected_rows: int, replicas: int = 1) -> None:
        """Gives the rows an index of a kind, in place of one of another, and has the server load it."""
        connection = self.connection
        index_type, parameters = _index(kind, expected_rows)
        existing = connection.call("list_indexes", self.name)
        for name in existing:
            found = connection.call("describe_index", self.name, name) or {}
            if found.get("index_type") == index_type and found.get("state", "Finished") != "Failed":
                connection.call("load_collection", self.name, replica_number=replicas)
                return
            # One that could not be made stays half registered until it is dropped; both need the release first.
            connection.call("release_collection", self.name)
            connection.call("drop_index", self.name, name)
        client, _ = _client_and_types()
        index = client.prepare_index_params()
        index.add_index(
            "vector", index_type=index_type, index_name="vector", metric_type=METRIC, params=parameters
        )
        connection.call("create_index", self.name, index)
        connection.call("load_collection", self.name, replica_number=replicas)

    def _foreign(self, why: str) -> CollectionForeignError:
        address = self.connection.address
        return CollectionForeignError(
            f"The collection {address.collection} on the server {address.server} cannot be used: {why}. It was left"
            f" as it is; name another collection."
        )


def search_parameters(kind: str, rows: int, limit: int) -> dict[str, Any]:
    """What a search says to the index, so that at least 98 of 100 neighbours of a text are the true ones.

    Args:
        kind: One of `INDEX_KINDS`.
        rows: In the collection.
        limit: Rows that the search asks for.
    """
    if kind == "hnsw":
        return {"ef": min(32_768, max(_LEAST_EF, 2 * limit))}
    if kind == "ivf_sq8":
        return {"nprobe": max(16, _lists(rows) // _IVF_SHARE)}
    return {}


def _index(kind: str, rows: int) -> tuple[str, Mapping[str, Any]]:
    if kind == "hnsw":
        return "HNSW", _HNSW
    if kind == "ivf_sq8":
        return "IVF_SQ8", {"nlist": _lists(rows)}
    return "FLAT", {}


def _lists(rows: int) -> int:
    """Four times the root, as Milvus's own guide says; no more than one for 39 rows, which k-means wants."""
    return max(1, min(65_536, int(4 * math.sqrt(rows)), rows // 39))


def _client_and_types() -> tuple[Any, Any]:
    from pymilvus import DataType, MilvusClient

    return MilvusClient, DataType

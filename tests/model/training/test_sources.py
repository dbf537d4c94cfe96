"""Opening every kind of source, and what is said about those that cannot be opened."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from model.training.batches import read
from model.training.config import DataConfig
from model.training.errors import TrainingDataError
from model.training.sources import IMAGE_SUFFIXES, Source, held_out, open_source, read_images


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def opened(path: Path, **settings: Any) -> Source:
    return open_source(DataConfig(path=path, **settings))


def contents(source: Source) -> list[bytes]:
    return [read(content) for content in read_images(source.entries)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def test_captions_of_the_same_image_are_put_together(pictures: Path) -> None:
    (pictures / "captions.tsv").write_text(
        'file\tcaption\tsplit\n0.png\tA "red" thing\ttrain\n1.png\tother\ttest\n0.png\tagain\ttrain\n2.png\t \ttrain\n',
        encoding="utf-8",
    )
    source = opened(pictures, split="train")
    assert [entry.captions for entry in source.entries] == [('A "red" thing', "again")]
    assert source.without_text == 1
    assert source.has_captions
    assert contents(source) == [png(0)]


def test_json_lines_may_hold_lists_and_names(pictures: Path) -> None:
    lines = [
        {"image": "0.png", "captions": ["one", "two"]},
        {"image": "1.png", "names": ["Red_Car", "car"]},
    ]
    file = pictures / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    source = opened(file)
    assert [(entry.names, entry.captions) for entry in source.entries] == [
        ((), ("one", "two")),
        (("red car", "car"), ()),
    ]


def test_coco_joins_annotations_with_images(pictures: Path) -> None:
    file = pictures / "captions.json"
    content = {
        "images": [{"id": 7, "file_name": "1.png"}, {"id": 8, "file_name": "2.png"}],
        "annotations": [{"image_id": 7, "caption": "a"}, {"image_id": 7, "caption": "b"}],
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    source = opened(file, images=pictures)
    assert [entry.captions for entry in source.entries] == [("a", "b")]
    assert source.without_text == 1
    assert contents(source) == [png(1)]


def test_class_folders_are_named_for_what_they_show(tmp_path: Path) -> None:
    for folder, number in (("golden_retriever, Dog", 0), ("car side", 1), (".hidden", 2)):
        (tmp_path / folder / "deeper").mkdir(parents=True)
        (tmp_path / folder / "deeper" / "x.PNG").write_bytes(png(number))
        (tmp_path / folder / "notes.txt").write_text("no image", encoding="utf-8")
    source = opened(tmp_path, rename={"Car_side": ("car",)})
    assert [entry.names for entry in source.entries] == [("car",), ("golden retriever", "dog")]
    assert contents(source) == [png(1), png(0)]


def test_coco_takes_one_split_where_its_images_say_which(pictures: Path) -> None:
    file = pictures / "captions.json"
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "split": split}
            for number, split in enumerate(["train", "test"])
        ],
        "annotations": [{"image_id": number, "caption": str(number)} for number in range(2)],
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    assert [entry.captions for entry in opened(file, split="test").entries] == [("1",)]
    for image in content["images"]:
        del image["split"]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TrainingDataError, match=r"has no 'split' \(split_column\); there are id, file_name"):
        opened(file, split="test")


def test_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    for split in ("test", "train", "val"):
        (tmp_path / split / "rose").mkdir(parents=True)
        (tmp_path / split / "rose" / "0.png").write_bytes(png(0))
    with pytest.raises(TrainingDataError, match=r"holds splits \(test, train, val\), not classes.*train$"):
        opened(tmp_path)
    assert [entry.names for entry in opened(tmp_path, split="train").entries] == [("rose",)]
    with pytest.raises(TrainingDataError, match="no folder for the split 'dev'; there are test, train, val"):
        opened(tmp_path, split="dev")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(0))
    assert [entry.names for entry in opened(tmp_path).entries] == [("test",), ("train",)]


def test_class_folders_hold_whatever_can_be_indexed() -> None:
    from indexer import formats

    assert formats.IMAGE_SUFFIXES == IMAGE_SUFFIXES


def test_parquet_is_read_by_row_groups(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    rows = [
        {"image": png(n), "names": [f"n{n}", "x"] if n != 4 else [], "split": "test" if n == 2 else "train"}
        for n in range(7)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=3)
    source = opened(file, split="train")
    assert [entry.names[0] for entry in source.entries] == ["n0", "n1", "n3", "n5", "n6"]
    assert source.blocks == ((0, 2), (2, 4), (4, 5))
    assert source.without_text == 1
    assert contents(source) == [png(number) for number in (0, 1, 3, 5, 6)]


def test_parquet_of_the_datasets_library_holds_structs(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    parquet.write_table(
        pa.Table.from_pylist([{"image": {"bytes": png(1), "path": None}, "caption": "one"}]), file
    )
    assert contents(opened(tmp_path)) == [png(1)]


def test_numbers_of_the_datasets_library_become_its_class_names(tmp_path: Path) -> None:
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["red rose", "tulip"], "_type": "ClassLabel"},
        "labels": {"feature": {"names": ["flower", "plant"], "_type": "ClassLabel"}, "_type": "List"},
    }
    note = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    one = pa.table({"image": [png(0)] * 3, "label": [1, 0, -1]}).replace_schema_metadata(note)
    parquet.write_table(one, tmp_path / "one.parquet")
    source = opened(tmp_path / "one.parquet")
    assert [entry.names for entry in source.entries] == [("tulip",), ("red rose",)]
    assert source.without_text == 1
    several = pa.table({"image": [png(0)], "labels": [[1, 0]]}).replace_schema_metadata(note)
    parquet.write_table(several, tmp_path / "several.parquet")
    assert opened(tmp_path / "several.parquet").entries[0].names == ("plant", "flower")


def test_numbers_that_nobody_explains_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [png(0), png(1)], "label": [7, 8]}), tmp_path / "a.parquet")
    with pytest.raises(TrainingDataError, match=r"by numbers \(7, 8\).*rename"):
        opened(tmp_path)
    named = opened(tmp_path, rename={"7": ("rose",), "8": ("tulip", "flower")})
    assert [entry.names for entry in named.entries] == [("rose",), ("tulip", "flower")]


def test_brackets_in_the_name_of_what_is_there_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "plants [2019]"
    (folder / "rose").mkdir(parents=True)
    (folder / "rose" / "0.png").write_bytes(png(0))
    assert opened(folder).entries[0].names == ("rose",)


def test_webdataset_reads_words_and_leaves_images_where_they_are(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            members = {
                "a/1.png": png(10 * shard + 1),
                "a/1.txt": b"a caption",
                "2.png": png(10 * shard + 2),
                "2.json": b'{"names": ["dog"], "split": "train"}',
                "3.png": png(3),
            }
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    source = opened(tmp_path / "*.tar")
    assert [(entry.names, entry.captions) for entry in source.entries] == [
        ((), ("a caption",)),
        (("dog",), ()),
    ] * 2
    assert source.without_text == 2
    assert contents(source) == [png(1), png(2), png(11), png(12)]
    assert len(opened(tmp_path, split="train").entries) == 2


def test_what_is_left_without_a_name_is_counted(tmp_path: Path) -> None:
    for number, folder in enumerate((",", "_", "cat", "dog")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(png(number))
    source = opened(tmp_path, rename={"dog": ()})
    assert [entry.names for entry in source.entries] == [("cat",)]
    assert source.without_text == 3
    assert source.blocks == ((0, 1),)
    assert contents(source) == [png(2)]


def test_captions_may_be_null(pictures: Path) -> None:
    lines = [
        {"image": "0.png", "caption": {"raw": None}},
        {"image": "1.png", "captions": [{"raw": "one"}, None]},
    ]
    file = pictures / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    source = opened(file)
    assert [entry.captions for entry in source.entries] == [("one",)]
    assert source.without_text == 1


def test_limit_chooses_evenly(class_folders: Path) -> None:
    source = opened(class_folders, limit=4)
    assert [entry.names for entry in source.entries] == [("blue",), ("green",), ("red",), ("yellow",)]
    assert source.blocks == ((0, 4),)


def test_every_class_holds_out_its_share(class_folders: Path) -> None:
    source = opened(class_folders)
    chosen = held_out(source, 0.2)
    names = [entry.names[0] for entry, away in zip(source.entries, chosen, strict=True) if away]
    assert names == ["blue"] * 2 + ["green"] * 2 + ["red"] * 2 + ["yellow"] * 2
    assert not held_out(source, 0).any()
    rest = source.keep(~chosen)
    assert len(rest.entries) == 32
    np.testing.assert_array_equal(chosen, held_out(opened(class_folders), 0.2))


def test_small_classes_hold_out_one_and_the_smallest_none(tmp_path: Path) -> None:
    for name, count in (("rose", 60), ("tulip", 10), ("lily", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").write_bytes(png(0))
    source = opened(tmp_path)
    chosen = held_out(source, 0.05)
    away = [entry.names[0] for entry, is_away in zip(source.entries, chosen, strict=True) if is_away]
    assert away == ["rose"] * 3 + ["tulip"]


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({}, {}, "cannot tell what kind of data"),
        ({"a.txt": b""}, {"path": "a.txt"}, "cannot tell what kind of data"),
        ({}, {"path": "none.tsv"}, "there is no file or folder"),
        ({"c.tsv": b"file\tcaption\n"}, {}, "it is empty"),
        ({"c.tsv": b"file\tcaption\nx.png\t\n"}, {}, "all 1 rows lack a text"),
        ({"c.tsv": b"file\tcaption\nx.png\tword\n"}, {}, "has none of them: say with `images`"),
        ({"c.tsv": b"a\tb\n1\t2\n"}, {}, "line 2: names no image"),
        ({"c.tsv": b"", "d.tsv": b""}, {}, "should hold one captions file"),
        ({"c.jsonl": b"{"}, {}, "no JSON lines file"),
        ({"c.jsonl": b"[1]"}, {}, "expected a JSON object"),
        ({"c.json": b"{}"}, {"path": "c.json"}, "not a COCO captions file"),
        ({"c.parquet": b"nonsense"}, {}, "cannot be read as Parquet"),
        ({"c.tar": b"nonsense"}, {}, "cannot be read as a plain tar"),
        ({"c.tsv": b"file\tcaption\tsplit\nx.png\tword\ttest\n"}, {"split": "train"}, "with split 'train'"),
        ({"c.tsv": b"file\tcaption\nx.png\tword\n"}, {"split": "train"}, "no 'split' (split_column)"),
        (
            {"c.tsv": b"file\tcaption\nx.png\tword\n"},
            {"text_column": "words"},
            "no 'words' (text_column); there are file, caption",
        ),
        (
            {
                "c.json": b'{"images": [{"id": 1, "file_name": "no.png"}], '
                b'"annotations": [{"image_id": 1, "caption": "a"}]}'
            },
            {"path": "c.json"},
            "has none of them: say with `images`",
        ),
        ({"c.parquet": b""}, {"images": Path("there")}, "which has its images within"),
    ],
)
def test_what_cannot_be_opened_says_why(
    tmp_path: Path, files: dict[str, bytes], settings: dict[str, Any], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / settings.get("path", "")
    with pytest.raises(TrainingDataError) as caught:
        opened(path, **{key: value for key, value in settings.items() if key != "path"})
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_parquet_without_the_columns_lists_those_that_are_there(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"picture": [b"1"], "words": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(TrainingDataError, match="there are picture, words"):
        opened(tmp_path)
    assert opened(tmp_path, image_column="picture", text_column="words").entries[0].captions == ("a",)


def test_a_row_without_bytes_is_a_broken_image_not_an_end(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"image": None, "names": ["a"]}, {"image": png(1), "names": ["b"]}])
    parquet.write_table(table, tmp_path / "a.parquet")
    missing, there = read_images(opened(tmp_path).entries)
    assert isinstance(missing, OSError)
    assert there == png(1)

"""Which example stands where, and batches that are the same however often they are made."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import ConfigurationError
from model.preprocess import ImagePreprocessor
from model.tokenizer import TokenBatch
from model.training.batches import Batch, BatchMaker, LengthCounter
from model.training.config import AugmentationConfig, DataConfig, TextConfig
from model.training.errors import TrainingDataError
from model.training.mixture import ShuffledSource, shares
from model.training.sources import Entry, FilePlace, Source, open_source
from model.training.texts import TextMaker
from model.training.vocabulary import Vocabulary

PREPROCESSOR = ImagePreprocessor.from_config(
    {
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
)


class Words:
    """Stands in for a tokenizer: one token a word, its length."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def ids(self, texts: list[str]) -> list[list[int]]:
        return [[len(word) for word in text.split()][: self.max_length] for text in texts]

    def pad(self, ids: list[list[int]], *, length: int) -> TokenBatch:
        rows = np.zeros((len(ids), length), np.int32)
        for row, values in enumerate(ids):
            rows[row, : len(values)] = values
        return TokenBatch(rows, (rows > 0).astype(np.int32))


def tokenizer(length: int) -> LengthCounter:
    return LengthCounter(Words(length), Words(length + 1), length=length)  # type: ignore[arg-type]


def maker(
    *sources: Source,
    weights: list[float] | None = None,
    length: int = 8,
    groups: list[int | None] | None = None,
    crop_areas: list[tuple[float, float] | None] | None = None,
    **augmentation: object,
) -> BatchMaker:
    return BatchMaker(
        sources,
        weights or [1.0] * len(sources),
        groups=groups or [None] * len(sources),
        batch_size=8,
        seed=3,
        preprocessor=PREPROCESSOR,
        augmentation=AugmentationConfig(**augmentation),  # type: ignore[arg-type]
        crop_areas=crop_areas or [None] * len(sources),
        texts=TextMaker(TextConfig(), Vocabulary()),
        tokenizer=tokenizer(length),
        workers=2,
        window_examples=10,
        window_bytes=1 << 20,
    )


def same(one: Batch, other: Batch) -> bool:
    pairs = [
        (one.pixels, other.pixels),
        (one.input_ids, other.input_ids),
        (one.attention_mask, other.attention_mask),
    ]
    pairs += list(zip(vars(one.relations).values(), vars(other.relations).values(), strict=True))
    return all(np.array_equal(left, right) for left, right in pairs)


def listed(count: int, block: int) -> Source:
    entries = tuple(Entry((str(number),), (), FilePlace(Path(str(number))), "") for number in range(count))
    blocks = tuple((start, min(start + block, count)) for start in range(0, count, block))
    return Source("listed", entries, blocks, tuple(10 for _ in blocks), 0)


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 1], [0.7, 0.2, 0.1], [1000, 1]])
def test_shares_fill_every_batch_and_keep_to_the_weights(weights: list[float]) -> None:
    counts = shares(weights, 16, 2000)
    assert (counts.sum(axis=1) == 16).all()
    assert counts.min() >= 0
    ideal = 16 * np.array(weights) / sum(weights)
    assert np.abs(counts - ideal).max() < 1
    np.testing.assert_allclose(counts.mean(axis=0), ideal, atol=2e-3)


def test_groups_come_whole_and_keep_to_the_weights() -> None:
    weights = [0.6, 0.1, 0.25, 0.05]
    counts = shares(weights, 16, 4000, [None, 8, None, 4])
    assert (counts.sum(axis=1) == 16).all()
    assert counts.min() >= 0
    assert set(counts[:, 1]) == {0, 8}
    assert set(counts[:, 3]) == {0, 4}
    np.testing.assert_allclose(counts.mean(axis=0), 16 * np.array(weights), rtol=0.01)
    # What the groups leave is shared out by weight, in every single step.
    left = 16 - counts[:, [1, 3]].sum(axis=1)
    assert np.abs(counts[:, 0] - left * 0.6 / 0.85).max() < 1
    # A step's row does not depend on how many are asked for: a run goes on anywhere.
    np.testing.assert_array_equal(shares(weights, 16, 100, [None, 8, None, 4]), counts[:100])


def test_groups_that_do_not_fit_into_a_batch_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="24 examples may come together in one batch, which has 16"):
        shares([0.3, 0.6, 0.1], 16, 10, [None, 8, 8])
    with pytest.raises(ConfigurationError, match="12 examples may come together in one batch, which has 8"):
        maker(listed(30, 10), listed(60, 10), weights=[10, 60], groups=[None, 6])


@pytest.mark.parametrize(("window", "size_bytes"), [(1, 10**6), (7, 10**6), (7, 15), (1000, 10**6)])
def test_each_epoch_shows_every_example_once_in_an_order_of_its_own(window: int, size_bytes: int) -> None:
    source = listed(23, 4)
    shuffled = ShuffledSource(source, (1,), window_examples=window, window_bytes=size_bytes)
    epochs = [[entry.names[0] for entry, _ in shuffled.take(23 * epoch, 23)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch, key=int) == [str(number) for number in range(23)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    fresh = ShuffledSource(source, (1,), window_examples=window, window_bytes=size_bytes)
    assert [entry.names[0] for entry, _ in fresh.take(30, 20)] == [*epochs[1], *epochs[2]][7:27]


def test_a_source_that_fits_into_a_window_is_shuffled_as_a_whole() -> None:
    shuffled = ShuffledSource(listed(100, 10), (1,), window_examples=1000, window_bytes=10**6)
    blocks = [int(entry.names[0]) // 10 for entry, _ in shuffled.take(0, 10)]
    assert len(set(blocks)) > 4


def test_a_batch_is_the_same_made_alone_or_after_others_and_differs_from_the_next(
    class_folders: Path,
) -> None:
    source = open_source(DataConfig(path=class_folders))
    with closing(maker(source, compose=0.5)) as first, closing(maker(source, compose=0.5)) as second:
        alone = second.make(7)
        with closing(first.from_step(5, 9)) as stream:
            made = list(stream)
    assert same(made[2], alone)
    assert not same(made[1], alone)
    assert alone.pixels.shape == (8, 16, 16, 3)
    assert alone.pixels.dtype == np.uint8


def test_a_mixture_draws_from_all_its_sources(class_folders: Path, flags: Path) -> None:
    sources = [open_source(DataConfig(path=path)) for path in (class_folders, flags)]
    with closing(maker(*sources, weights=[3.0, 1.0])) as batches:
        lengths = Counter(
            int(count) for step in range(4) for count in batches.make(step).attention_mask.sum(axis=1)
        )
    assert lengths[8] == 8  # a quarter of 32: the captions are cut at eight words


def test_a_group_comes_in_one_batch(class_folders: Path, flags: Path) -> None:
    sources = [open_source(DataConfig(path=path)) for path in (class_folders, flags)]
    with closing(maker(*sources, weights=[3.0, 1.0], groups=[None, 4])) as batches:
        captions = [int((batches.make(step).attention_mask.sum(axis=1) == 8).sum()) for step in range(4)]
    assert sorted(captions) == [0, 0, 4, 4]


def test_a_source_is_cropped_as_closely_as_it_asks_for(flags: Path) -> None:
    source = open_source(DataConfig(path=flags))
    plain: Any = {"crop_area": (1.0, 1.0), "crop_aspect": 1.0, "flip": 0, "brightness": 0, "contrast": 0}

    def differences(*crop_areas: tuple[float, float] | None) -> list[bool]:
        """Which images of a batch, half from each of two sources, show two colours, one above the other."""
        with closing(maker(source, source, crop_areas=list(crop_areas), saturation=0, **plain)) as batches:
            pixels = batches.make(0).pixels.astype(int)
        return [bool(np.abs(image[:4].mean((0, 1)) - image[-4:].mean((0, 1))).max() > 50) for image in pixels]

    assert differences(None, None) == [True] * 8
    closely = differences(None, (0.01, 0.01))
    assert closely[:4] == [True] * 4
    assert not all(closely[4:])


def test_an_image_s_text_fits_it(class_folders: Path) -> None:
    with closing(maker(open_source(DataConfig(path=class_folders)))) as batches:
        relations = batches.make(0).relations
    assert all(term in terms for term, terms in zip(relations.text_term, relations.image_terms, strict=True))


def test_texts_that_are_cut_are_counted(flags: Path) -> None:
    source = open_source(DataConfig(path=flags))
    with closing(maker(source, length=8)) as exact, closing(maker(source, length=7)) as short:
        assert exact.make(0).cut_texts == 0
        assert short.make(0).cut_texts == 8


def test_broken_images_are_replaced_and_told(
    class_folders: Path, tmp_path: Path, copy_tree: Callable[[Path], Path]
) -> None:
    folder = copy_tree(class_folders)
    (folder / "red" / "3.png").write_bytes(b"broken")
    (folder / "red" / "4.png").unlink()
    source = open_source(DataConfig(path=folder))
    (folder / "blue" / "1.png").unlink()  # gone after it was seen
    with closing(maker(source)) as batches:
        made = [batches.make(step) for step in range(5)]
    broken = {origin for batch in made for origin, _ in batch.broken}
    assert {Path(origin).as_posix() for origin in broken} == {"red/3.png", "blue/1.png"}
    assert all(batch.pixels.shape == (8, 16, 16, 3) for batch in made)


def test_a_batch_of_broken_images_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.png").write_bytes(b"broken")
    with (
        closing(maker(open_source(DataConfig(path=tmp_path)))) as batches,
        closing(batches.from_step(0, 2)) as stream,
        pytest.raises(TrainingDataError, match="none of the 8 images of a batch can be decoded"),
    ):
        next(stream)


def test_composed_images_have_texts_of_both(class_folders: Path) -> None:
    source = open_source(DataConfig(path=class_folders))
    with closing(maker(source, compose=1.0, length=20)) as batches:
        relations = batches.make(0).relations
    assert ((relations.image_terms >= 0).sum(axis=1) > 2).any()

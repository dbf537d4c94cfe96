"""A training run from its settings to its result.

What a run leaves in its output folder:

    OUT/
      config.json, model.safetensors, tokenizer.json, preprocessor_config.json, ...   the best state, as a checkpoint
      README.md           the model card
      training/
        run.json          settings, and what was decided at the start
        log.jsonl         every event
        curve.png         loss and scores over steps
        checkpoints/      states to go on from
        best-STEP/        the best state so far, and what an older state in checkpoints/ knew as that
        start/            the checkpoint that a new model started from

A run that was stopped or killed goes on when it is started again with the same settings and folder, and ends with the
same numbers, bit for bit on the same machine, as if it had never stopped.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
from filelock import FileLock, Timeout

from model.cache import keep_compiled_code
from model.checkpoint import CONFIG_NAME, SAFETENSORS_NAME
from model.errors import ConfigurationError
from model.machine import making_client
from model.training.checkpoints import Checkpoints
from model.training.errors import ResumeError, TrainingDivergedError, TrainingError
from model.training.evaluation import overall
from model.training.finish import finish_model, measure_report
from model.training.journal import Journal
from model.training.pace import VALIDATIONS, plan_steps
from model.training.parameters import learning_rate
from model.training.progress import TrainingProgress, TrainingSummary
from model.training.result import (
    CARD_NAME,
    CURVE_NAME,
    Figure,
    draw_curve,
    is_whole_model,
    package_version,
    publish,
    write_card,
    write_model,
)
from model.training.resume import steps_of_earlier_run, write_run
from model.training.setup import RUN_NAME, prepare_run
from model.training.start import SIDE_FILES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from model.training.config import TrainingConfig
    from model.training.parameters import Parameters
    from model.training.setup import Prepared
    from model.training.step import Measured, State

WORK_FOLDER = "training"

_LOCK_NAME, _CHECKPOINTS_NAME = "lock", "checkpoints"

# What tells a work folder from somebody's folder of the same name.
_OWN_NAMES = (_LOCK_NAME, RUN_NAME, _CHECKPOINTS_NAME)

# How many there are in a run whose settings leave it open.
_CHECKPOINTS = 20

# So many broken images are told one by one; the log has all.
_BROKEN_TOLD = 10


def train(
    config: TrainingConfig,
    output: str | Path,
    *,
    progress: Callable[[TrainingProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    restart: bool = False,
) -> TrainingSummary:
    """Train a model, or go on with a run that was stopped.

    Args:
        config: all settings.
        output: folder for the result; made if it is not there.
        progress: called every `log_every` steps, after validations, and with notices.
        should_stop: asked before every step; True saves the state and returns.
        restart: throw away what an earlier run left in the folder.

    Raises:
        ConfigurationError: settings that are impossible or do not fit the model.
        ModelNotFoundError: the base is not there.
        CheckpointError: the base cannot be read.
        TrainingDataError: the data cannot be read or holds nothing to learn from.
        ResumeError: the folder holds another run, or another process is at work in it.
        TrainingDivergedError: the loss is no longer a number; the last good state is kept.
        TrainingError: the device has too little memory, or the time is too short for a single step.
    """
    begin_seconds = time.monotonic()
    keep_compiled_code()
    with making_client():
        jax.local_devices()  # makes it, if nobody has
    output = Path(output)
    work = output / WORK_FOLDER
    _check_output(config, output, work)
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        if restart:
            _clear(work)
        with _out_of_memory_explained(config):
            prepared = prepare_run(config, work)
            with closing(prepared.batches):
                return _Run(
                    prepared,
                    output,
                    progress or (lambda _: None),
                    should_stop or (lambda: False),
                    begin_seconds,
                ).go()


def _check_output(config: TrainingConfig, output: Path, work: Path) -> None:
    """Refuse a folder in which a run would replace what is not its own."""
    base = config.model.base
    if base is not None and Path(base).is_dir() and Path(base).resolve() == output.resolve():
        raise ConfigurationError(
            f"{output} is the model to start from, too, and would be replaced: choose another folder for the result"
        )
    if any((work / name).exists() for name in _OWN_NAMES):
        return
    there = [
        name for name in (CARD_NAME, CONFIG_NAME, SAFETENSORS_NAME, *SIDE_FILES) if (output / name).exists()
    ]
    if work.is_dir() and any(work.iterdir()):
        there.append(f"{WORK_FOLDER}/")
    if there:
        raise ConfigurationError(
            f"{output} holds {', '.join(there)} already, which this run would replace: choose another folder"
        )


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    lock = FileLock(work / _LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ResumeError(
            f"another process is training in {work.parent}: wait for it or take another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _out_of_memory_explained(config: TrainingConfig) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        plan = config.schedule
        raise TrainingError(
            f"the device has too little memory: lower schedule.batch_size (it is {plan.batch_size}), or raise "
            f"schedule.accumulate (it is {plan.accumulate}), which computes the same batch in more parts; then "
            f"restart. What JAX says: {str(error).partition(chr(10))[0][:300]}"
        ) from error


def _clear(work: Path) -> None:
    for item in work.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        elif item.name != _LOCK_NAME:
            item.unlink()


@dataclass
class _Best:
    """The best state so far: what of it goes into a checkpoint's facts."""

    step: int | None = None
    score: float | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class _Unseen:
    """Steps whose outcome was not looked at yet: looking makes the program wait for the device."""

    after_step: int
    measured: list[Measured] = field(default_factory=list)
    since_seconds: float = field(default_factory=time.perf_counter)


class _Run:
    """A run in this process."""

    def __init__(
        self,
        prepared: Prepared,
        output: Path,
        progress: Callable[[TrainingProgress], None],
        should_stop: Callable[[], bool],
        begin_seconds: float,
    ) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._output = output
        self._work = output / WORK_FOLDER
        self._progress = progress
        self._should_stop = should_stop
        self._begin_seconds = begin_seconds
        self._step = self._steps = 0
        self._notices: list[str] = []
        self._best = _Best()
        self._broken: set[str] = set()
        self._cut_texts = 0
        self._report: tuple[Figure, ...] = ()
        self._trained_seconds = 0.0
        self._trained_steps = 0

    def go(self) -> TrainingSummary:
        """Train, or go on training, to the end or until asked to stop."""
        with ExitStack() as stack:
            checkpoints = stack.enter_context(Checkpoints(self._work / _CHECKPOINTS_NAME))
            known_steps = steps_of_earlier_run(self._work, self._prepared)
            resumes = known_steps is not None and checkpoints.latest_step() is not None
            if known_steps is not None and resumes:
                self._steps = known_steps
            else:
                self._steps = plan_steps(self._prepared, self._begin_seconds, self._notice)
                write_run(self._work, self._prepared, self._steps)
            state = self._prepared.trainer.start(self._prepared.parameters)
            resumed_from = None
            if resumes:
                state, remembered = checkpoints.restore(state)
                resumed_from = int(state.step)
                self._recall(remembered)
            self._journal = stack.enter_context(
                closing(Journal(self._work / "log.jsonl", resume_step=resumed_from or 0))
            )
            self._broken = {event["origin"] for event in self._journal.of("broken_image")}
            self._journal.write(
                "start", step=resumed_from or 0, steps=self._steps, settings=self._config.to_dict()
            )
            self._tell_beforehand(resumed_from)
            state = self._train(state, checkpoints)
            finished = int(state.step) >= self._steps
            if finished:
                self._finish(state)
            return self._summary(int(state.step), finished=finished, resumed_from=resumed_from)

    # Before the first step

    def _recall(self, remembered: dict[str, Any]) -> None:
        self._cut_texts = remembered["cut_texts"]
        step = remembered["best_step"]
        if step is not None and is_whole_model(self._best_folder(step)):
            self._best = _Best(step, remembered["best_score"], remembered["best_scores"])

    def _tell_beforehand(self, resumed_from: int | None) -> None:
        without_text = self._prepared.data.without_text
        if resumed_from is not None:
            self._notice(f"going on from step {resumed_from} of {self._steps}")
        if without_text:
            self._notice(f"{without_text} images without a caption or name are left out")
        if not self._prepared.tests:
            self._notice(
                "too few examples are held out to be scored: there is no validation, the last state is kept"
            )
        for test in self._prepared.tests:
            self._note_broken(0, test.broken)

    # Training

    def _train(self, state: State, checkpoints: Checkpoints) -> State:
        step = self._step = int(state.step)
        if step == 0:
            self._validate(0, state)
        trainer = self._prepared.trainer
        plan = self._config.schedule
        validate_every = plan.validate_every or math.ceil(self._steps / VALIDATIONS)
        checkpoint_every = plan.checkpoint_every or math.ceil(self._steps / _CHECKPOINTS)
        unseen = _Unseen(step)
        with closing(self._prepared.batches.from_step(step, self._steps)) as stream:
            while step < self._steps:
                if self._should_stop():
                    self._look(unseen)
                    self._save(step, state, checkpoints)
                    self._notice(f"stopped at step {step} of {self._steps}; start again to go on")
                    return state
                batch = next(stream)
                state, measured = trainer.step(
                    state,
                    trainer.place(batch),
                    self._learning_rate(step),
                    patch_dropout=self._patch_dropout(step),
                )
                step += 1
                self._step = step
                unseen.measured.append(measured)
                self._cut_texts += batch.cut_texts
                self._note_broken(step, batch.broken)
                validates = step % validate_every == 0 or step == self._steps
                saves = step % checkpoint_every == 0 or step == self._steps
                if len(unseen.measured) >= plan.log_every or validates or saves:
                    self._look(unseen)
                    unseen = _Unseen(step)
                if validates:
                    self._validate(step, state)
                if saves:
                    self._save(step, state, checkpoints)
                if validates or saves:
                    unseen = _Unseen(step)  # the time that this took is not the training's
        return state

    def _look(self, unseen: _Unseen) -> None:
        """Look at the outcome of some steps, log it, and stop where it is not a number."""
        if not unseen.measured:
            return
        losses = [float(measured.loss) for measured in unseen.measured]
        norms = [float(measured.gradient_norm) for measured in unseen.measured]
        seconds = time.perf_counter() - unseen.since_seconds
        step = unseen.after_step + len(losses)
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=unseen.after_step + 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._stop_diverged(number, f"the loss is {loss} and the gradient's norm {norm}")
        self._trained_seconds += seconds
        self._trained_steps += len(losses)
        loss = sum(losses) / len(losses)
        rate = self._learning_rate(step - 1)
        images_per_second = len(losses) * self._config.schedule.batch_size / seconds
        self._journal.write(
            "step",
            step=step,
            loss=loss,
            gradient_norm=sum(norms) / len(norms),
            logit_scale=float(unseen.measured[-1].logit_scale),
            learning_rate=rate,
            images_per_second=images_per_second,
        )
        self._progress(
            TrainingProgress(
                step,
                self._steps,
                loss=loss,
                learning_rate=rate,
                images_per_second=images_per_second,
                seconds_left=self._trained_seconds / self._trained_steps * (self._steps - step),
            )
        )

    def _learning_rate(self, step: int) -> float:
        """The rate of the step that follows so many steps."""
        return learning_rate(self._config.optimizer, step, self._steps)

    def _patch_dropout(self, step: int) -> float:
        """The share of patches left out in the step that follows so many steps."""
        augmentation = self._config.augmentation
        return augmentation.patch_dropout if step < augmentation.patch_dropout_until * self._steps else 0.0

    def _stop_diverged(self, step: int, what: str) -> NoReturn:
        config = self._config.optimizer
        rate = config.peak_learning_rate
        folder = self._work / _CHECKPOINTS_NAME
        kept = [int(item.name) for item in folder.iterdir() if item.name.isdecimal()]
        good = f"the state of step {max(kept)} is kept in {folder}" if kept else "no state had been saved yet"
        if self._best.step:
            good += (
                f"; the best model so far, of step {self._best.step}, is {self._best_folder(self._best.step)}"
            )
        advice = [f"lower optimizer.learning_rate (it is {rate:g}; try {rate / 3:.2g})"]
        if config.warmup < 0.1:
            advice.append(f"lengthen optimizer.warmup (it is {config.warmup:g}; try 0.1)")
        if config.clip_norm is None or config.clip_norm > 1:
            advice.append(f"set optimizer.clip_norm = 1.0 (it is {config.clip_norm})")
        if self._config.model.dtype != "float32":
            advice.append('compute with model.dtype = "float32"')
        message = (
            f"step {step}: {what}, at a learning rate of {self._learning_rate(step - 1):.2g}; {good}. To mend it, "
            f"{', or '.join(advice)}; then start again in another folder, or restart, which throws these away"
        )
        self._journal.write("diverged", step=step, message=message)
        raise TrainingDivergedError(message)

    def _validate(self, step: int, state: State) -> None:
        if not self._prepared.tests:
            return
        parameters = self._prepared.trainer.whole(state.best_guess)
        if not all(bool(jnp.isfinite(value).all()) for value in parameters.values()):
            if step == 0:
                raise TrainingError(
                    f"{self._config.model.base} holds weights that are no numbers: take it anew from where it came from"
                )
            self._stop_diverged(step, "weights are no longer numbers")
        scores = self._prepared.score(parameters)
        mean = overall(list(scores.values()))
        self._journal.write("validation", step=step, score=mean, scores=scores)
        # Of equals the later one: a handful of held-out images is all right long before there is no more to learn.
        if self._best.score is None or mean >= self._best.score:
            self._keep_best(_Best(step, mean, scores), parameters)
        self._progress(TrainingProgress(step, self._steps, scores=scores))

    def _keep_best(self, best: _Best, parameters: Parameters) -> None:
        folder = self._best_folder(best.step)
        shutil.rmtree(folder, ignore_errors=True)
        write_model(folder, self._prepared.start, parameters, self._config.weights_dtype)
        self._best = best

    def _best_folder(self, step: int | None) -> Path:
        return self._work / f"best-{step}"

    def _save(self, step: int, state: State, checkpoints: Checkpoints) -> None:
        if checkpoints.latest_step() == step:
            return
        facts = {
            "best_step": self._best.step,
            "best_score": self._best.score,
            "best_scores": self._best.scores,
            "cut_texts": self._cut_texts,
        }
        checkpoints.save(step, state, facts)
        # Any state that is kept may be gone back to, and must find the best that it knew.
        known = {self._best_folder(kept["best_step"]) for kept in [facts, *checkpoints.kept_facts()]}
        for folder in self._work.glob("best-*"):
            if folder not in known:
                shutil.rmtree(folder)

    # After the last step

    def _finish(self, state: State) -> None:
        if self._best.step is None:
            self._keep_best(_Best(int(state.step)), self._prepared.trainer.whole(state.best_guess))
        finished = finish_model(
            self._prepared, self._best_folder(self._best.step), self._best.scores, self._work, self._notice
        )
        if finished.scores:
            self._best = _Best(self._best.step, overall(list(finished.scores.values())), finished.scores)
        publish(finished.folder, self._output)
        self._report = measure_report(finished.prepared, self._prepared, self._notice)
        self._journal.write(
            "end",
            step=int(state.step),
            best_step=self._best.step,
            best_score=self._best.score,
            report=[figure.to_dict() for figure in self._report],
        )
        if not draw_curve(self._work / CURVE_NAME, self._journal):
            self._notice("no learning curve was drawn: pip install 'imago-search[train]' brings matplotlib")
        write_card(
            self._output / CARD_NAME,
            self._config,
            self._report,
            self._validation_figures(),
            self._how_trained(state),
        )

    def _validation_figures(self) -> tuple[Figure, ...]:
        first = self._journal.of("validation")[:1]
        before = first[0]["scores"] if first and self._config.model.base is not None else {}
        return tuple(
            Figure.of(test, self._best.scores[test.title], before.get(test.title))
            for test in self._prepared.tests
            if test.title in self._best.scores
        )

    def _how_trained(self, state: State) -> dict[str, str]:
        config = self._config
        count = sum(value.size for value in self._prepared.parameters.values())
        trained = sum(value.size for value in state.trained.values())
        return {
            "parameters": f"{count:,}, of which trained: {trained:,}",
            "steps": f"{self._steps:,} of {config.schedule.batch_size} pairs",
            "examples": ", ".join(
                f"{source.title}: {len(source.entries):,}" for source in self._prepared.data.training
            ),
            "kept state": f"step {self._best.step:,}",
            "learning rate": f"{config.optimizer.peak_learning_rate:g}, warm-up {config.optimizer.warmup:g}, cosine",
            "compute": f"{config.model.dtype}, {jax.default_backend()}",
            "broken images": f"{len(self._broken):,}",
            "texts cut": f"{self._cut_texts:,}",
            "Imago": package_version() or "unknown",
        }

    # For people

    def _notice(self, line: str) -> None:
        self._notices.append(line)
        self._progress(TrainingProgress(self._step, self._steps, notice=line))

    def _note_broken(self, step: int, broken: tuple[tuple[str, str], ...]) -> None:
        for origin, reason in broken:
            if origin not in self._broken:
                self._broken.add(origin)
                self._journal.write("broken_image", step=step, origin=origin, reason=reason)
                if len(self._broken) <= _BROKEN_TOLD:
                    self._notice(f"skipped {origin}: {reason}")

    def _summary(self, step: int, *, finished: bool, resumed_from: int | None) -> TrainingSummary:
        if len(self._broken) > _BROKEN_TOLD:
            self._notice(
                f"{len(self._broken)} images could not be decoded; the log lists all: {self._work / 'log.jsonl'}"
            )
        if self._cut_texts:
            self._notice(
                f"{self._cut_texts} texts had more than {self._prepared.tokenizer.length} tokens and were cut"
            )
        losses = self._journal.of("step")
        return TrainingSummary(
            folder=self._output,
            finished=finished,
            step=step,
            steps=self._steps,
            resumed_from=resumed_from,
            seconds=time.monotonic() - self._begin_seconds,
            images_per_second=(
                self._trained_steps * self._config.schedule.batch_size / self._trained_seconds
                if self._trained_steps
                else None
            ),
            loss=losses[-1]["loss"] if losses else None,
            best_step=self._best.step,
            best_score=self._best.score,
            validation=self._validation_figures(),
            report=self._report,
            broken_images=len(self._broken),
            cut_texts=self._cut_texts,
            without_text=self._prepared.data.without_text,
            notices=tuple(self._notices),
        )

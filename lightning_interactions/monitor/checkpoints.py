"""When did last week's run start to overfit? The saved checkpoints of a finished run, measured as the monitor does it.

The watched samples are chosen by their content and nothing is carried from one checkpoint to the next, so the numbers
are those a `TwoPhaseMonitor` would have logged while the run was under way.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_interactions.errors import (
    ArgumentError,
    BatchError,
    InteractionsError,
    StateError,
    bad_argument,
    is_whole,
    sentence,
    warn,
)
from lightning_interactions.model.reader import Sight
from lightning_interactions.monitor.callback import TwoPhaseMonitor
from lightning_interactions.monitor.faults import Faults
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.monitor.options import Options
from lightning_interactions.monitor.sights import look_once
from lightning_interactions.monitor.trainer import check_forward, check_layer
from lightning_interactions.phases.epochs import Unit
from lightning_interactions.report.words import short_sentence

STATE_FILE = "analysis.ckpt"
RUN_FILE = "interactions.json"
LIVE_ONLY = (
    "monitor", "stop_on", "max_overhead", "per_octave", "max_per_epoch", "every_n_epochs", "start_epoch", "on_event",
    "resample",
)  # fmt: skip
"""Options of `TwoPhaseMonitor` that mean something only while a run is under way."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file."""

    path: Path
    epoch: int
    step: int  # at which Lightning logged then

    def place(self, unit: Unit) -> int:
        """Where in the run it is from."""
        return self.epoch if unit == "epoch" else self.step

    @property
    def identity(self) -> list[Any]:
        """What tells whether it is still the same file."""
        return [self.path.name, self.epoch, self.step, self.path.stat().st_size]


class CheckpointMonitor(InteractionMonitor):
    """The monitor of a run of which only checkpoints are left; made by `analyze_checkpoints`."""

    def __init__(self, options: Options) -> None:
        super().__init__(options, tell=Faults("warn").tell)
        self.skipped: dict[str, str] = {}  # why a checkpoint was left out, by path

    def collect(
        self, trainer: Trainer, watch: _Watch, module: LightningModule, data: LightningDataModule, sanity_val_steps: int
    ) -> None:
        """Let the data pass once, so that samples can be chosen; before that the batches of the live sanity check."""
        check_forward(module, self.options)
        check_layer(module, self.options)
        try:
            if sanity_val_steps and self.options.watch == "val" and self.watchlist.wants("val"):
                limit = trainer.limit_val_batches
                trainer.limit_val_batches = sanity_val_steps if sanity_val_steps > 0 else 1.0
                trainer.validate(module, datamodule=data, verbose=False)
                trainer.limit_val_batches = limit
                self.choose_at_start()
            trainer.validate(module, datamodule=data, verbose=False)
        except InteractionsError:
            raise
        except Exception as error:
            raise BatchError(
                f"The model's own validation failed on these data ({type(error).__name__}: {error}). Give the data of "
                "the run, or `input_fn` and `target_fn` that read them."
            ) from error
        given = getattr(data.train_dataloader, "__func__", None) is not LightningDataModule.train_dataloader
        if self.watchlist.wants("train") and given:
            data.setup("fit")
            loader = data.train_dataloader()
            if loader is not None:
                watch.split = "train"
                # As the validation data of a second pass, the training data comes with all hooks and without a step.
                data.val_dataloader = lambda: loader  # type: ignore[method-assign]
                try:
                    with warnings.catch_warnings():
                        warnings.filterwarnings("ignore", ".*sampler has shuffling enabled.*")
                        trainer.validate(module, datamodule=data, verbose=False)
                finally:
                    del data.val_dataloader


class _Watch(Callback):
    """Shows the passing batches of a validation to the monitor."""

    def __init__(self, monitor: CheckpointMonitor) -> None:
        self.monitor = monitor
        self.split = "val"
        self.sight: Sight | None = None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """See what the module's own step does with the batch."""
        sight = self.monitor.sight(self.split, pl_module) if dataloader_idx == 0 else None
        self.sight = sight.open(batch) if sight is not None else None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Look at the first batch; consider the samples of each, whichever split is passing."""
        if self.sight is not None:
            seen = self.sight.close()
            look_once(self.monitor, trainer, pl_module, seen)
            self.monitor.observe(self.split, seen)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Look no longer."""
        if self.sight is not None:
            self.sight.close()


def analyze_checkpoints(
    model: LightningModule | type[LightningModule],
    data: LightningDataModule | type[LightningDataModule] | Sequence[Any],
    checkpoints: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] | None = None,
    sanity_val_steps: int = 2,
    accelerator: str = "auto",
    progress: bool = True,
    **options: Any,
) -> CheckpointMonitor:
    """Measure the saved checkpoints of a finished run, in order, as if a `TwoPhaseMonitor` had watched it.

    The numbers are those of the live monitor if the data are those of the run: the same validation set, and the same
    training set for the loss gap (a training loader that augments or drops samples gives slightly other losses). The
    more checkpoints, the better: keep one per epoch (``ModelCheckpoint(save_top_k=-1)``). They are unpickled: analyse
    only those you trust.

    Args:
        model: The LightningModule, or its class: hyper-parameters then come from the checkpoint.
        data: The LightningDataModule, its class (likewise), or ``(train_loader, val_loader)``; without training data
            (``None``) there is no loss gap.
        checkpoints: A folder, searched for ``*.ckpt``, or the files. Their order is that of the epoch and step in them;
            of several with the same, one is measured. Where all are from the first epoch, steps are counted.
        output: Folder for what has been found so far: an analysis that was interrupted goes on where it stopped, one of
            a run that goes on measures the new checkpoints only. At the end it also holds ``interactions.json``.
        sanity_val_steps: The live Trainer's ``num_sanity_val_steps``: the monitor has watched samples of these batches,
            where they covered the classes. 0 for one with ``every_n_epochs`` or ``resample``, which did not.
        accelerator: Of the Trainer; one device is used.
        progress: Show a progress bar over the checkpoints.
        options: Arguments of `TwoPhaseMonitor`, such as ``num_samples``, ``layer`` or ``players``.

    Returns:
        The monitor: ``history``, ``events``, ``boundary_epoch``, ``plot()``, ``report(path)``; and ``skipped``, the
        checkpoints that could not be loaded and why (told in a warning too).

    Raises:
        ArgumentError: If an argument is wrong, or there is no checkpoint that loads.
        BatchError: If the data cannot be read.
        ModelOutputError: If the model does not return logits.
        ModelCallError: If the model fails.
    """
    useless = sorted(set(LIVE_ONLY) & set(options))
    if useless:
        raise ArgumentError(f"{', '.join(useless)}: these options mean something only while a run is under way.")
    if not is_whole(sanity_val_steps, -1):
        raise bad_argument("sanity_val_steps", "an integer of at least -1", sanity_val_steps)
    monitor = CheckpointMonitor(replace(TwoPhaseMonitor(on_event=None, **options).options, on_error="raise"))
    known = _readable(_files_of(checkpoints), monitor)
    module, first = _first_model(model, known, monitor)
    datamodule = _datamodule(data, first)
    folder = Path(output) if output is not None else None
    done = _resume(monitor, folder, known)
    watch, supplied = _Watch(monitor), not any(map(monitor.watchlist.wants, ("val", "train")))
    # Tensors made in inference mode could not be used outside of it later on.
    trainer = Trainer(
        accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, inference_mode=False, callbacks=[watch], limit_val_batches=1 if supplied else None,
    )  # fmt: skip
    monitor.collect(trainer, watch, module, datamodule, sanity_val_steps)
    module.to(trainer.strategy.root_device)
    _measure_all(monitor, module, known, done, folder, progress)
    if not len(monitor.history):
        raise ArgumentError(_none_loads(monitor))
    if folder is not None:
        monitor.record().write(folder / RUN_FILE)
    return monitor


def _measure_all(
    monitor: CheckpointMonitor, module: LightningModule, known: list[Checkpoint], done: int, folder: Path | None,
    progress: bool,
) -> None:  # fmt: skip
    from tqdm import tqdm

    if not len(monitor.history) and len(known) > 1 and known[-1].epoch == 0:
        monitor.history.unit = "step"  # no epoch was over
    unit = monitor.history.unit
    bar = tqdm(known, initial=0, desc="Checkpoints", unit="checkpoint", disable=not progress)
    for index, checkpoint in enumerate(bar):
        bar.set_postfix_str(checkpoint.path.name)
        if index < done or str(checkpoint.path) in monitor.skipped:
            continue
        try:
            content = _read(checkpoint.path)
            module.on_load_checkpoint(content)
            module.load_state_dict(content["state_dict"], strict=module.strict_loading)
            # The run ended with the last of them, as the live monitor knew it would.
            place, end = checkpoint.place(unit), known[-1].place(unit)
            events = monitor.measure(module, place, step=checkpoint.step, last_epoch=end)
        except Exception as error:  # whatever a file, a model or a score may raise
            _skip(monitor, checkpoint.path, error)
            continue
        for event in events if monitor.options.verbose and progress else []:
            if event.is_alert:
                bar.write(short_sentence(event))
        if folder is not None:
            _save(monitor, folder, known[: index + 1])


# -- files ------------------------------------------------------------------------------------------------------------


def _files_of(checkpoints: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(checkpoints, (str, os.PathLike)):
        root = Path(checkpoints)
        files = sorted(root.rglob("*.ckpt")) if root.is_dir() else [root]
        files = [file for file in files if file.name != STATE_FILE]
    else:
        files = [Path(path) for path in checkpoints]
    if not files:
        raise bad_argument("checkpoints", "a folder with *.ckpt files in it, or the files", str(checkpoints))
    return files


def _readable(files: list[Path], monitor: CheckpointMonitor) -> list[Checkpoint]:
    """Read where in the run every file is from, in order and without repetitions."""
    found: dict[tuple[int, int], Checkpoint] = {}
    for path in files:
        try:
            content = _read(path)
            epoch, step = int(content["epoch"]), _logged_step(content)
            if "state_dict" not in content:
                raise KeyError("state_dict")
        except Exception as error:  # anything can be in a file
            _skip(monitor, path, error)
            continue
        found.setdefault((epoch, step), Checkpoint(path, epoch, step))
    if not found:
        raise ArgumentError(_none_loads(monitor))
    return [found[key] for key in sorted(found)]


def _read(path: Path) -> dict[str, Any]:
    # Mapped, so that looking for the epoch in it does not read the weights.
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    return content


def _logged_step(content: Mapping[str, Any]) -> int:
    """Step at which Lightning logged at the validation before this checkpoint, as in the live run's history.

    Its counter goes up only after validation, and most checkpoints are saved even later.
    """
    steps = int(content["global_step"])
    try:
        counted = int(content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])
    except (KeyError, TypeError):
        counted = steps
    return max(min(counted, steps - 1), 0)


def _skip(monitor: CheckpointMonitor, path: Path, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    monitor.skipped[str(path)] = reason
    rank_zero_only(warn)(sentence(f"Checkpoint {path} is left out: {reason}"))


def _none_loads(monitor: CheckpointMonitor) -> str:
    reasons = "\n  ".join(f"{path}: {reason}" for path, reason in monitor.skipped.items())
    return f"None of the checkpoints can be loaded:\n  {reasons}"


# -- model and data ---------------------------------------------------------------------------------------------------


def _first_model(
    model: LightningModule | type[LightningModule], known: list[Checkpoint], monitor: CheckpointMonitor
) -> tuple[LightningModule, Path]:
    """Make the model from the first checkpoint that loads."""
    if isinstance(model, LightningModule):
        return model, known[0].path
    if not (isinstance(model, type) and issubclass(model, LightningModule)):
        raise bad_argument("model", "a LightningModule or its class", model)
    for checkpoint in known:
        try:
            return model.load_from_checkpoint(checkpoint.path, map_location="cpu", **_trusting(model)), checkpoint.path
        except Exception as error:  # a user's constructor may raise anything
            _skip(monitor, checkpoint.path, error)
    raise ArgumentError(_none_loads(monitor))


def _trusting(loaded: Any) -> dict[str, Any]:
    """Let Lightning unpickle, where its version has to be told (the arguments are else the constructor's)."""
    known = "weights_only" in inspect.signature(loaded.load_from_checkpoint).parameters
    return {"weights_only": False} if known else {}


def _datamodule(
    data: LightningDataModule | type[LightningDataModule] | Sequence[Any], checkpoint: Path
) -> LightningDataModule:
    if isinstance(data, LightningDataModule):
        return data
    if isinstance(data, type) and issubclass(data, LightningDataModule):
        kept = LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY in _read(checkpoint)
        return data.load_from_checkpoint(checkpoint, **_trusting(data)) if kept else data()
    if isinstance(data, Sequence) and len(data) == 2:
        module = LightningDataModule()
        vars(module).update(train_dataloader=lambda: data[0], val_dataloader=lambda: data[1])
        return module
    raise bad_argument("data", "a LightningDataModule, its class, or (train_loader, val_loader)", data)


# -- going on where it stopped ----------------------------------------------------------------------------------------


def _save(monitor: CheckpointMonitor, folder: Path, done: list[Checkpoint]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{STATE_FILE}.partial"
    torch.save({"done": [checkpoint.identity for checkpoint in done], "monitor": monitor.state_dict()}, partial)
    partial.replace(folder / STATE_FILE)


def _resume(monitor: CheckpointMonitor, folder: Path | None, known: list[Checkpoint]) -> int:
    """Restore an earlier analysis of the same checkpoints; return how many it had done."""
    file = folder / STATE_FILE if folder is not None else None
    if file is None or not file.is_file():
        return 0
    try:
        state = torch.load(file, weights_only=True)
        done = state["done"]
        if done != [checkpoint.identity for checkpoint in known[: len(done)]]:
            raise StateError("the checkpoints before the last one measured are others")
        monitor.load_state_dict(state["monitor"])
    except Exception as error:  # a file that was not written by us, or by another version
        rank_zero_info(f"{file} does not fit ({str(error).rstrip('.')}); the analysis begins anew.")
        return 0
    return len(done)

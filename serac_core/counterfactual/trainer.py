"""The Hugging Face `Trainer`, set up so that a broken-off training ends as an unbroken one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from serac_core.base.language_model import LanguageModel, answer_logits
from serac_core.config import CounterfactualConfig
from serac_core.counterfactual.examples import EncodedExample, TrainingExamples
from serac_core.counterfactual.training_log import TrainingLog
from serac_core.errors import SeracError

_COMPLETE = "complete"  # written last: a checkpoint without it was cut off by a kill
_SELECTION = "eval_selection"
_NOISE = 0.01  # of edit/acc_val


class NonFiniteTraining(SeracError):
    """The loss or a gradient is not a number; training stopped with the weights still good."""


class CounterfactualTrainer(Trainer):
    """Trains on the answer's tokens only and stops before a step that would break the weights.

    Parameters
    ----------
    language_model:
        Trained in place.
    network:
        What of it is trained and saved: its network, or the adapter around that.
    examples:
        In the order of training: nothing is shuffled here, so resuming is exact.
    folder:
        Of the checkpoints and the log; its name holds the key of everything that they depend on.
    measure:
        Figures of the model as it is; `edit/acc_val` among them decides which weights are kept.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        network: Any,
        examples: TrainingExamples,
        *,
        config: CounterfactualConfig,
        seed: int,
        folder: Path,
        log: TrainingLog,
        measure: Callable[[], dict[str, float]],
    ) -> None:
        self.language_model = language_model
        self.batch_names: list[str] = []
        self._measure = measure
        self._folder = folder
        on_cuda = language_model.model.device.type == "cuda"
        super().__init__(
            model=network,
            args=TrainingArguments(
                output_dir=str(folder),
                max_steps=config.max_steps,
                per_device_train_batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=math.ceil(config.warmup_share * config.max_steps),
                weight_decay=0.0,
                max_grad_norm=1.0,
                bf16=_multiplies_bfloat16(on_cuda),
                use_cpu=not on_cuda,
                seed=seed,
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
                label_names=["labels"],
                logging_steps=math.gcd(config.checkpoint_every, 10),
                logging_nan_inf_filter=False,
                eval_strategy="steps",
                eval_steps=config.checkpoint_every,
                save_strategy="steps",
                save_steps=config.checkpoint_every,
                save_total_limit=2,
                load_best_model_at_end=True,
                metric_for_best_model=_SELECTION,
                greater_is_better=True,
                restore_callback_states_from_checkpoint=True,
                dataloader_pin_memory=on_cuda,
                disable_tqdm=True,
                report_to="none",
            ),
            train_dataset=examples,
            eval_dataset=[],  # `evaluate` measures whole answers instead
            data_collator=self._collate,
            compute_loss_func=_answer_loss,  # given, the Trainer counts a step's tokens
            callbacks=[
                EarlyStoppingCallback(config.patience, early_stopping_threshold=1e-5),
                _Checkpoints(folder),
                _Logging(log, config.batch_size),
                _FiniteGradients(self),
            ],
        )
        self.remove_callback(PrinterCallback)

    def newest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; those that a kill cut off are removed."""
        whole = []
        for checkpoint in self._folder.glob("checkpoint-*"):
            if (checkpoint / _COMPLETE).exists():
                whole.append(checkpoint)
            else:
                shutil.rmtree(checkpoint)
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy of the answers' tokens over the whole step.

        Raises
        ------
        NonFiniteTraining
            Before anything is computed from it.
        """
        self.batch_names = inputs.pop("names")
        labels_BK = inputs.pop("labels")
        logits_BKV = answer_logits(model, inputs, labels_BK.shape[1])
        loss = _answer_loss(logits_BKV, labels_BK, num_items_in_batch)
        if not torch.isfinite(loss):
            self.refuse("loss")
        return (loss, {"logits": logits_BKV}) if return_outputs else loss

    def refuse(self, what: str) -> None:
        """Stop before the optimizer step, naming the batch.

        Raises
        ------
        NonFiniteTraining
        """
        names = ", ".join(self.batch_names[:8])
        more = f" and {len(self.batch_names) - 8} more" if len(self.batch_names) > 8 else ""
        raise NonFiniteTraining(
            f"step {self.state.global_step + 1}: the {what} is not finite, "
            f"in the batch of the edits {names}{more}",
            remedy="lower counterfactual.learning_rate, or look at those edits",
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Figures of the model as it is. Later weights win among those that differ by less than
        the noise of a hundred edits: the learning rate has fallen further."""
        self.language_model.model.eval()
        metrics = {f"eval_{name}": value for name, value in self._measure().items()}
        progress = self.state.global_step / self.state.max_steps
        metrics[_SELECTION] = metrics["eval_edit/acc_val"] + _NOISE * progress
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _collate(self, batch: Sequence[EncodedExample]) -> dict[str, Any]:
        inputs: dict[str, Any] = self.language_model.collate([example.pair for example in batch])
        return {
            **{name: tensor.cpu() for name, tensor in inputs.items()},
            "names": [example.edit_id for example in batch],
        }


def _multiplies_bfloat16(on_cuda: bool) -> bool:
    """Whether mixed precision is faster here than float32 (weights stay float32 either way)."""
    if on_cuda:
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _answer_loss(
    logits_BKV: torch.Tensor,
    labels_BK: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy summed over the answers' tokens, divided by those of the whole step."""
    total = torch.nn.functional.cross_entropy(
        logits_BKV.float().flatten(0, 1), labels_BK.flatten(), reduction="sum"
    )
    return total / ((labels_BK != -100).sum() if num_items_in_batch is None else num_items_in_batch)


class _Checkpoints(TrainerCallback):
    """Marks a checkpoint as whole once every file of it is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (self._folder / f"checkpoint-{state.global_step}" / _COMPLETE).touch()


class _Logging(TrainerCallback):
    """Passes the loss, and the figures of an evaluation, to the log."""

    def __init__(self, log: TrainingLog, batch_size: int) -> None:
        self._log = log
        self._batch_size = batch_size
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first_step = state.global_step
        self._log.resume_at(state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            figures = {"loss/train": logs["loss"], "learning_rate": logs["learning_rate"]}
            self._add(state.global_step, figures)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        figures = {
            name.removeprefix("eval_"): value
            for name, value in given["metrics"].items()
            if name != _SELECTION
        }
        self._add(state.global_step, figures)

    def _add(self, step: int, figures: dict[str, float]) -> None:
        self._log.add(step, figures, examples=(step - self._first_step) * self._batch_size)


class _FiniteGradients(TrainerCallback):
    """A finite loss can have gradients that aren't; they must not reach the weights."""

    def __init__(self, trainer: CounterfactualTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        gradients = [p.grad for p in given["model"].parameters() if p.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self._trainer.refuse("gradient")

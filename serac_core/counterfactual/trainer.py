"""The Hugging Face `Trainer`, set up so that a broken-off training ends as an unbroken one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import DistributedType
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
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
from serac_core.counterfactual.processes import Processes
from serac_core.counterfactual.training_log import TrainingLog
from serac_core.errors import SeracError
from serac_core.progress import tell

_COMPLETE = "complete"  # written last: a checkpoint without it was cut off by a kill
_SELECTION = "eval_selection"
_NOISE = 0.01  # of edit/acc_val
_NOT_READ = ("names", "labels", "shift_labels")  # what a batch holds beside the model's inputs
_FINE, _OUT_OF_MEMORY, _NOT_FINITE = range(3)  # how a step's gradients came out; the worst counts
_DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class NonFiniteTraining(SeracError):
    """The loss or a gradient is not a number; training stopped with the weights still good."""


class OutOfMemory(SeracError):
    """Memory doesn't suffice for a step, even one example at a time."""


class PrecisionUnavailable(SeracError):
    """The processor can't train in the numeric type that was asked for."""


class NoGradientCheckpointing(SeracError):
    """The model's architecture has no gradient checkpointing."""


class UnsupportedLaunch(SeracError):
    """A launcher asked for more than sharing the batch: sharded weights, DeepSpeed."""


class CounterfactualTrainer(Trainer):
    """Trains on the answer's tokens only and stops before a step that would break the weights.

    A process gets its share of a step's batch whole and computes it in micro-batches. Gradients
    are added up over the processes only after all agree that theirs are good: a process that runs
    out of memory, or meets a loss that is no number, must not leave the others waiting for it.
    (What that costs is that adding up does not overlap with the backward pass.)

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
    processes:
        That share the work.

    Raises
    ------
    UnevenBatch, PrecisionUnavailable, NoGradientCheckpointing, UnsupportedLaunch
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
        processes: Processes,
    ) -> None:
        self.language_model = language_model
        self.processes = processes
        self.batch_names: list[str] = []
        self._measure = measure
        self._folder = folder
        share = processes.share(config.batch_size)
        self._micro_batch = math.ceil(share / config.gradient_accumulation)
        on_cuda = language_model.model.device.type == "cuda"
        precision = _precision(config.precision, on_cuda)
        workers = int(on_cuda) if config.loader_workers == "auto" else config.loader_workers
        if config.gradient_checkpointing and not _has_checkpointing(language_model.model):
            raise NoGradientCheckpointing(
                f"{language_model.name}: {type(language_model.model).__name__} has no gradient "
                "checkpointing",
                remedy="set counterfactual.gradient_checkpointing to false; "
                "gradient_accumulation saves memory too",
            )
        super().__init__(
            model=network,
            args=_OneDeviceArguments(
                output_dir=str(folder),
                max_steps=config.max_steps,
                per_device_train_batch_size=share,
                average_tokens_across_devices=True,  # the loss is divided by the whole step's
                ddp_broadcast_buffers=False,  # a collective in every forward pass: see above
                activation_checkpointing=config.gradient_checkpointing,
                learning_rate=config.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=math.ceil(config.warmup_share * config.max_steps),
                weight_decay=0.0,
                max_grad_norm=1.0,
                bf16=precision == "bfloat16",
                fp16=precision == "float16",
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
                dataloader_num_workers=workers,
                disable_tqdm=True,
                report_to="none",
            ),
            train_dataset=examples,
            eval_dataset=[],  # `evaluate` measures whole answers instead
            data_collator=self._collate,
            compute_loss_func=_answer_loss,  # given, the Trainer counts a step's tokens
            callbacks=[
                EarlyStoppingCallback(config.patience, early_stopping_threshold=1e-5),
                _Checkpoints(folder, processes),
                *([_Logging(log, config.batch_size)] if processes.is_main else []),
                _FiniteGradients(self),
            ],
        )
        self.remove_callback(PrinterCallback)
        if self.accelerator.distributed_type not in _DATA_PARALLEL:
            raise UnsupportedLaunch(
                f"launched for {self.accelerator.distributed_type.value}; each process holds the "
                "whole counterfactual model here",
                remedy="launch with `--multi_gpu` or by torchrun, without FSDP or DeepSpeed; "
                "counterfactual.gradient_checkpointing saves memory",
            )

    def newest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; those that a kill cut off are removed."""
        return self.processes.from_main(self._newest_checkpoint)

    def _newest_checkpoint(self) -> Path | None:
        whole = []
        for checkpoint in self._folder.glob("checkpoint-*"):
            if (checkpoint / _COMPLETE).exists():
                whole.append(checkpoint)
            else:
                shutil.rmtree(checkpoint)
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def training_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Gradients of a whole step, in every process the sum over all of them.

        Out of memory, it begins the step again with micro-batches half as large, in all
        processes: the examples of the step, and what its loss is divided by, stay the same.

        Returns
        -------
        torch.Tensor
            The loss so that its mean over the processes is the step's.

        Raises
        ------
        NonFiniteTraining, OutOfMemory
        """
        self.processes.check_launcher()
        model.train()
        self.batch_names = inputs["names"]
        prepared = self._prepare_inputs(inputs)
        while True:
            outcome, loss = self._gradients(model, prepared, num_items_in_batch)
            worst = self.processes.worst(outcome)
            if worst == _NOT_FINITE:
                self.refuse("loss", self.batch_names if outcome == _NOT_FINITE else [])
            if worst == _FINE:
                break
            self._halve_micro_batch(model)
        parameters = self.language_model.model.parameters()
        self.processes.add_up([p.grad for p in parameters if p.grad is not None])
        return loss * self.processes.count

    def _gradients(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[int, torch.Tensor]:
        """Compute this process's part of the step; tells how that came out, and the loss."""
        names = self.batch_names
        total = torch.zeros((), device=self.args.device)
        try:
            for start in range(0, len(names), self._micro_batch):
                rows = slice(start, start + self._micro_batch)
                part = {name: value[rows] for name, value in inputs.items()}
                with self.accelerator.no_sync(model), self.compute_loss_context_manager():
                    loss = self.compute_loss(model, part, num_items_in_batch=num_items_in_batch)
                    if not torch.isfinite(loss):
                        self.batch_names = names[rows]
                        return _NOT_FINITE, total
                    self.accelerator.backward(loss)
                total += loss.detach()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            return _OUT_OF_MEMORY, total  # left before going on: the error holds the tensors
        return _FINE, total

    def _halve_micro_batch(self, model: Any) -> None:
        model.zero_grad()
        clear_device_cache(garbage_collection=True)
        step, before = self.state.global_step + 1, self._micro_batch
        if before == 1:
            raise OutOfMemory(
                f"step {step}: out of memory with one example at a time",
                remedy="set counterfactual.gradient_checkpointing to true, take a smaller "
                "models.counterfactual, or free memory; training goes on from its last checkpoint",
            )
        self._micro_batch = before // 2
        if self.processes.is_main:
            tell(
                f"step {step}: out of memory with {before} examples at a time; "
                f"the step is computed again with {self._micro_batch}"
            )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy of the answers' tokens, divided by those of the whole step."""
        given = {name: value for name, value in inputs.items() if name not in _NOT_READ}
        labels_BK = inputs["labels"]
        logits_BKV = answer_logits(model, given, labels_BK.shape[1])
        loss = _answer_loss(logits_BKV, labels_BK, num_items_in_batch)
        return (loss, {"logits": logits_BKV}) if return_outputs else loss

    def refuse(self, what: str, names: list[str]) -> None:
        """Stop before the optimizer step, in all processes, naming what each of them names.

        Raises
        ------
        NonFiniteTraining
        """
        names = list(dict.fromkeys(self.processes.together(names)))
        shown = ", ".join(names[:8])
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise NonFiniteTraining(
            f"step {self.state.global_step + 1}: the {what} is not finite, "
            f"in the batch of the edits {shown}{more}",
            remedy="lower counterfactual.learning_rate, or look at those edits",
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Figures of the model as it is. Later weights win among those that differ by less than
        the noise of a hundred edits: the learning rate has fallen further."""
        self.language_model.model.eval()
        # Measured once: were it by each, rounding on GPUs could make them disagree about stopping.
        measured = self.processes.from_main(self._measure)
        metrics = {f"eval_{name}": value for name, value in measured.items()}
        progress = self.state.global_step / self.state.max_steps
        metrics[_SELECTION] = metrics["eval_edit/acc_val"] + _NOISE * progress
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _collate(self, batch: Sequence[EncodedExample]) -> dict[str, Any]:
        # On the CPU: a process that makes batches ahead of time must not touch the GPU.
        inputs: dict[str, Any] = self.language_model.collate([e.pair for e in batch], device="cpu")
        return {
            **inputs,
            # Of a causal model's `labels` the Trainer would not count the first column; these
            # stand at the logits that predict them, so every one counts.
            "shift_labels": inputs["labels"],
            "names": [example.edit_id for example in batch],
        }


class _OneDeviceArguments(TrainingArguments):
    """One process computes on one device: the Trainer's own way with several GPUs and a single
    process gives each a whole batch, so that a step would depend on the machine."""

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
    )


def _has_checkpointing(model: Any) -> bool:
    return bool(getattr(model, "supports_gradient_checkpointing", False))


def _precision(
    asked: Literal["auto", "float32", "bfloat16", "float16"], on_cuda: bool
) -> Literal["float32", "bfloat16", "float16"]:
    if asked == "auto":
        return "bfloat16" if _multiplies_bfloat16(on_cuda) else "float32"
    if asked == "float16" and not on_cuda:
        raise PrecisionUnavailable(
            "counterfactual.precision float16 needs CUDA; this training is on a CPU",
            remedy="set it to auto, float32 or bfloat16",
        )
    if asked == "bfloat16" and on_cuda and not torch.cuda.is_bf16_supported():
        raise PrecisionUnavailable(
            "counterfactual.precision bfloat16: this GPU has no bfloat16",
            remedy="set it to auto, float32 or float16",
        )
    return asked


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
    """Marks a checkpoint as whole once every file of it is written, by every process."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder = folder
        self._processes = processes

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._processes.wait()
        if self._processes.is_main:
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


class AfterStep(TrainerCallback):
    """Tells the number of each step when it is done."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell(state.global_step)


class _FiniteGradients(TrainerCallback):
    """A finite loss can have gradients that aren't; they must not reach the weights."""

    def __init__(self, trainer: CounterfactualTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        scaler = self._trainer.accelerator.scaler
        if scaler is not None and scaler.get_scale() > 1:
            return  # float16 overflows now and then: the scaler leaves that step out
        gradients = [p.grad for p in given["model"].parameters() if p.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self._trainer.refuse("gradient", self._trainer.batch_names)

"""Low-rank adaptation (LoRA, Hu et al. 2021) through peft: few weights are trained, then merged."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from serac_core.config import CounterfactualConfig
from serac_core.errors import SeracError

if TYPE_CHECKING:
    from peft import PeftModel


class NothingToAdapt(SeracError):
    """A model has none of the layers that LoRA is to adapt."""


def adapt(network: Any, config: CounterfactualConfig, name: str) -> PeftModel:
    """Put an adapter into the network, in place, and freeze everything else.

    The adapter's first weights are drawn from PyTorch's random state.

    Returns
    -------
    PeftModel
        What is trained and saved in checkpoints: the adapter alone. Its `merge_and_unload` makes
        the network an ordinary one again, with the adapter in its weights.

    Raises
    ------
    NothingToAdapt
        Before the network is changed.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    task = TaskType.SEQ_2_SEQ_LM if network.config.is_encoder_decoder else TaskType.CAUSAL_LM
    named = config.lora_target
    targets = list(named) if isinstance(named, tuple) else named
    settings = LoraConfig(
        task_type=task,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=None if targets == "library" else targets,  # None: peft's own choice
    )
    try:
        with warnings.catch_warnings():  # GPT-2's layers are transposed, which peft sees and says
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            return get_peft_model(network, settings)
    except ValueError as error:
        raise NothingToAdapt(
            f"{name}: no layer for LoRA to adapt (counterfactual.lora_target {targets!r}): {error}",
            remedy="set `counterfactual.lora_target` to `all-linear`, or `counterfactual.kind` to "
            "`finetuned`",
        ) from error

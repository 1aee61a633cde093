"""SERAC's training loop as EasyEdit ships it, written anew to measure ours against.

What is taken over, from EasyEdit's `easyeditor/trainer/algs/SERAC.py` (`SERAC.edit`, `forward`,
`embedding_logsim_matrix`, `build_rep_cache_contexts`), `trainer/EditTrainer.py` (`edit_step`,
`train_step`), `trainer/losses.py` (`kl_loc_loss`, `multiclass_log_probs`), `dataset/zsre.py`
(`collate_gpt_fn`) and `hparams/TRAINING/SERAC/gpt2-xl.yaml`; Mitchell et al. 2022 have the same in
`algs/rep.py` and `trainer.py` of eric-mitchell/serac:

- a step edits one batch of 10: these are its memory;
- base logits of the locality examples without the memory, at every step; again with it, and of the
  edits: three passes of the base model;
- the memory is encoded anew for each of the two forward passes, by the encoder's first token;
  similarity exp(-|e - q|^2), the nearest edit counts;
- the counterfactual model reads "prompt target" of that edit and then the text; logits of every
  position; logarithm of the probabilities of both models mixed by the similarity;
- loss 0.1 x NLL of the targets + 1.0 x KL on the locality examples, through classifier and
  counterfactual model, nothing frozen; Adam, gradients clipped at 100; float32; batches as they
  come, padded to the longest.

What is not, to the reference's advantage:

- metrics of every step (they are EasyEdit's own, some on unshifted logits): none are computed;
- keys with the answer's last word cut off: the key is the prompt;
- texts decoded and tokenized again in each pass: once a step;
- truncation to 32 tokens, and left padding without position ids: rows are padded on the right;
- learning rate 1e-5 with an optimizer step every tenth batch: both are parameters here.

The original's supervised variant (gold edit, balanced BCE, hard negatives) is not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import log_softmax
from torch.nn.utils.rnn import pad_sequence

from serac_core.base.language_model import LanguageModel
from serac_core.edits.record import Edit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH = 10
_EDIT_WEIGHT = 0.1
_LOCALITY_WEIGHT = 1.0
_GRADIENT_BOUND = 100.0
_MEASURED_AT_ONCE = 64
_EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Row:
    """A text for the base model in tokens, and which of them are the target (none: all count)."""

    query: str
    ids: tuple[int, ...]
    target: slice


class ReferenceLoop:
    """Trains a classifier and a counterfactual model together, as EasyEdit does.

    Shapes: B rows, T tokens, V vocabulary, M edits in memory, D dimensions.

    Parameters
    ----------
    base, counterfactual:
        Causal models of one vocabulary; the second is trained in place.
    classifier:
        Its network is trained in place.
    edits:
        With locality probes; drawn in another order each epoch.
    accumulate:
        Batches an optimizer step; EasyEdit's settings say 10.
    """

    def __init__(
        self,
        base: LanguageModel,
        counterfactual: LanguageModel,
        classifier: SentenceTransformer,
        edits: Sequence[Edit],
        *,
        learning_rate: float,
        accumulate: int = 1,
        seed: int = 17,
    ) -> None:
        self.base = base
        self.counterfactual = counterfactual
        self.network: Any = classifier[0].auto_model
        self.steps = 0
        self._tokenizer: Any = classifier.tokenizer
        self._accumulate = accumulate
        self._batches = _batches(edits, seed)
        if hasattr(self.network, "set_attn_implementation"):
            self.network.set_attn_implementation("eager")  # the faster one for texts this short
        self.network.requires_grad_(True)
        self._trained = [*self.network.parameters(), *counterfactual.model.parameters()]
        self._optimizer = torch.optim.Adam(self._trained, lr=learning_rate)
        for network in (base.model, counterfactual.model, self.network):
            network.eval()  # EasyEdit trains with dropout 0

    def step(self) -> float:
        """Train on the next batch.

        Returns
        -------
        float
            The loss.
        """
        memory, probes = next(self._batches)
        edits, outside = self._edit_rows(memory), self._probe_rows(probes)
        with torch.no_grad():
            before_BTV = self._base_logits(outside)
        mixed_BTV = self._mixed(edits, memory)
        nll = torch.cat([self._target_nll(mixed_BTV[b], row) for b, row in enumerate(edits)]).mean()
        after_BTV = log_softmax(self._mixed(outside, memory), -1)
        before_BTV = log_softmax(before_BTV, -1)
        kl_BT = (before_BTV.exp() * (before_BTV - after_BTV)).sum(-1)
        mask_BT = _padded(outside)[1]
        loss: Any = _EDIT_WEIGHT * nll + _LOCALITY_WEIGHT * (kl_BT * mask_BT).sum() / mask_BT.sum()
        (loss / self._accumulate).backward()
        self.steps += 1
        if self.steps % self._accumulate == 0:
            torch.nn.utils.clip_grad_norm_(self._trained, _GRADIENT_BOUND, error_if_nonfinite=True)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return float(loss.item())

    @torch.no_grad()
    def accuracy(self, asked: Sequence[Edit], stored: Sequence[Edit]) -> float:
        """`edit/acc`: mean share of a target's tokens that the edited model says, each given the
        right ones before it, asked by the edit's prompt."""
        rows = {row.query: row for row in self._edit_rows(asked, asked_by_prompt=True)}
        ordered = sorted(rows.values(), key=lambda row: len(row.ids))
        keys_MD = self._encoded_in_parts([edit.prompt for edit in stored])
        right = []
        for first in range(0, len(ordered), _MEASURED_AT_ONCE):
            part = ordered[first : first + _MEASURED_AT_ONCE]
            mixed_BTV = self._mixed(part, stored, keys_MD)
            for b, row in enumerate(part):
                said = mixed_BTV[b, row.target.start - 1 : row.target.stop - 1].argmax(-1).tolist()
                meant = row.ids[row.target]
                right.append(fmean(s == m for s, m in zip(said, meant, strict=True)))
        return fmean(right)

    def _mixed(
        self, rows: Sequence[Row], memory: Sequence[Edit], keys_MD: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, T, V) logarithms of the edited model's probabilities.

        Parameters
        ----------
        keys_MD:
            The memory's encodings; made here unless given.
        """
        with torch.no_grad():
            base_BTV = self._base_logits(rows).softmax(-1)
        if keys_MD is None:
            keys_MD = self._encoded([edit.prompt for edit in memory])
        queries_BD = self._encoded([row.query for row in rows])
        distance_BM = (queries_BD[:, None] - keys_MD).square().sum(-1)
        weight_B, nearest_B = (-distance_BM).exp().max(-1)
        counterfactual_BTV = self._counterfactual_logits(
            rows, [memory[place] for place in nearest_B.tolist()]
        ).softmax(-1)
        weight_B11 = weight_B[:, None, None]
        mixed_BTV = (1 - weight_B11) * base_BTV + weight_B11 * counterfactual_BTV
        return (mixed_BTV + _EPSILON).log()

    def _base_logits(self, rows: Sequence[Row]) -> torch.Tensor:
        ids_BT, mask_BT = _padded(rows)
        logits_BTV: torch.Tensor = self.base.model(input_ids=ids_BT, attention_mask=mask_BT).logits
        return logits_BTV.float()

    def _counterfactual_logits(self, rows: Sequence[Row], edits: Sequence[Edit]) -> torch.Tensor:
        """(B, T, V) at the positions of the rows, the edits' texts before them cut off."""
        texts = [f"{edit.prompt} {edit.target_new} " for edit in edits]
        contexts = self.counterfactual.tokenizer(texts, add_special_tokens=False)["input_ids"]
        start = self.counterfactual.tokenizer.bos_token_id
        whole = []
        for row, context in zip(rows, contexts, strict=True):
            framed = int(start is not None and row.ids[0] == start)
            ids = (*row.ids[:framed], *context, *row.ids[framed:])
            whole.append(Row(row.query, ids, row.target))
        ids_BT, mask_BT = _padded(whole)
        logits_BTV = self.counterfactual.model(input_ids=ids_BT, attention_mask=mask_BT).logits
        width = max(len(row.ids) for row in rows)
        shift_B = torch.tensor([len(context) for context in contexts])
        place_BT = (shift_B[:, None] + torch.arange(width)).clamp(max=ids_BT.shape[1] - 1)
        found_BTV: torch.Tensor = logits_BTV[torch.arange(len(rows))[:, None], place_BT]
        return found_BTV

    def _encoded(self, texts: Sequence[str]) -> torch.Tensor:
        """(N, D) the encoder's first token, as EasyEdit takes a BERT's."""
        tokens = self._tokenizer(list(texts), return_tensors="pt", padding=True)
        vectors_ND: torch.Tensor = self.network(**tokens).last_hidden_state[:, 0]
        return vectors_ND

    def _encoded_in_parts(self, texts: Sequence[str]) -> torch.Tensor:
        parts = [
            self._encoded(texts[first : first + _MEASURED_AT_ONCE])
            for first in range(0, len(texts), _MEASURED_AT_ONCE)
        ]
        return torch.cat(parts)

    def _edit_rows(self, edits: Sequence[Edit], *, asked_by_prompt: bool = False) -> list[Row]:
        """Prompt and target in one row. The classifier sees both, as in EasyEdit, unless the edit
        is asked as one asks an edited model."""
        prompts = [edit.prompt for edit in edits]
        targets = [edit.target_new for edit in edits]
        rows = []
        for edit, pair in zip(edits, self.base.encode_pairs(prompts, targets), strict=True):
            first = len(pair.prompt) + pair.start
            last = len(pair.prompt) + pair.stop
            query = edit.prompt if asked_by_prompt else f"{edit.prompt} {edit.target_new}"
            rows.append(Row(query, (*pair.prompt, *pair.answer)[:last], slice(first, last)))
        return rows

    def _probe_rows(self, texts: Sequence[str]) -> list[Row]:
        ids: list[list[int]] = self.base.tokenizer(list(texts))["input_ids"]
        return [
            Row(text, tuple(row), slice(0, len(row))) for text, row in zip(texts, ids, strict=True)
        ]

    @staticmethod
    def _target_nll(mixed_TV: torch.Tensor, row: Row) -> torch.Tensor:
        """Of each token of the target, read one position before it."""
        ids_K = torch.tensor(row.ids[row.target])
        logits_KV = mixed_TV[row.target.start - 1 : row.target.stop - 1]
        return -log_softmax(logits_KV, -1)[torch.arange(len(ids_K)), ids_K]


def _batches(edits: Sequence[Edit], seed: int) -> Iterator[tuple[list[Edit], list[str]]]:
    """Batches of edits, and of each edit one locality probe with what is known to be its answer."""
    usable = [edit for edit in edits if edit.locality]
    epoch = 0
    while True:
        rng = Random(f"{seed}:{epoch}")
        order = rng.sample(usable, len(usable))
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            probes = [rng.choice(edit.locality) for edit in batch]
            yield batch, [f"{probe.prompt} {probe.ground_truth or ''}".strip() for probe in probes]
        epoch += 1


def _padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (B, T), padded on the right."""
    ids_BT = pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
    mask_BT = pad_sequence([torch.ones(len(row.ids), dtype=torch.long) for row in rows], True)
    return ids_BT, mask_BT

"""The frozen stage `pretrain-scope`: the long training whose result `data/scope_start` ships."""

from __future__ import annotations

import tempfile
from pathlib import Path

from serac_core.config import Params
from serac_core.edits.training_set import write_training_set
from serac_core.scope.loading import load_encoder
from serac_core.scope.start import save_start
from serac_core.scope.training import train


def pretrain_scope(
    world: str | Path, out: str | Path, params: Params, *, cache_dir: str | Path = ".serac/cache"
) -> dict[str, float]:
    """Train `models.encoder` on the world's training fold as `scope_start` says, and write to
    `out` what changed. Resumable, as :func:`serac_core.scope.training.train` is.

    Returns
    -------
    dict
        The figures of the last line of the training log, and `kept`: the share of the change
        that is written.

    Raises
    ------
    WorldError, TrainingSetError
        And what training raises.
    """
    config = params.scope_start
    with tempfile.TemporaryDirectory(prefix="serac-start-") as scratch:
        training_set, trained = Path(scratch) / "training", Path(scratch) / "model"
        write_training_set(world, training_set, params)
        figures = train(
            training_set,
            params.models.encoder,
            trained,
            config,
            seed=params.seed,
            cache_dir=cache_dir,
        )
        before, after = load_encoder(params.models.encoder), load_encoder(str(trained))
        kept = save_start(out, before, after, config.rank, trained / "log.jsonl")
    return {**figures, "kept": kept}

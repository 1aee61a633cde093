"""params.yaml: every key known, every value within its rule, errors that name both."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic.fields import FieldInfo

from serac_core.config import ConfigError, Params, load_params

ROOT = Path(__file__).parents[2]


def test_the_shipped_file_names_every_section_and_loads() -> None:
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert set(shipped) == set(Params.model_fields)
    assert load_params(ROOT / "params.yaml") == Params.model_validate(shipped)
    assert load_params(ROOT / "params.yaml").gate.exact_match == shipped["gate"]["exact_match"]


def test_every_key_is_described() -> None:
    def check(fields: dict[str, FieldInfo], path: str) -> None:
        for key, field in fields.items():
            nested = getattr(field.annotation, "model_fields", None)
            assert field.description or (nested and not path), f"{path}{key}"
            check(nested or {}, f"{path}{key}.")

    check(Params.model_fields, "")


def test_models_for_own_edits_have_every_setting_of_the_others() -> None:
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, settings in shipped["own_edits"].items():
        assert set(settings) == set(shipped[section])
    assert load_params(ROOT / "params.yaml").own_edits == Params().own_edits


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sede: 3\n", "sede: unknown key"),
        ("scope: {epochs: 3}\n", "scope.epochs"),
        ("scope: {batch_size: 1}\n", "scope.batch_size"),
        ("export: {variants: [fp64]}\n", "export.variants"),
        ("counterfactual: {precision: int8}\n", "counterfactual.precision"),
        ("seed: -1\n", "got -1"),
        (
            "retrain: {ramp: '200,50,all'}\n",
            "retrain.ramp: Value error, ramp '200,50,all': 50 comes",
        ),
        ("seed: [\n", "not readable as YAML"),
    ],
)
def test_a_bad_key_or_value_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_params(file)
    assert named in str(caught.value)
    assert "remedy" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_params(tmp_path / "params.yaml")

"""Every stage that the page on training shows is one, and it shows every procedure and optimizer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from binas.config import build, read_mapping, shipped_names
from binas.engine.optimizer import Name
from binas.train.stage import StageConfig

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS, ids=lambda text: text.split("\n")[0])
def test_a_shown_stage_is_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "stage.yaml").write_text(text)
    build(StageConfig, read_mapping(tmp_path / "stage.yaml"), "docs/training.md")


def test_the_page_is_complete() -> None:
    shown = {key for text in BLOCKS for key in yaml.safe_load(text)}
    extras = {"layerwise", "portions", "hashing", "weight_regularizer", "batch_norm_sparsity"}
    extras |= {"teacher", "compactness"}
    assert extras <= shown & set(StageConfig.model_fields)
    assert all(f"`{name}`" in PAGE for name in get_args(Name))
    assert set(re.findall(r"recipe\s+`(\w+)`", PAGE)) <= set(shipped_names("configs"))

"""The page on evolution: its commands run, its operators are some, its recipes are shipped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from binas.config import shipped_names
from binas.evolve.config import EvolveConfig, Operators
from binas.recipe import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "evolution.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()
]
RECIPES = [name for name in shipped_names("configs") if name.startswith("evolve_")]


def test_the_commands_run_in_their_order(
    binas: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        name, *words = shlex.split(command)
        shorter = ["--data.subset", "100", "--tensorboard", "false"]
        shorter += ["--evolve.training.stages.0.epochs", "1"] if words[0] == "evolve" else []
        status, _, error = binas(*words, *shorter)
        assert name == "binas" and status == 0, (command, error)


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
def test_shown_operators_are_some(text: str) -> None:
    assert Operators.model_validate(yaml.safe_load(text)) != Operators()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_evolve_what_their_name_says(name: str) -> None:
    recipe = load_recipe(name, {})
    search = next((search for search in ("groups", "joint") if search in name), "width")
    assert recipe.evolve.search == search
    assert recipe.evolve.evaluations % recipe.evolve.population == 0
    parts = {"joint": "predicted", "groups": "shared"}
    assert recipe.evolve.evaluation == parts.get(search, "shared" if "resnet" in name else "short")


def test_keys_that_the_page_names_exist() -> None:
    for key in re.findall(r"`evolve\.([a-z_.]+)", PAGE):
        model: type | None = EvolveConfig
        for part in key.split("."):
            assert model is not None and part in model.model_fields, key
            annotation = model.model_fields[part].annotation
            model = annotation if hasattr(annotation, "model_fields") else None

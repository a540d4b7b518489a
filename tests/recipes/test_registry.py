"""The registry: duplicates, unknown names, and the entries of plug-ins."""

from __future__ import annotations

import pytest

from binas.errors import UserError
from binas.registry import Registry, nearest


def filled() -> Registry[object]:
    registry: Registry[object] = Registry("operation")
    registry.register("binary_conv_3x3")(1)
    registry.register("max_pool_3x3")(2)
    return registry


def test_names_stand_for_what_was_registered() -> None:
    registry = filled()
    assert registry["binary_conv_3x3"] == 1 and registry.resolve("max_pool_3x3") == 2
    assert list(registry) == ["binary_conv_3x3", "max_pool_3x3"] and len(registry) == 2
    assert "max_pool_3x3" in registry and "skip" not in registry


def test_a_callable_is_accepted_where_a_name_is() -> None:
    assert filled().resolve(len) is len


def test_the_decorator_returns_what_it_decorates() -> None:
    @filled().register("mine")
    def mine() -> int:
        return 3

    assert mine() == 3


def test_an_unknown_name_says_what_was_meant_and_what_is_known() -> None:
    with pytest.raises(UserError) as caught:
        filled()["binary_conv3x3"]
    text = str(caught.value)
    assert "unknown operation 'binary_conv3x3'; did you mean 'binary_conv_3x3'?" in text
    assert "known: binary_conv_3x3, max_pool_3x3" in text
    with pytest.raises(UserError) as caught:
        filled()["zzz"]
    assert "did you mean" not in str(caught.value)


def test_nothing_known() -> None:
    assert nearest("a", []) == " known: none"


def test_a_name_twice_is_an_error_that_names_the_plugin() -> None:
    registry = filled()
    with pytest.raises(UserError, match="'max_pool_3x3' is registered already; choose another"):
        registry.register("max_pool_3x3")(3)
    with registry.loading_from("a.py"):
        registry.register("mine")(4)
    with pytest.raises(UserError, match=r"by a\.py"), registry.loading_from("b.py"):
        registry.register("mine")(5)
    assert registry["mine"] == 4


def cell_of_a_notebook(registry: Registry[object], name: str = "mine", *, replace: bool = False) -> object:
    """What running the same cell once more does: a new function of the same module and name."""

    @registry.register(name, replace=replace)
    def mine() -> None: ...

    return mine


def test_the_same_function_registers_again() -> None:
    registry = filled()
    first, second = cell_of_a_notebook(registry), cell_of_a_notebook(registry)
    assert first is not second and registry["mine"] is second and len(registry) == 3


def test_anothers_name_is_taken_with_replace_only() -> None:
    registry = filled()
    with pytest.raises(UserError, match="replace=True"):
        cell_of_a_notebook(registry, "max_pool_3x3")
    assert registry["max_pool_3x3"] == 2
    mine = cell_of_a_notebook(registry, "max_pool_3x3", replace=True)
    assert registry["max_pool_3x3"] is mine
    registry.register("unnamed")(lambda: 1)
    with pytest.raises(UserError, match="registered already"):  # nothing tells two of these apart
        registry.register("unnamed")(lambda: 2)


def test_what_a_plugin_replaced_comes_back_when_it_is_forgotten() -> None:
    registry = filled()
    for entry in (7, 8):
        with registry.loading_from("a.py"):
            assert registry["max_pool_3x3"] == 2
            registry.register("max_pool_3x3", replace=True)(entry)
        assert registry["max_pool_3x3"] == entry and registry.origin("max_pool_3x3") == "a.py"
    with registry.loading_from("a.py"):
        pass
    assert registry["max_pool_3x3"] == 2 and registry.origin("max_pool_3x3") == ""


def test_loading_a_plugin_again_replaces_its_entries() -> None:
    registry = filled()
    with registry.loading_from("a.py"):
        registry.register("old")(1)
        registry.register("kept")(2)
    assert registry.names_from("a.py") == ["old", "kept"] and registry.origin("kept") == "a.py"
    with registry.loading_from("a.py"):
        registry.register("kept")(3)
    assert "old" not in registry and registry["kept"] == 3
    assert registry.origin("max_pool_3x3") == ""


def test_a_plugin_that_raises_does_not_mark_later_entries() -> None:
    registry = filled()
    with pytest.raises(RuntimeError), registry.loading_from("a.py"):
        raise RuntimeError
    registry.register("own")(1)
    assert registry.origin("own") == ""

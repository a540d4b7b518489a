"""The page that says what becomes of each binarizer is what its tool writes."""

from __future__ import annotations

import pytest

from tools.counts import exported_binarizers as tool


@pytest.mark.slow
def test_the_page_is_up_to_date() -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page()


def test_one_of_each_kind() -> None:
    assert tool.row({"name": "sign"}, 0) == ["1 bit × 1 bit", "1-bit", "1-bit", "float operators"]
    assert tool.row({"name": "dorefa", "bits": 3}, 1)[0] == "1 bit × 3 planes"
    assert tool.row({"name": "syq"}, 1)[1:] == ["float", "float", "float operators"]

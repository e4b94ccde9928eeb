"""The table of figures."""

import pytest
from tests.torture.conftest import BEGIN, END, Kind, with_table


def test_the_table_replaces_the_one_before() -> None:
    kinds = {"b": Kind(20, 1, "one line"), "a": Kind(1000, 0, "the same bits")}
    page = with_table(f"start\n{BEGIN}\nold\n{END}\nend\n", kinds)
    assert page.startswith("start\n") and page.endswith("\nend\n") and "old" not in page
    rows = [row for row in page.splitlines() if row.startswith("|")][2:]
    assert rows == ["| a | 1,000 | the same bits | 0 |", "| b | 20 | one line | 1 |", "| all | 1,020 | | 1 |"]
    with pytest.raises(ValueError, match="torture"):
        with_table("no markers", kinds)

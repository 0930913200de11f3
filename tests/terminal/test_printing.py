"""Tables that fit the terminal, and rows for programs."""

from typing import Any

import pytest
from rich.console import Console

from raytrail import words
from raytrail.terminal import printing
from raytrail.terminal.printing import Field, table

TASK_ID = "c8ef45ccd0112571ffffffffffffffffffffffff01000000"


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of so many columns."""

    def terminal(width):
        monkeypatch.setattr(printing, "_console", lambda: Console(width=width, highlight=False))

    return terminal


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_columns_that_do_not_fit_are_left_out_the_least_interesting_first(terminal, capsys):
    terminal(30)
    fields = [Field("a"), Field("b", rank=1), Field("c", rank=2)]
    rows = [{"a": "x" * 10, "b": "y" * 10, "c": "z" * 10}]
    assert table(fields, rows) == ["c"]
    assert lines(capsys) == ["a           b", "xxxxxxxxxx  yyyyyyyyyy"]


def test_a_whole_column_is_never_cut_wrapped_or_left_out(terminal, capsys):
    terminal(20)
    assert table([Field("task_id", whole=True), Field("name", rank=1)], [{"task_id": TASK_ID, "name": "f"}]) == ["name"]
    assert lines(capsys) == ["task_id", TASK_ID]


def test_ids_are_cut_to_their_first_letters_on_a_terminal_alone(terminal, capsys):
    fields, rows = [Field("name"), Field("task_id", id=True)], [{"task_id": TASK_ID, "name": "f"}]
    table(fields, rows)
    assert lines(capsys) == ["name  task_id", f"f     {TASK_ID}"]
    terminal(80)
    table(fields, rows)
    assert lines(capsys) == ["name  task_id", f"f     {TASK_ID[:16]}…"]


def test_a_long_cell_makes_no_row_slow(capsys):
    # at 20,000 spaces in each of the other rows, a search from each of them would take minutes
    rows = [{"text": "x" * 20_000, "n": 0}, *({"text": "", "n": number} for number in range(5))]
    table([Field("text"), Field("n")], rows)
    assert [len(line) for line in lines(capsys)] == [20_003] * 7


@pytest.mark.parametrize(
    ("ids", "told_apart"),
    [
        (["ab" * 24, "cd" * 24, None], True),
        ([TASK_ID, TASK_ID[:20] + "0" * 28], False),
        (["f" * 40 + "01000000"], False),
    ],
)
def test_ids_are_cut_where_their_first_letters_tell_them_apart(ids, told_apart):
    assert printing.told_apart_by_beginnings(ids) == told_apart


def test_states_have_colours_and_no_line_ends_in_spaces(monkeypatch, capsys):
    monkeypatch.setattr(
        printing, "_console", lambda: Console(width=80, highlight=False, force_terminal=True, color_system="standard")
    )
    rows = [{"name": "FAILED", "state": state} for state in ("FAILED", "FINISHED", "PENDING_CREATION")]
    table([Field("name"), Field("state")], rows)
    _, *shown = lines(capsys)
    assert shown == [
        "FAILED  \x1b[31mFAILED\x1b[0m",
        "FAILED  \x1b[32mFINISHED\x1b[0m",
        "FAILED  PENDING_CREATION",
    ]


def test_long_texts_are_cut_and_take_what_room_the_others_leave(terminal, capsys):
    rows = [{"text": "word " * 20, "n": 1}]
    terminal(60)
    table([Field("text"), Field("n")], rows)
    # what is left over of 60 goes to the text
    assert [len(line) for line in lines(capsys)] == [58, 58]
    terminal(30)
    table([Field("text"), Field("n")], rows)
    assert lines(capsys)[1].split("  ")[0].endswith("…")


def test_off_a_terminal_nothing_is_cut(capsys):
    text = "word " * 100
    assert table([Field("a"), Field("b", rank=1)], [{"a": text, "b": text}]) == []
    assert lines(capsys)[1] == f"{text.strip()}  {text.strip()}"


def test_numbers_stand_to_the_right_and_times_are_readable(terminal, capsys):
    terminal(80)
    rows: list[dict[str, Any]] = [{"n": 5, "at_ms": 1_795_419_718_123}, {"n": 12345, "at_ms": None}]
    table([Field("n"), Field("at_ms")], rows)
    assert lines(capsys) == ["    n  at_ms", "    5  2026-11-23 07:41:58.123Z", "12345"]


def test_letters_that_take_two_cells_keep_the_columns_straight(terminal, capsys):
    terminal(80)
    table([Field("name"), Field("state")], [{"name": "訓練", "state": "A"}, {"name": "f", "state": "B"}])
    assert lines(capsys) == ["name  state", "訓練  A", "f     B"]


def test_line_breaks_markup_and_what_steers_a_terminal_are_only_text(terminal, capsys):
    terminal(80)
    text = "[red]a\n\x1b[36mray::f()\x1b[39m[/red] \x1b]0;title\x07"
    table([Field("name")], [{"name": text}])
    assert lines(capsys)[1] == "[red]a ray::f()[/red] \ufffd]0;title\ufffd"
    printing.record({"name": text})
    assert lines(capsys) == ["name  [red]a", "      ray::f()[/red] \ufffd]0;title\ufffd"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
     (2_100_000_000, "2.1 GB"), (3 * 10**15, "3000.0 TB")],
)  # fmt: skip
def test_sizes_are_in_decimal_units(count, text):
    assert words.size(count) == text


def test_a_row_in_full_leaves_out_what_is_not_known_and_says_so(capsys):
    events = [{"state": "A" * 40}, {"s": "B" * 40}]
    printing.record({"name": "f", "error": None, "message": "one\ntwo", "events": events})
    done = capsys.readouterr()
    assert done.out.splitlines() == [
        "name     f",
        "message  one",
        "         two",
        "events   [",
        '           {"state":"' + "A" * 40 + '"},',
        '           {"s":"' + "B" * 40 + '"}',
        "         ]",
    ]
    assert done.err == "not known: error\n"


def test_whole_numbers_of_any_size_are_written(capsys):
    printing.write_json([{"n": 2**100}, {"n": 1}])
    assert capsys.readouterr().out == '[\n{"n":1267650600228229401496703205376},\n{"n":1}\n]\n'


def test_a_file_is_replaced_only_when_all_is_written(tmp_path):
    def rows():
        yield {"n": 1}
        raise OSError("the disk is full")

    target = tmp_path / "rows.json"
    target.write_text("old")
    with pytest.raises(OSError, match="full"):
        printing.write_json(rows(), target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]

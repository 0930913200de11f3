from hypothesis import given
from hypothesis import strategies as st

from raytrail.sources.snapshots import Changes, Snapshots

answers = st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 2)), max_size=8)


def folded(state, changes, answer):
    return {key: value for key, value in state.items() if key not in changes.deleted} | {
        key: answer[key] for key in (*changes.created, *changes.updated)
    }


@given(answers)
def test_the_changes_add_up_to_the_last_answer(answers):
    snapshots: Snapshots[int] = Snapshots(100)
    state: dict[int, int] = {}
    for answer in answers:
        changes = snapshots.take(answer)
        assert not state.keys() & set(changes.created)
        assert all(state[key] != answer[key] for key in changes.updated)
        state = folded(state, changes, answer)
        assert state == answer


@given(st.lists(st.tuples(st.dictionaries(st.integers(0, 9), st.integers(0, 2)), st.booleans()), max_size=8))
def test_what_an_answer_that_was_cut_short_lacks_is_still_there(answers):
    snapshots: Snapshots[int] = Snapshots(100)
    state: dict[int, int] = {}
    for answer, whole in answers:
        changes = snapshots.take(answer, whole=whole)
        expected = answer if whole else state | answer
        state = folded(state, changes, answer)
        assert state == expected


@given(st.lists(st.dictionaries(st.integers(0, 99), st.integers(0, 2), max_size=10), max_size=20))
def test_answers_that_are_cut_short_fill_no_memory(answers):
    snapshots: Snapshots[int] = Snapshots(20)
    for answer in answers:
        snapshots.take(answer, whole=False)
        assert len(snapshots._known) <= 20
        assert answer.items() <= snapshots._known.items(), "of the newest nothing is forgotten"


def test_what_another_process_left_is_not_new_and_goes_when_it_has():
    snapshots: Snapshots[str] = Snapshots(100)
    snapshots.remember(["a", "b"])
    assert snapshots.take({"b": 1, "c": 1}) == Changes(["c"], ["b"], ["a"])

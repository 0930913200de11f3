import os

from raytrail.sources.event_file import EventFiles
from raytrail.sources.recall import recall


def test_what_was_written_is_recalled_in_its_order_rotated_files_and_other_processes_among_it(tmp_path):
    events = EventFiles(tmp_path, rotation_bytes=400)
    for number in range(6):
        events.append("A", {"number": number})
        events.append("A_GAP", {"number": -1})
    other = tmp_path / "event_EXPORT_A_1.log"
    other.write_bytes(b'{"event_data":{"number":-2}}\n')
    os.utime(other, (1, 1))
    assert [row["number"] for row in recall(tmp_path, "A", most_bytes=10**6)] == [-2, 0, 1, 2, 3, 4, 5]


def test_of_too_much_the_oldest_files_are_left_out(tmp_path):
    for age, name in enumerate(["event_EXPORT_A_1.log.1", "event_EXPORT_A_1.log", "event_EXPORT_A_2.log"]):
        (tmp_path / name).write_bytes(b'{"event_data":{"number":%d}}\n' % age)
        os.utime(tmp_path / name, (age, age))
    size = (tmp_path / "event_EXPORT_A_1.log").stat().st_size
    assert [row["number"] for row in recall(tmp_path, "A", most_bytes=2 * size)] == [1, 2]


def test_what_is_no_event_is_passed_over(tmp_path):
    (tmp_path / "event_EXPORT_A_1.log").write_bytes(
        b'{"event_data":{"n\n\xff\n[]\n{"event_data":1}\n{"event_data":{}}\n'
    )
    (tmp_path / "event_EXPORT_A_2.log").mkdir()
    assert list(recall(tmp_path, "A", most_bytes=10**6)) == [{}]
    assert list(recall(tmp_path / "absent", "A", most_bytes=10**6)) == []

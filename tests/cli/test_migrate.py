"""``raytrail migrate``: what it would do, and does."""

import tarfile

from tests.store.fixtures.make_store import HERE


def test_it_says_what_it_adds_and_adds_it_once(run, tmp_path):
    with tarfile.open(HERE / "store-0.1.0-b7e3c79.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    flags = ("--store", tmp_path / "store")
    for _ in range(2):
        result = run("migrate", "--dry-run", *flags)
        assert (
            result.stdout == "layout 6: holds, and which sessions were deleted. A Raytrail must know it once one was\n"
        )
        assert "nothing was changed" in result.output
    assert run("migrate", *flags).output.endswith("done\n")
    assert run("migrate", *flags).output == "the history has the newest layout\n"

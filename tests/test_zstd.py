"""One Zstandard for all backends, whichever Python has."""

import tracemalloc

import pytest

from raytrail.zstd import ZstdError, compress, decompress, decompress_at_most

DATA = b'{"event_data":{}}\n' * 10_000


def test_what_was_compressed_comes_back():
    assert decompress(compress(DATA, 1)) == DATA


@pytest.mark.parametrize("damaged", [b"", b"no frame", compress(DATA, 1)[:-20], compress(DATA, 1)[:8]])
def test_what_was_cut_off_or_is_no_frame_is_an_error(damaged):
    with pytest.raises(ZstdError):
        decompress(damaged)


def test_what_somebody_else_compressed_is_no_more_than_is_asked_for():
    packed, bomb = compress(DATA, 1), compress(bytes(200_000_000), 1)
    assert decompress_at_most(packed, len(DATA)) == DATA
    with pytest.raises(ZstdError, match=f"it holds more than {len(DATA) - 1} bytes"):
        decompress_at_most(packed, len(DATA) - 1)
    tracemalloc.start()
    try:
        with pytest.raises(ZstdError, match="it holds more than 1000000 bytes"):
            decompress_at_most(bomb, 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000


@pytest.mark.parametrize("damaged", [b"", b"no frame", compress(DATA, 1)[:-20], compress(DATA, 1)[:8]])
def test_what_somebody_else_cut_off_is_an_error(damaged):
    with pytest.raises(ZstdError):
        decompress_at_most(damaged, len(DATA))

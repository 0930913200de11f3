"""One Zstandard for all backends, whichever Python has."""

import pytest

from raytrail.zstd import ZstdError, compress, decompress

DATA = b'{"event_data":{}}\n' * 10_000


def test_what_was_compressed_comes_back():
    assert decompress(compress(DATA, 1)) == DATA


@pytest.mark.parametrize("damaged", [b"", b"no frame", compress(DATA, 1)[:-20], compress(DATA, 1)[:8]])
def test_what_was_cut_off_or_is_no_frame_is_an_error(damaged):
    with pytest.raises(ZstdError):
        decompress(damaged)

import pytest
from tests.sources import posted


@pytest.fixture(scope="session")
def captured():
    """All batches that a real Ray posted."""
    return posted.captured()

"""Property tests try the same examples on every machine, however slow it is."""

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list) -> None:
    "Notebooks take longest, so they start first."
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)

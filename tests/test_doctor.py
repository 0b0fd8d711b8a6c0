"""What a machine lacks is said without naming anybody, and nothing but caches is removed."""

import pytest
from huggingface_hub import constants

from clipsent_nb import doctor
from clipsent_nb.files import Workspace


def test_only_caches_are_removed_and_of_links_only_the_link(tmp_path):
    cache, elsewhere = tmp_path / "outputs/cache", tmp_path / "elsewhere"
    for folder in (cache / "pixels/ab", cache / "mine", elsewhere):
        folder.mkdir(parents=True)
        (folder / "file").write_text("kept")
    (cache / "linked").symlink_to(elsewhere)
    (cache / "pixels/link").symlink_to(elsewhere)
    said = doctor.clean_cache(Workspace(tmp_path))
    assert said.splitlines() == ["pixels: 0.0 kB removed"] and not list((cache / "pixels").iterdir())
    assert [path.name for path in sorted(elsewhere.iterdir())] == ["file"] and (cache / "mine/file").is_file()
    (cache / "tokens/cd").mkdir(parents=True)
    assert doctor.clean_cache(Workspace(tmp_path), ("tokens", "tokens")).count("tokens") == 1


def test_a_password_of_a_mirror_is_not_told(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://me:s3cret@mirror.example/hf?key=abc")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert doctor.check_hub(ask=False).found == "https://mirror.example/hf, not asked; --ask-hub does"


@pytest.mark.parametrize("below", [".", "outputs", "a/b"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, below):
    (tmp_path / "file").write_text("")
    found = doctor.check_folder("outputs", tmp_path / "file" / below)
    assert found.todo and f"since {tmp_path / 'file'} is a file" in found.found

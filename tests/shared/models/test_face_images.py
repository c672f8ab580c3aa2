import cv2
import numpy as np
import pytest

from moretta.shared.core.errors import CorpusError
from moretta.shared.models import head
from moretta.shared.models.face_images import (
    FIRST_PUBLIC_IDENTITY,
    PICTURES_PER_PERSON,
    image_files,
    read_face_images,
    render_face_images,
)


@pytest.fixture
def folder(tmp_path):
    """As FFHQ lies on disk, with two files that cannot be read and one that is no picture."""
    for number in (1, 2, 3):
        place = tmp_path / "00000" / f"{number:05d}.png"
        place.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(place), np.full((40, 40, 3), (0, 0, 60 * number), np.uint8))
    (tmp_path / "00000" / "00000.png").write_bytes(b"\x89PNG but broken")
    (tmp_path / "00000" / "00002b.JPG").write_bytes(b"")
    (tmp_path / "LICENSE.txt").write_text("text")
    return tmp_path


def read(folder, **options):
    return read_face_images(folder, image_files(folder), 16, workers=1, **options)


def test_pictures_are_found_in_any_depth_and_broken_ones_counted(folder):
    images = read(folder)
    assert [int(picture[0, 0, 0]) for picture in images.pictures] == [60, 120, 180]  # red, so RGB
    assert [drop.file for drop in images.dropped] == ["00000/00000.png", "00000/00002b.JPG"]
    assert images.centred == 3


def test_every_file_is_reported(folder):
    reported = []
    read(folder, step=lambda: reported.append(1))
    assert len(reported) == 5


def test_two_processes_give_what_one_gives(folder):
    two = read_face_images(folder, image_files(folder), 16, workers=2)
    np.testing.assert_array_equal(two.pictures, read(folder).pictures)
    assert two.dropped == read(folder).dropped


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="no picture"):
        image_files(tmp_path)
    with pytest.raises(CorpusError, match="does not exist"):
        image_files(tmp_path / "nowhere")


def test_folder_of_broken_pictures_is_refused(folder):
    broken = [folder / "00000" / "00000.png"]
    with pytest.raises(CorpusError, match="none of the 1 pictures"):
        read_face_images(folder, broken, 16, workers=1)


def test_nothing_is_left_on_disk(folder, tmp_path_factory, monkeypatch):
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    read(folder)
    assert list(scratch.iterdir()) == []


def test_public_people_are_seeded_and_nobody_of_the_corpus(monkeypatch):
    seen = []
    make = head.make_identity
    monkeypatch.setattr("moretta.shared.models.head.make_identity", lambda seed: seen.append(seed) or make(seed))
    one, same, other = (render_face_images(1, 32, seed=seed, workers=1) for seed in (1, 1, 2))
    assert one.pictures.shape == (PICTURES_PER_PERSON, 32, 32, 3)
    np.testing.assert_array_equal(one.pictures, same.pictures)
    assert (one.pictures != other.pictures).any()
    assert min(seen) >= FIRST_PUBLIC_IDENTITY
    assert len(set(seen)) == 2
